"""
Fixtures of pytest: the jobs of a test, which are gone when it ends.

They need the extra ``pgq-jobs[testing]``. A test that uses none of them does not import what they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

    from pgq.handlers import Handlers
    from pgq.testing import Jobs


@pytest.fixture
def pgq_connection(request: pytest.FixtureRequest) -> psycopg.Connection[Any]:
    """
    The connection of the test: Django's with pytest-django, or that of pytest-postgresql; override it for another one.

    Its database is one for tests, and pytest-xdist needs one for each of its processes.
    """
    if _uses_django(request.config):
        request.getfixturevalue("db")
        from django.db import connections  # noqa: PLC0415 - where there is no Django

        from pgq.django.schema import raw  # noqa: PLC0415 - as above

        return raw(connections["default"])
    if request.config.pluginmanager.hasplugin("pytest_postgresql"):
        conn: psycopg.Connection[Any] = request.getfixturevalue("postgresql")
        return conn
    raise pytest.UsageError(
        "pgq_jobs needs a connection: define a fixture pgq_connection that returns a psycopg.Connection, or use "
        "pytest-postgresql or pytest-django"
    )


@pytest.fixture
def pgq_handlers() -> Handlers:
    """The registry of the handlers that run: that of ``@pgq.handler``; override it for another one."""
    from pgq import handlers  # noqa: PLC0415 - only for tests that use it

    return handlers.default


@pytest.fixture
def pgq_jobs(
    request: pytest.FixtureRequest, pgq_connection: psycopg.Connection[Any], pgq_handlers: Handlers
) -> Iterator[Jobs]:
    """
    The jobs of the test, which is in a transaction that is rolled back.

    pgq and its test kit are installed in the database where they are missing.
    """
    from pgq.testing import Jobs  # noqa: PLC0415 - only for tests that use it
    from pgq.testing.kit import is_prepared, prepare_like  # noqa: PLC0415 - as above
    from pgq.worker.inline import InlineWorker  # noqa: PLC0415 - as above

    if not is_prepared(pgq_connection):
        prepare_like(pgq_connection)
    with ExitStack() as stack:
        if _uses_django(request.config) and (alias := _alias_of(pgq_connection)) is not None:
            from pgq.django.testing import DjangoWorker, rolled_back  # noqa: PLC0415 - where there is no Django

            stack.enter_context(rolled_back(alias))
            worker: InlineWorker = DjangoWorker(alias)
        else:
            stack.enter_context(pgq_connection.transaction(force_rollback=True))
            worker = InlineWorker(pgq_connection, pgq_handlers)
        yield Jobs(worker, stack.enter_context(ExitStack()))


def _uses_django(config: pytest.Config) -> bool:
    """Return whether pytest-django has set Django up."""
    if not config.pluginmanager.hasplugin("django"):
        return False
    from django.conf import settings  # noqa: PLC0415 - where there is no Django

    return bool(settings.configured)


def _alias_of(conn: psycopg.Connection[Any]) -> str | None:
    """Return the name of the database of Django's that has this connection."""
    from django.db import connections  # noqa: PLC0415 - where there is no Django

    return next((alias for alias in connections if connections[alias].connection is conn), None)
