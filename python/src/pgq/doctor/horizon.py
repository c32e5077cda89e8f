"""Who holds old row versions: as long as any transaction may still see them, vacuum removes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.transactions import end_of, last_statement, named
from pgq.doctor.words import literal, number, size, span

# A snapshot of another database holds nothing here.
SESSIONS: Final = """
    SELECT a.pid, a.usename::text AS role, a.application_name, a.state, clock_timestamp() - a.xact_start AS age,
           left(a.query, 200) AS query,
           greatest(age(a.backend_xmin), age(a.backend_xid)) AS xids
    FROM pg_stat_activity AS a
    WHERE a.pid <> pg_backend_pid()
      AND a.datname = current_database()
      AND a.backend_type IN ('client backend', 'parallel worker', 'background worker')
      AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
      AND a.xact_start < clock_timestamp() - %(age)s::interval
    ORDER BY a.xact_start
    LIMIT 10
"""
SLOTS: Final = """
    SELECT s.slot_name::text AS slot, s.slot_type AS type, s.active, coalesce(age(s.xmin), 0) AS xids,
           coalesce(age(s.catalog_xmin), 0) AS catalog_xids,
           coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn), 0)::bigint AS wal_bytes
    FROM pg_replication_slots AS s
    WHERE age(s.xmin) > %(xids)s
       OR age(s.catalog_xmin) > %(xids)s
       OR (NOT s.active AND pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn) > %(bytes)s)
    ORDER BY xids DESC
    LIMIT 10
"""
PREPARED: Final = """
    SELECT p.gid, p.owner::text AS role, clock_timestamp() - p.prepared AS age, age(p.transaction) AS xids
    FROM pg_prepared_xacts AS p
    WHERE p.database = current_database()
      AND p.prepared < clock_timestamp() - %(age)s::interval
    ORDER BY p.prepared
    LIMIT 10
"""
STANDBYS: Final = """
    SELECT r.application_name, r.client_addr::text AS address, r.pid, age(r.backend_xmin) AS xids
    FROM pg_stat_replication AS r
    WHERE age(r.backend_xmin) > %(xids)s
    ORDER BY xids DESC
    LIMIT 10
"""


def cost(reading: Reading) -> str:
    """Return what a held horizon costs."""
    return (
        "Vacuum removes no row that has become dead since, in any table of the database: those of pgq have "
        f"{number(reading.dead_rows, 'dead row')} now. Claims stay fast, but the tables and their indexes grow."
    )


@check(Needs.MONITOR | Needs.PRIMARY)
def snapshot_held(reading: Reading) -> Iterator[Finding]:
    """Yield sessions of this database with an old transaction."""
    for row in reading.rows(SESSIONS, age=reading.thresholds.snapshot):
        yield Finding(
            "snapshot-held",
            "warning",
            f"{named(row)} has had a snapshot or a transaction for {span(row['age'])} ({row['state']})",
            cost(reading) + last_statement(row),
            end_of(row),
            {**row, "dead_rows": reading.dead_rows},
        )


@check(Needs.PRIMARY)
def replication_slot(reading: Reading) -> Iterator[Finding]:
    """Yield replication slots that keep old rows, or much WAL."""
    thresholds = reading.thresholds
    for row in reading.rows(SLOTS, xids=thresholds.xids, bytes=thresholds.wal_bytes):
        used = "in use" if row["active"] else "not in use"
        yield Finding(
            "replication-slot",
            "warning",
            f'replication slot "{row["slot"]}", which is {used}, keeps rows of the last '
            f"{number(max(row['xids'], row['catalog_xids']), 'transaction')}, and {size(row['wal_bytes'])} of WAL",
            (cost(reading) if row["xids"] > thresholds.xids else "It keeps old rows of the catalogs, and WAL.")
            + " A slot that nobody reads fills the disk until the server stops.",
            "Let its reader catch up, or remove the slot if it has none; a reader that comes back must then be built "
            f"anew: SELECT pg_drop_replication_slot('{row['slot']}'); max_slot_wal_keep_size bounds what a slot keeps.",
            {**row, "dead_rows": reading.dead_rows},
        )


@check(Needs.PRIMARY)
def prepared_transaction(reading: Reading) -> Iterator[Finding]:
    """Yield transactions that were prepared and neither committed nor rolled back."""
    for row in reading.rows(PREPARED, age=reading.thresholds.snapshot):
        yield Finding(
            "prepared-transaction",
            "warning",
            f'transaction "{row["gid"]}" was prepared {span(row["age"])} ago and has not ended',
            f"It keeps its locks, and what it has enqueued or claimed, also across a restart. {cost(reading)}",
            f"Let its transaction manager end it, or: ROLLBACK PREPARED {literal(row['gid'])};",
            {**row, "dead_rows": reading.dead_rows},
        )


@check(Needs.MONITOR | Needs.PRIMARY)
def standby_feedback(reading: Reading) -> Iterator[Finding]:
    """Yield standby servers whose queries keep rows of this one."""
    for row in reading.rows(STANDBYS, xids=reading.thresholds.xids):
        name = row["application_name"] or row["address"] or f"of process {row['pid']}"
        yield Finding(
            "standby-feedback",
            "warning",
            f'standby "{name}" keeps the rows of the last {number(row["xids"], "transaction")} by hot_standby_feedback',
            f"A query on the standby takes long. {cost(reading)}",
            "End the query on the standby, or set hot_standby_feedback = off there; then long queries are cancelled "
            "there instead.",
            {**row, "dead_rows": reading.dead_rows},
        )


CHECKS: Final[tuple[Check, ...]] = (snapshot_held, replication_slot, prepared_transaction, standby_feedback)
