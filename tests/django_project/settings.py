"""Two databases with pgq, one of SQLite, and a backend for each use."""

import os
from importlib.util import find_spec
from typing import Any

SECRET_KEY = "of no use outside the tests"
USE_TZ = True
TIME_ZONE = "Asia/Tokyo"
# With Django 5 the framework is the backport.
BACKPORT = find_spec("django.tasks") is None
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "pgq.django",
    "shop",
    *(["django_tasks"] if BACKPORT else []),
]
# Without their migrations the tables are made in a third of the time.
MIGRATION_MODULES = dict.fromkeys(("admin", "auth", "contenttypes", "sessions"))
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "django.template.context_processors.request",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SERVER: dict[str, Any] = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": os.environ["PGHOST"],
    "PORT": os.environ["PGPORT"],
    "USER": os.environ["PGUSER"],
}
NAME = os.environ.get("DJANGO_DATABASE", "django")
DATABASES = {
    "default": {**SERVER, "NAME": NAME},
    "other": {**SERVER, "NAME": f"{NAME}_other"},
    "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
DATABASE_ROUTERS = ["shop.router.Router"]
BACKEND = "pgq.django.backend.PgqBackend"
TASKS = {
    "default": {"BACKEND": BACKEND, "QUEUES": []},
    "other": {
        "BACKEND": BACKEND,
        "QUEUES": ["mail", "pictures"],
        "OPTIONS": {"database": "other", "max_retries": 3, "backoff": "10 minutes"},
    },
}
