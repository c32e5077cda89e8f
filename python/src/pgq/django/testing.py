"""For tests in Django's TestCase: run the jobs that were enqueued in the transaction of the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connections, transaction

from pgq import handlers as registry
from pgq.django.run import register
from pgq.django.schema import raw
from pgq.worker.inline import InlineWorker


class DjangoWorker(InlineWorker):
    """Run tasks and handlers on a connection of Django's, in its transaction."""

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        register()
        self._connection = connections[using]
        super().__init__(raw(self._connection), registry.default)

    def is_broken(self) -> bool:
        """Return whether the transaction cannot go on, for PostgreSQL or for Django."""
        return super().is_broken() or bool(self._connection.needs_rollback)

    def mend(self) -> None:
        """Let Django go on."""
        self._connection.set_rollback(False)


def run_ripe(using: str = DEFAULT_DB_ALIAS, queues: Sequence[str] | None = None) -> int:
    """
    Run the jobs that are ripe, until none is, on a connection of Django's and in its transaction; return how many ran.

    Without ``queues`` these are all queues. Each transaction of a worker is a savepoint. A task that fails waits for
    its backoff, or is dead, as with a worker. Jobs without a task or a handler stay.
    """
    worker = DjangoWorker(using)
    with transaction.atomic(using):
        ends = worker.drain(queues)
    return ends.total() - ends["declined"]


@contextmanager
def rolled_back(using: str) -> Iterator[None]:
    """Undo at the end what is written in this context."""
    with transaction.atomic(using):
        yield
        transaction.set_rollback(True, using)
