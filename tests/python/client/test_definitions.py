"""The driver's lists of names agree with each other and with the database."""

from __future__ import annotations

import inspect

from support.database import Connection, one

from pgq import Job, Queue
from pgq.job import FIELDS
from pgq.queue import TYPES

SIGNATURE = """
    SELECT p.proargnames[1:p.pronargs],
           ARRAY(SELECT format_type(t.oid, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS t (oid, n) ORDER BY t.n)
    FROM pg_proc AS p
    WHERE p.oid = to_regproc(%s)
"""


def test_enqueue_takes_the_arguments_of_pgq_enqueue(conn: Connection) -> None:
    """It takes the same names in the same order, each cast to its type."""
    row = conn.execute(SIGNATURE, ["pgq_enqueue"]).fetchone()
    assert row is not None
    names, types = row
    full = {"timestamptz": "timestamp with time zone"}
    assert [(name, full.get(kind, kind)) for name, kind in TYPES.items()] == list(zip(names, types, strict=True))
    assert list(inspect.signature(Queue.enqueue).parameters) == ["self", *TYPES]


def test_a_job_has_what_a_claim_returns(conn: Connection) -> None:
    """It has a field for each column; the arguments come as ``payload``, JSON text."""
    columns = one(conn, "SELECT proargnames[pronargs + 1:] FROM pg_proc WHERE oid = to_regproc('pgq_claim')")
    names = {"payload": "args"}
    assert sorted(names.get(name, name) for name in FIELDS) == sorted(columns)
    assert list(inspect.signature(Job).parameters) == list(FIELDS)
