"""The books of the run, kept in the database of the queue: what was enqueued, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

SCRIPT = Path(__file__).parents[2] / "build/pgq.sql"

# A ledger row is written in the transaction of its enqueue, so there is one if and only if that has committed. An
# effect is written by a handler, for the ledger rows that it saw when it began. No constraint keeps any of them unique.
#
# A trespass is an attempt that is ended by another worker than the one it belongs to, before its lease has run out.
# Sessions of workers are told by their names, that of a presence by how it begins: it gives back what was claimed
# without an answer. Those that handlers have opened themselves are not judged.
TABLES = """
CREATE SCHEMA torture;
CREATE TABLE torture.ledger (
    n bigint GENERATED ALWAYS AS IDENTITY, kind text, topic text, fate text, job bigint, created boolean);
CREATE INDEX ON torture.ledger (topic);
CREATE INDEX ON torture.ledger (job);
CREATE TABLE torture.effect (
    kind text, topic text, job bigint, token bigint, attempt integer, pid integer, covers bigint[]);
CREATE INDEX ON torture.effect (topic);
CREATE TABLE torture.trespass (job bigint, kind text, holder text, other text);

CREATE FUNCTION torture.watch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    session text := current_setting('application_name');
BEGIN
    IF starts_with(session, 'pgq ') AND NOT starts_with(session, 'pgq ' || OLD.worker)
       AND OLD.lease_until > clock_timestamp() THEN
        INSERT INTO torture.trespass VALUES (OLD.id, OLD.kind, OLD.worker, substr(session, 5));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER DELETE ON pgq_running FOR EACH ROW EXECUTE FUNCTION torture.watch();
"""


def prepare(conn: psycopg.Connection[Any], patches: Sequence[tuple[str, str, str]]) -> None:
    """Install pgq and the books. A patch is the name of a function, and a text in its source with what to put there."""
    conn.execute(SCRIPT.read_bytes())
    conn.execute(TABLES)
    for function, old, new in patches:
        row = conn.execute("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s", [function]).fetchone()
        if row is None or old not in row[0]:
            raise LookupError(f"there is no {function} with {old!r}")
        conn.execute(row[0].replace(old, new).encode())
