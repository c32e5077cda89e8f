"""What tasks write."""

from django.db import models


class Note(models.Model):
    """A line of text."""

    text = models.TextField()
