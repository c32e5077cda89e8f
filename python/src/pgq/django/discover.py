"""
Register the tasks of a Django project when this module is imported: ``pgq worker pgq.django.discover``.

DJANGO_SETTINGS_MODULE names the project, where Django is not set up yet.
"""

import django
from django.apps import apps

if not apps.ready:
    django.setup()

# isort: split
from pgq.django.run import register

register()
