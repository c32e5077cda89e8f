"""Dead rows and what removes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Reading, check
from pgq.doctor.shipped import tables
from pgq.doctor.words import listed, number, size, span

TABLES: Final = """
    SELECT s.relname::text AS table, s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows,
           greatest(s.last_autovacuum, s.last_vacuum) AS last_vacuum,
           clock_timestamp() - greatest(s.last_autovacuum, s.last_vacuum) AS since,
           pg_relation_size(s.relid) AS bytes, pg_indexes_size(s.relid) AS index_bytes
    FROM pg_stat_all_tables AS s
    JOIN pg_class AS c ON c.oid = s.relid
    WHERE c.relnamespace = to_regnamespace(%(schema)s)
      AND s.relname = ANY (%(tables)s)
    ORDER BY s.relname
"""
OFF: Final = """
    SELECT current_setting('autovacuum') = 'off' AS autovacuum_off,
           current_setting('track_counts') = 'off' AS uncounted,
           ARRAY(
               SELECT c.relname::text
               FROM pg_class AS c
               WHERE c.relnamespace = to_regnamespace(%(schema)s)
                 AND c.relname = ANY (%(tables)s)
                 AND EXISTS (
                     SELECT
                     FROM pg_options_to_table(c.reloptions) AS o
                     WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean)
               ORDER BY 1
           ) AS tables
"""
WRAPAROUND: Final = """
    SELECT age(d.datfrozenxid) AS xids, mxid_age(d.datminmxid) AS multixacts
    FROM pg_database AS d
    WHERE d.datname = current_database()
"""
# Longer rows are stored apart, so a row takes this much of the table at most, and its entries this much of the indexes.
ROW_BYTES: Final = 2100
ENTRY_BYTES: Final = 1000


@check()
def dead_rows(reading: Reading) -> Iterator[Finding]:
    """Yield the tables of pgq most of whose rows are dead."""
    for row in reading.rows(TABLES, schema=reading.schema, tables=list(tables())):
        if row["dead_rows"] <= max(reading.thresholds.dead_rows, row["live_rows"]):
            continue
        when = f"{span(row['since'])} ago" if row["since"] is not None else "never"
        yield Finding(
            "dead-rows",
            "warning",
            f"{row['table']} has {number(row['dead_rows'], 'dead row')} beside {number(row['live_rows'], 'live row')}; "
            f"the last vacuum ended {when}",
            "Either something keeps vacuum from removing them, which the findings about snapshots, slots and prepared "
            "transactions name, or vacuum does not come or is too slow. Claims stay fast, but the tables grow, and the "
            "views read all of it.",
            f"Mend what holds the rows first; then: VACUUM (VERBOSE) {reading.schema}.{row['table']};",
            row,
        )


@check()
def bloat(reading: Reading) -> Iterator[Finding]:
    """Yield the tables of pgq that are mostly empty space."""
    for row in reading.rows(TABLES, schema=reading.schema, tables=list(tables())):
        total = row["bytes"] + row["index_bytes"]
        needed = row["live_rows"] * (ROW_BYTES + ENTRY_BYTES)
        if total <= reading.thresholds.bloat_bytes or total < 4 * needed:
            continue
        yield Finding(
            "bloat",
            "warning",
            f"{row['table']} and its indexes take {size(total)} for {number(row['live_rows'], 'live row')}",
            "The space is used again by new jobs, so this is no harm if the table was once as full as that. Otherwise "
            "dead rows were kept for long. Scans of the whole table, such as pgq stats, take longer.",
            f"When no snapshot is held: VACUUM {reading.schema}.{row['table']}; to give space back, in a quiet hour, "
            f"because workers wait meanwhile: VACUUM (FULL) {reading.schema}.{row['table']}; the indexes alone, "
            f"without waiting: REINDEX TABLE CONCURRENTLY {reading.schema}.{row['table']};",
            row,
        )


@check()
def autovacuum_off(reading: Reading) -> Iterator[Finding]:
    """Yield that autovacuum does not run, here or for some of the tables."""
    (row,) = reading.rows(OFF, schema=reading.schema, tables=list(tables()))
    meaning = (
        "Each job leaves dead rows and index entries behind. Without autovacuum they stay, and the tables grow. Only "
        "against a wraparound of transaction ids does PostgreSQL vacuum such a table all the same."
    )
    if row["autovacuum_off"] or row["uncounted"]:
        name = "autovacuum" if row["autovacuum_off"] else "track_counts"
        yield Finding(
            "autovacuum-off",
            "error",
            f"{name} is off, so no table is vacuumed by itself",
            meaning,
            f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
            row,
        )
    if row["tables"]:
        resets = " ".join(
            f"ALTER TABLE {reading.schema}.{table} RESET (autovacuum_enabled);" for table in row["tables"]
        )
        yield Finding(
            "autovacuum-off",
            "error",
            f"autovacuum is off for {listed(row['tables'])}",
            meaning,
            resets,
            row,
        )


@check()
def wraparound(reading: Reading) -> Iterator[Finding]:
    """Yield that the database comes near the end of its transaction ids."""
    (row,) = reading.rows(WRAPAROUND)
    if max(row.values()) <= reading.thresholds.wraparound:
        return
    yield Finding(
        "wraparound",
        "error",
        f"the oldest row of this database is {number(max(row.values()), 'transaction')} old; at 2,144,000,000 the "
        "server refuses to write",
        "No job is enqueued or claimed once the server refuses. Something keeps vacuum from freezing rows: a snapshot, "
        "a slot, a prepared transaction, or a vacuum that is cancelled each time.",
        "Mend what the other findings name, then, as a superuser in this database: VACUUM; neither FULL nor FREEZE, "
        "which do more than is needed.",
        row,
    )


CHECKS: Final[tuple[Check, ...]] = (dead_rows, bloat, autovacuum_off, wraparound)
