"""The one call that a loop makes for each batch: settle what is done, and claim the next jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from struct import pack
from typing import Any, Final

import psycopg
from psycopg.adapt import Dumper, Transformer
from psycopg.pq import Format, TransactionStatus
from psycopg.pq.abc import PGresult

from pgq.convert import interval
from pgq.errors import translated
from pgq.job import Claim
from pgq.worker.calls import WorkerQueue

# The columns that are converted at once; and by the name of the attribute those that few handlers read, which are
# converted at their first use. By then the connection may be lost, which the loaders of text and times ask
# once. So there is text and a time among the former.
READ: Final = ("lost", "token", "lease_until", "suspect", "ids", "kinds", "args", "attempts")
UNREAD: Final = {
    "queue": "queue_names",
    "max_retries": "max_retries",
    "priority": "priorities",
    "ripe_at": "ripe_ats",
    "enqueued_at": "enqueued_ats",
    "context": "contexts",
    "group_key": "group_keys",
    "saved": "saved",
}
INT8: Final = psycopg.postgres.types["int8"]


class Numbers:
    """An array of bigint as PostgreSQL receives it: psycopg would adapt the elements of a list one by one."""

    __slots__ = ("data",)

    def __init__(self, numbers: Sequence[int]) -> None:
        if not numbers:
            self.data = pack("!iii", 0, 0, INT8.oid)
            return
        count = len(numbers)
        # One dimension, no NULL, the first index 1; then the length of each number, and the number.
        values = [8] * (2 * count)
        values[1::2] = numbers
        self.data = pack(f"!iiiii{'iq' * count}", 1, 0, INT8.oid, count, 1, *values)


class NumbersDumper(Dumper):
    """Pass ``Numbers`` to the server."""

    format = Format.BINARY
    oid = INT8.array_oid

    def dump(self, obj: Numbers) -> bytes:
        """Return the array; psycopg calls this."""
        return obj.data


class Turn:
    """
    Call pgq_claim_batch through one connection.

    The statement is prepared at its first use, where the connection allows that, and its cursor is kept: a job that is
    claimed alone would pay for both.
    """

    def __init__(self, queue: WorkerQueue) -> None:
        self.queue = queue
        self._cursor = psycopg.Cursor(queue.conn)
        self._cursor.format = Format.BINARY
        self._cursor.adapters.register_dumper(Numbers, NumbersDumper)
        self._transformer = Transformer.from_context(self._cursor)
        call = (
            f"{queue._prefix}pgq_claim_batch(%s::text[], %s::bigint, %s::interval, %s::text, %s, %s, %s::bigint, "
            "%s::boolean)"
        )
        columns = ", ".join([*READ, *UNREAD.values()])
        self._settle_and_claim = f"SELECT {columns} FROM {call}"
        # The commit of a claim that settles nothing does not wait for the disk.
        self._claim_only = (
            f"SELECT {columns} FROM set_config('synchronous_commit', 'off', true) CROSS JOIN LATERAL {call}"
        )

    def __call__(
        self,
        done: Sequence[tuple[int, int]],
        queues: Sequence[str],
        max_jobs: int,
        lease: timedelta,
        worker: str,
        max_bytes: int,
        packed: bool,
    ) -> tuple[list[int], Claim | None]:
        """
        Complete jobs, given by id and token, and claim others; return the ids of those that were lost, and the claim.

        In autocommit mode this is one statement and one transaction. A crash of the server may undo a claim that
        completes nothing: then the jobs are ripe again, and their attempts not counted.
        """
        conn = self.queue.conn
        alone = not done and conn.autocommit and conn.pgconn.transaction_status == TransactionStatus.IDLE
        query = self._claim_only if alone else self._settle_and_claim
        ids, tokens = zip(*done, strict=True) if done else ((), ())
        values = (list(queues), max_jobs, interval(lease), worker, Numbers(ids), Numbers(tokens), max_bytes, packed)
        try:
            self._cursor.execute(query, values, prepare=True)
        except psycopg.Error:
            with translated(conn, query):
                raise
        result = self._cursor.pgresult
        assert result is not None
        lost, claim = self._read(result)
        if claim is not None:
            claim.packed = packed
        return lost, claim

    def _read(self, result: PGresult) -> tuple[list[int], Claim | None]:
        lost = self._column(result, 0)()
        token = self._column(result, 1)()
        if token is None:
            return lost, None
        lease_until, suspect, ids, kinds, payloads, attempts = (
            self._column(result, number)() for number in range(2, len(READ))
        )
        unread = {name: self._column(result, number) for number, name in enumerate(UNREAD, len(READ))}
        return lost, Claim(token, lease_until, suspect, ids, kinds, payloads, attempts, unread)

    def _column(self, result: PGresult, number: int) -> Callable[[], Any]:
        """Return a function that converts a value of the result, of which it has a copy."""
        value = result.get_value(0, number)
        if value is None:
            return nothing
        return partial(self._transformer.get_loader(result.ftype(number), Format.BINARY).load, value)


def nothing() -> None:
    """Return NULL, converted."""
