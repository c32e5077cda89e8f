"""System checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as Caution
from django.db import DatabaseError, connections
from django.db.utils import ConnectionDoesNotExist

from pgq import handlers
from pgq.django.schema import raw
from pgq.schema.install import installed_version
from pgq.version import driver_version, parse_version

if TYPE_CHECKING:
    from pgq.django.backend import PgqBackend

# Kinds that wait are looked for among so many jobs.
SAMPLE = 1000


def check_backend(backend: PgqBackend) -> list[CheckMessage]:
    """Return what is wrong with the settings of a backend."""
    from pgq.django.backend import OPTIONS  # noqa: PLC0415 - the backend needs this module

    where = f'TASKS["{backend.alias}"]'
    found = [
        Error(f'{where}: unknown option "{name}"', f"Use one of {', '.join(sorted(OPTIONS))}.", id="pgq.E003")
        for name in sorted(set(backend.options) - OPTIONS)
    ]
    if not apps.is_installed("pgq.django"):
        return [*found, Error(f"{where}: the app is missing", 'Add "pgq.django" to INSTALLED_APPS.', id="pgq.E001")]
    alias = backend.database
    try:
        vendor = connections[alias].vendor
    except ConnectionDoesNotExist:
        return [*found, Error(f'{where}: there is no database "{alias}"', "Name one of DATABASES.", id="pgq.E002")]
    if vendor != "postgresql":
        hint = 'Name a database whose ENGINE is "django.db.backends.postgresql" as OPTIONS["database"].'
        found.append(Error(f'{where}: the database "{alias}" is not PostgreSQL', hint, id="pgq.E002"))
    return found


# A warning, whatever is found: an error would keep migrate from mending it.
@register(Tags.database)
def check_databases(
    app_configs: object = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Return what is wrong with pgq in these databases, those that a backend uses."""
    from pgq.django.backend import backends  # noqa: PLC0415 - after all apps are there

    used = {backend.database: backend for backend in backends().values()}
    found: list[CheckMessage] = []
    for alias in databases or ():
        if alias in used and connections[alias].vendor == "postgresql":
            found += check_database(alias)
    return found


def check_database(alias: str) -> Iterator[CheckMessage]:
    """Return what is wrong with the version of the SQL, and which jobs wait that no code of this project takes."""
    version = installed_version(raw(connections[alias]), None)
    if version is None:
        hint = f"Run manage.py migrate --database {alias}."
        yield Caution(f'pgq is not installed in the database "{alias}"', hint, id="pgq.W001")
        return
    there, needed = parse_version(version), parse_version(driver_version())
    if there < needed:
        hint = f"Run pgq upgrade, or the migration of pgq {driver_version()} by manage.py migrate --database {alias}."
        yield Caution(
            f'the SQL of pgq in the database "{alias}" is {version}, and the driver {driver_version()}', hint,
            id="pgq.W002",
        )  # fmt: skip
        return
    yield from check_kinds(alias)


def check_kinds(alias: str) -> Iterator[CheckMessage]:
    """Return the kinds among the oldest waiting jobs that are neither tasks nor have a handler."""
    from pgq.django.run import register as register_tasks  # noqa: PLC0415 - after all apps are there

    register_tasks()
    jobs = apps.get_model("pgq", "Job").objects.using(alias).filter(state="waiting")
    oldest = jobs.order_by("id").values("queue", "kind")[:SAMPLE]
    try:
        waiting = sorted({(job["queue"], job["kind"]) for job in oldest})
    except DatabaseError:
        # The role may not read the jobs.
        return
    for queue, kind in waiting:
        if handlers.default.get(kind) is None:
            command = f"pgq cancel --queue {quote(queue)} --kind {quote(kind)}"
            hint = f"Deploy the code that has this task, or cancel the jobs: {command}"
            yield Caution(f'jobs of kind "{kind}" wait in queue "{queue}": no task has this path', hint, id="pgq.W003")
