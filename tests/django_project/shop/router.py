"""Which database has which tables."""

from typing import Any

from django.conf import settings


class Router:
    """Only the app of pgq has tables in the database "other"; a setting may send its jobs there."""

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        """Return the alias of a setting for jobs, where there is one."""
        return getattr(settings, "JOBS_IN", None) if model._meta.app_label == "pgq" else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Refuse all other apps in "other", and pgq where a setting forbids it."""
        if app_label == "pgq":
            return db not in getattr(settings, "NO_PGQ_IN", ())
        return False if db == "other" else None
