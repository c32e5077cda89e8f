"""
The settings. PGDATABASE and libpq's other variables say where the database is, and REMINDERS_URL where the chat is.

    DJANGO_SETTINGS_MODULE=settings gunicorn --threads 4 "django.core.wsgi:get_wsgi_application()"
"""

import os
from importlib.util import find_spec

SECRET_KEY = os.environ.get("SECRET_KEY", "an example")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["pgq.django", "reminders"]
if find_spec("django.tasks") is None:
    # Django 5 with the package django-tasks.
    INSTALLED_APPS.append("django_tasks")
TASKS = {"default": {"BACKEND": "pgq.django.backend.PgqBackend"}}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("PGDATABASE", "reminders"),
        # Each request is a transaction, which commits when its view returns, and rolls back when it raises.
        "ATOMIC_REQUESTS": True,
    }
}
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware"]
ROOT_URLCONF = "reminders.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
REMINDERS_URL = os.environ.get("REMINDERS_URL", "")
