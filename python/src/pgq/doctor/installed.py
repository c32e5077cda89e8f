"""Whether the SQL is that of this program, and complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Reading, check
from pgq.doctor.shipped import indexes, tables
from pgq.version import driver_version, parse_version

INDEXES: Final = """
    SELECT i.relname::text AS name, t.relname::text AS table, x.indisvalid AND x.indisready AS valid
    FROM pg_class AS t
    JOIN pg_index AS x ON x.indrelid = t.oid
    JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE t.relnamespace = to_regnamespace(%(schema)s)
      AND t.relname = ANY (%(tables)s)
"""
OPTIONS: Final = """
    SELECT c.relname::text AS name,
           coalesce((SELECT jsonb_object_agg(o.option_name, o.option_value)
                     FROM pg_options_to_table(c.reloptions) AS o), '{}')
           || coalesce((SELECT jsonb_object_agg('toast.' || o.option_name, o.option_value)
                        FROM pg_class AS d, pg_options_to_table(d.reloptions) AS o
                        WHERE d.oid = c.reltoastrelid), '{}') AS options
    FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace(%(schema)s)
      AND c.relname = ANY (%(tables)s)
    ORDER BY c.relname
"""
# PostgreSQL 14 keeps no version for the database itself.
COLLATIONS: Final = """
    SELECT 'collation ' || c.collname AS name, c.collversion AS then, pg_collation_actual_version(c.oid) AS now,
           format('ALTER COLLATION %I.%I REFRESH VERSION;', c.collnamespace::regnamespace, c.collname) AS refresh
    FROM pg_collation AS c
    WHERE c.collversion <> pg_collation_actual_version(c.oid)
      AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attcollation = c.oid AND a.attrelid >= 16384)
"""
DATABASE: Final = """
    UNION ALL
    SELECT 'the database', d.datcollversion, pg_database_collation_actual_version(d.oid),
           format('ALTER DATABASE %I REFRESH COLLATION VERSION;', d.datname)
    FROM pg_database AS d
    WHERE d.datname = current_database()
      AND d.datcollversion <> pg_database_collation_actual_version(d.oid)
"""


def is_same(reading: Reading) -> bool:
    """Return whether the SQL in the database is that which this program carries."""
    return reading.version == driver_version()


def is_older(reading: Reading) -> bool:
    """Return whether the SQL in the database is older than this program."""
    return parse_version(reading.version) < parse_version(driver_version())


@check()
def versions(reading: Reading) -> Iterator[Finding]:
    """Yield that SQL and driver do not fit."""
    sql, driver = parse_version(reading.version), parse_version(driver_version())
    details = {"sql": reading.version, "driver": driver_version(), "server": reading.place["server_version"]}
    if sql < driver:
        yield Finding(
            "versions",
            "error",
            f"the SQL in the database is version {reading.version}, older than this program's {driver_version()}",
            "Workers and commands of this version refuse the database.",
            "pgq upgrade",
            details,
        )
    elif sql[0] != driver[0] or sql[1] > driver[1] + 1:
        yield Finding(
            "versions",
            "warning",
            f"the SQL in the database is version {reading.version}, and this program {driver_version()}",
            "A driver works on the SQL of the next minor release, and not beyond.",
            "Upgrade the Python package pgq-jobs of producers and workers.",
            details,
        )
    if reading.place["server_version"] < 140000:
        yield Finding(
            "versions",
            "error",
            f"PostgreSQL {reading.place['server_version'] // 10000} is older than 14, the oldest that pgq supports",
            "Calls may fail.",
            "Upgrade the server.",
            details,
        )


@check()
def missing_index(reading: Reading) -> Iterator[Finding]:
    """Yield indexes that the SQL creates and the database lacks."""
    if not is_same(reading):
        return
    there = {row["name"] for row in reading.rows(INDEXES, schema=reading.schema, tables=list(tables()))}
    for name, (table, statement) in indexes().items():
        if name not in there:
            yield Finding(
                "missing-index",
                "error",
                f"index {name} of {table} is missing",
                "Claims, completions or maintenance read the whole table instead, or fail. Without a unique index "
                "duplicates are refused with an error, or not found.",
                f"SET search_path = {reading.schema}; {statement}",
                {"index": name, "table": table},
            )


@check()
def invalid_index(reading: Reading) -> Iterator[Finding]:
    """Yield indexes on tables of pgq that were left unfinished."""
    for row in reading.rows(INDEXES, schema=reading.schema, tables=list(tables())):
        if row["valid"]:
            continue
        is_own = row["name"] in indexes()
        yield Finding(
            "invalid-index",
            "error" if is_own else "warning",
            f"index {row['name']} of {row['table']} is invalid",
            "CREATE INDEX or REINDEX CONCURRENTLY has failed. "
            + ("No query uses it." if is_own else "No query uses it, but each job pays for its entries."),
            f"REINDEX INDEX CONCURRENTLY {reading.schema}.{row['name']};"
            if is_own
            else f'DROP INDEX CONCURRENTLY {reading.schema}."{row["name"]}";',
            {"index": row["name"], "table": row["table"]},
        )


@check()
def changed_settings(reading: Reading) -> Iterator[Finding]:
    """Yield tables whose storage parameters are not those of the SQL."""
    if not is_same(reading):
        return
    for row in reading.rows(OPTIONS, schema=reading.schema, tables=list(tables())):
        shipped = tables()[row["name"]]
        changed = {
            key: (shipped.get(key), row["options"].get(key))
            for key in sorted(shipped.keys() | row["options"].keys())
            if shipped.get(key) != row["options"].get(key) and key != "autovacuum_enabled"
        }
        if not changed:
            continue
        sets = [f"{key} = {then}" for key, (then, _) in changed.items() if then is not None]
        resets = [key for key, (then, _) in changed.items() if then is None]
        alter = f"ALTER TABLE {reading.schema}.{row['name']}"
        yield Finding(
            "changed-settings",
            "note",
            f"{row['name']} has other storage parameters than pgq gives it: "
            + ", ".join(
                f"{key} is {now or 'not set'} instead of {then or 'not set'}" for key, (then, now) in changed.items()
            ),
            "pgq lets vacuum come early and without pauses, because each job leaves dead rows behind. With other "
            "values more of them may accumulate.",
            " ".join(
                [f"{alter} SET ({', '.join(sets)});"] * bool(sets)
                + [f"{alter} RESET ({', '.join(resets)});"] * bool(resets)
            ),
            {
                "table": row["name"],
                "changed": {key: {"shipped": then, "is": now} for key, (then, now) in changed.items()},
            },
        )


@check()
def collation_version(reading: Reading) -> Iterator[Finding]:
    """Yield that text is in another order than when indexes were built."""
    has_database = reading.place["server_version"] >= 150000
    for row in reading.rows(COLLATIONS + (DATABASE if has_database else "")):
        yield Finding(
            "collation-version",
            "warning",
            f"the order of text of {row['name']} was version {row['then']} and is now {row['now']}",
            "The C library or ICU has changed. The indexes of pgq are in the order of bytes and not affected; other "
            "indexes on text may miss rows, or accept duplicates.",
            f"REINDEX the indexes on text of your tables, then: {row['refresh']}",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (
    versions, missing_index, invalid_index, changed_settings, collation_version
)  # fmt: skip
