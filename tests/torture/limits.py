"""Queues with limits, order and rates in the torture run: their settings, their records, and what breaks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]
KEYS = tuple("abcdefgh")
RATES = {"rate": 30, "per": "1 second", "burst": 4, "rate_per_group": 12}
QUEUES: Mapping[str, Mapping[str, Any]] = {
    "limited": {"max_running": 6, "max_per_group": 2},
    "ordered": {"ordered": True},
    "rated": RATES,
    "all": {**RATES, "ordered": True, "max_running": 4},
}
# Shorter than a frozen worker may keep a transaction open that the first limit of a queue waits for.
PATIENCE = "1s"
# Seconds after which a server counts as frozen.
CONNECTS_WITHIN = 2

# What holds a lease, from the statement that claims it to the one that ends it. Both are done before their transaction
# commits: so a lease that a claim has to count begins before the claim does, and ends after it. The jobs of a batch
# that is unpacked begin twice, and do not end with it.
#
# A row of "limits" has the limits of a queue from its time on: it is written while no claim can be under way.
TABLES = """
CREATE TABLE torture.begun (
    job bigint, token bigint, queue text, key text, packed boolean, claimed_at timestamptz,
    at timestamptz DEFAULT clock_timestamp());
CREATE TABLE torture.ended (job bigint, token bigint, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE torture.limits (
    queue text, max_running integer, max_per_group integer, at timestamptz DEFAULT clock_timestamp());

CREATE FUNCTION torture.note_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO torture.begun VALUES (NEW.id, NEW.token, NEW.queue, NEW.group_key, false, NEW.claimed_at);
    ELSE
        INSERT INTO torture.ended VALUES (OLD.id, OLD.token);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_begun AFTER INSERT ON pgq_running FOR EACH ROW WHEN (NEW.queue <> 'default')
    EXECUTE FUNCTION torture.note_lease();
CREATE TRIGGER note_ended AFTER DELETE ON pgq_running FOR EACH ROW WHEN (OLD.queue <> 'default')
    EXECUTE FUNCTION torture.note_lease();

CREATE FUNCTION torture.note_packed_leases() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO torture.begun
        SELECT p.id, p.token, p.queue, p.group_key, true, p.claimed_at
        FROM _pgq_packed AS p WHERE p.token = NEW.token AND p.queue <> 'default';
    ELSE
        INSERT INTO torture.ended
        SELECT j.id, OLD.token FROM unnest(OLD.ids, OLD.queues) AS j (id, queue)
        WHERE j.queue <> 'default' AND j.id <> ALL (OLD.gone)
          AND CASE TG_OP
                  WHEN 'UPDATE' THEN j.id = ANY (NEW.gone)
                  ELSE NOT EXISTS (SELECT FROM pgq_running AS r WHERE (r.id, r.token) = (j.id, OLD.token))
              END;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_leases AFTER INSERT OR DELETE OR UPDATE OF gone ON pgq_running_batch FOR EACH ROW
    EXECUTE FUNCTION torture.note_packed_leases();
"""

# The claim of each lease is compared with the leases that were held then, its own among them, and with the limits of
# that time. Order: no job begins while an earlier one of its key has not had its last attempt. Rates: of the jobs from
# any one to any later one, as many as the time between them allows.
BEYOND = """
WITH lease AS MATERIALIZED (
    SELECT b.*, e.at AS ended_at
    FROM (
        SELECT job, token, queue, key, min(claimed_at) AS claimed_at, min(at) AS at, bool_or(packed) AS packed
        FROM torture.begun GROUP BY job, token, queue, key
    ) AS b
    LEFT JOIN (SELECT job, token, max(at) AS at FROM torture.ended GROUP BY job, token) AS e USING (job, token)
), span AS (
    SELECT *, lead(at, 1, 'infinity') OVER (PARTITION BY queue ORDER BY at) AS until FROM torture.limits
), held AS (
    SELECT queue, key, job, at, change, packed,
           sum(change) OVER (PARTITION BY queue ORDER BY at, change, job) AS running,
           sum(change) OVER (PARTITION BY queue, key ORDER BY at, change, job) AS of_key
    FROM (
        SELECT queue, key, job, at, 1 AS change, packed FROM lease
        UNION ALL
        SELECT queue, key, job, ended_at, -1, false FROM lease WHERE ended_at IS NOT NULL
    ) AS e
), start AS (
    SELECT queue, key, job, claimed_at, number - %(rate)s * seconds AS all_used,
           key_number - %(rate_per_group)s * seconds AS key_used
    FROM (
        SELECT *, row_number() OVER (PARTITION BY queue ORDER BY claimed_at, job) AS number,
               row_number() OVER (PARTITION BY queue, key ORDER BY claimed_at, job) AS key_number,
               extract(epoch FROM claimed_at - min(claimed_at) OVER ())::numeric AS seconds
        FROM lease WHERE queue IN ('rated', 'all')
    ) AS l
)
SELECT format('limit: job %%s is number %%s of %%s, and %%s of key %%s, at %%s', h.job, h.running, h.queue, h.of_key,
              h.key, h.at)
FROM held AS h
JOIN span AS s ON s.queue = h.queue AND h.at >= s.at AND h.at < s.until
WHERE change = 1 AND (h.running > s.max_running OR (h.key IS NOT NULL AND h.of_key > s.max_per_group)
    OR (h.packed AND num_nonnulls(s.max_running, s.max_per_group) > 0))
UNION ALL
SELECT format('order: job %%s of %%s, key %%s, begins before %%s has ended', j.job, j.queue, j.key, j.earlier)
FROM (
    SELECT queue, key, job, min(at) AS began_at,
           max(max(coalesce(ended_at, 'infinity'))) OVER earlier AS earlier
    FROM lease WHERE queue IN ('ordered', 'all') AND key IS NOT NULL
    GROUP BY queue, key, job
    WINDOW earlier AS (PARTITION BY queue, key ORDER BY job ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
) AS j
WHERE j.earlier > j.began_at
UNION ALL
SELECT format('rate: job %%s of %%s, key %%s, starts at %%s', job, queue, key, claimed_at)
FROM (
    SELECT *, all_used - min(all_used) OVER (PARTITION BY queue ORDER BY claimed_at, job) AS used,
           key_used - min(key_used) OVER (PARTITION BY queue, key ORDER BY claimed_at, job) AS used_by_key
    FROM start
) AS s
WHERE used > %(burst)s - 1 OR (key IS NOT NULL AND used_by_key > %(burst)s - 1)
"""


def configure(conn: Connection, queue: str, settings: Mapping[str, Any]) -> None:
    """Set what a queue may do, and note its limits in the same transaction."""
    with conn.transaction():
        conn.execute("SELECT pgq_configure(%s, %s)", [queue, Jsonb(settings)])
        conn.execute(
            "INSERT INTO torture.limits SELECT q, s.max_running, s.max_per_group FROM (SELECT %s) AS n (q) "
            "LEFT JOIN pgq_queue_setting AS s ON s.queue = n.q",
            [queue],
        )


def begin(conn: Connection) -> None:
    """Set the limits of all queues, as they are when the run begins, and when it waits for the last jobs."""
    for queue, settings in QUEUES.items():
        configure(conn, queue, settings)


def change(dsn: str, rng: Random) -> None:
    """Change the limits of a queue, remove them, or set them again."""
    queue = rng.choice(["limited", "limited", "all"])
    most = rng.choice([None, 1, 2, 4, 6, 8])
    settings = {"max_running": most}
    if queue == "limited":
        settings["max_per_group"] = rng.choice([None, 1, 2, 3]) if most else None
    _call(dsn, lambda conn: configure(conn, queue, settings))


def pause(dsn: str, rng: Random) -> None:
    """Pause a queue or a group for a moment."""
    queue, key = rng.choice(list(QUEUES)), rng.choice([None, *KEYS])
    span = f"{rng.uniform(0, 0.5):.3f} seconds"
    _call(dsn, lambda conn: conn.execute("SELECT pgq_pause(%s, now() + %s::interval, %s)", [queue, span, key]))


def beyond(conn: Connection) -> list[str]:
    """Return which jobs were claimed beyond a limit, out of order, or faster than a rate, so far."""
    return [row[0] for row in conn.execute(BEYOND.encode(), RATES).fetchall()]


def _call(dsn: str, act: Callable[[Connection], object]) -> None:
    """Act as an operator who gives up when a frozen worker keeps a lock, or the server restarts."""
    try:
        with psycopg.connect(
            dsn, autocommit=True, options=f"-c statement_timeout={PATIENCE}", connect_timeout=CONNECTS_WITHIN
        ) as conn:
            act(conn)
    except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.Rollback):
        return
