"""The records of the run, in the database of the queue: what was enqueued, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from torture import flows, limits, steps

SCRIPT = Path(__file__).parents[2] / "build/pgq.sql"

# A ledger row is written in the transaction of its enqueue, so it exists if and only if that transaction has committed.
# A handler writes an effect, with the ledger rows that it has seen. No constraint keeps either of them unique.
#
# A foreign end is the end of an attempt, before its lease has ended, by a worker that has not claimed it. The
# application name of a worker's session begins with "pgq " and the worker's name; its presence session, which adds a
# suffix, may end attempts, too: it reconciles. Sessions that handlers open have other names, and are not checked.
#
# An attempt that was lost together with others does not count; the number of such losses is then negative.
TABLES = """
CREATE SCHEMA torture;
CREATE TABLE torture.ledger (
    n bigint GENERATED ALWAYS AS IDENTITY, kind text, topic text, fate text, job bigint, created boolean,
    at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON torture.ledger (topic);
CREATE INDEX ON torture.ledger (job);
CREATE TABLE torture.effect (
    kind text, topic text, job bigint, token bigint, attempt integer, pid integer, seen bigint[]);
CREATE INDEX ON torture.effect (topic);
CREATE TABLE torture.uncounted (job bigint, token bigint);
CREATE TABLE torture.foreign_end (job bigint, kind text, holder text, other text);

CREATE FUNCTION torture.note_foreign_end() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    session text := current_setting('application_name');
BEGIN
    IF starts_with(session, 'pgq ') AND NOT starts_with(session, 'pgq ' || OLD.worker)
       AND OLD.lease_until > clock_timestamp() THEN
        INSERT INTO torture.foreign_end VALUES (OLD.id, OLD.kind, OLD.worker, substr(session, 5));
    END IF;
    IF (to_jsonb(OLD) ->> 'losses')::integer < 0 THEN
        INSERT INTO torture.uncounted VALUES (OLD.id, OLD.token);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_foreign_end AFTER DELETE ON pgq_running FOR EACH ROW EXECUTE FUNCTION torture.note_foreign_end();

-- A batch that is unpacked ends no attempt.
CREATE FUNCTION torture.note_foreign_completion() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    session text := current_setting('application_name');
BEGIN
    IF starts_with(session, 'pgq ') AND NOT starts_with(session, 'pgq ' || OLD.worker)
       AND OLD.lease_until > clock_timestamp()
       AND NOT EXISTS (SELECT FROM pgq_running AS r WHERE r.token = OLD.token) THEN
        INSERT INTO torture.foreign_end
        SELECT id, OLD.kinds[1], OLD.worker, substr(session, 5) FROM unnest(OLD.ids) AS id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_foreign_end AFTER UPDATE OF gone OR DELETE ON pgq_running_batch
    FOR EACH ROW EXECUTE FUNCTION torture.note_foreign_completion();
"""


# Several times within a run, a job is declined by the worker that has no handler for it.
DECLINED_SOONER = ("pgq_decline", "'30 seconds', '10 minutes'", "'200 milliseconds', '1 second'")


def prepare(conn: psycopg.Connection[Any], patches: Sequence[tuple[str, str, str]]) -> None:
    """Install pgq and the tables. A patch is the name of a function, a text in its source, and the replacement."""
    conn.execute(SCRIPT.read_bytes())
    conn.execute(TABLES)
    conn.execute(limits.TABLES)
    conn.execute(steps.TABLES)
    conn.execute(flows.TABLES)
    limits.begin(conn)
    for function, old, new in (DECLINED_SOONER, *patches):
        row = conn.execute("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s", [function]).fetchone()
        if row is None or old not in row[0]:
            raise LookupError(f"no function {function} with {old!r} in its source")
        conn.execute(row[0].replace(old, new).encode())
