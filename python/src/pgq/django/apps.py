"""The app, for INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig


class PgqConfig(AppConfig):
    """``"pgq.django"`` in INSTALLED_APPS; its label is ``pgq``."""

    name = "pgq.django"
    label = "pgq"
    verbose_name = "pgq"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from pgq.django import checks  # noqa: F401, PLC0415 - after all apps are there
