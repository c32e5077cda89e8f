"""The only page."""

from django.urls import path

from reminders.views import reminders

urlpatterns = [path("reminders", reminders, name="reminders")]
