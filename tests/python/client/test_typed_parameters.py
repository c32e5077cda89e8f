"""Parameters with types, as drivers of other languages declare them: which a function takes, and where a cast helps."""

from __future__ import annotations

import re

import pytest
from psycopg.pq import ExecStatus
from support.database import Connection
from support.pages import Page, cells

from pgq import Queue

CLIENTS = Page("docs/clients.md")
# What a driver may declare for a parameter; "none" leaves the type to the server, as a literal of psql does.
DECLARED = (
    "none", "text", "varchar", "bpchar", "name", "smallint", "integer", "bigint", "numeric", "real", "double precision",
    "boolean", "json", "jsonb", "interval", "time", "timestamptz", "timestamp", "date", "uuid", "bytea",
    "text[]", "varchar[]", "smallint[]", "integer[]", "bigint[]", "json[]", "jsonb[]",
)  # fmt: skip
# What an argument takes, by its type.
TAKEN = {
    "text": {"none", "text", "varchar", "bpchar", "name"},
    "bigint": {"none", "smallint", "integer", "bigint"},
    "boolean": {"none", "boolean"},
    "jsonb": {"none", "jsonb"},
    "interval": {"none", "interval", "time"},
    "timestamp with time zone": {"none", "timestamptz", "timestamp", "date"},
    "text[]": {"none", "text[]", "varchar[]"},
    "bigint[]": {"none", "smallint[]", "integer[]", "bigint[]"},
}
ARGUMENTS = """
    SELECT p.proname, p.proargnames[1:p.pronargs - p.pronargdefaults], a.name, format_type(a.type, NULL)
    FROM pg_proc AS p
    CROSS JOIN LATERAL unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) AS a (name, type)
    WHERE p.pronamespace = current_schema()::regnamespace AND p.proname ~ '^pgq_'
    ORDER BY p.proname
"""


@pytest.fixture
def oids(conn: Connection) -> dict[str, int]:
    """The numbers of the types that drivers declare; 0 declares none."""
    rows = conn.execute("SELECT t, t::regtype::oid::bigint FROM unnest(%s::text[]) AS t", [list(DECLARED[1:])])
    return {"none": 0, **dict(rows.fetchall())}


def parse(conn: Connection, query: str, types: list[int]) -> str | None:
    """Let the server parse a query with parameters of these types; return its SQLSTATE if it refuses."""
    result = conn.pgconn.prepare(b"", query.encode(), types)
    if result.status == ExecStatus.COMMAND_OK:
        return None
    return (result.error_field(ord("C")) or b"").decode()


def test_an_argument_takes_what_its_type_promises(conn: Connection, oids: dict[str, int]) -> None:
    """
    Every function, each argument with each type, the others without. PostgreSQL finds a function by implicit casts
    only, so for the rest it says 42883, that there is no such function.
    """
    arguments = conn.execute(ARGUMENTS.encode()).fetchall()
    assert {kind for *_, kind in arguments} == set(TAKEN)
    wrong = []
    for function, required, name, kind in arguments:
        names = list(dict.fromkeys([name, *(required or [])]))
        call = f"SELECT {function}({', '.join(f'{one} => ${n}' for n, one in enumerate(names, 1))})"
        for declared in DECLARED:
            state = parse(conn, call, [oids[declared], *[0] * (len(names) - 1)])
            if state != (None if declared in TAKEN[kind] else "42883"):
                wrong.append(f"{call}, {kind} for {declared}: {state}")
    assert wrong == []


def test_a_cast_takes_what_an_argument_does_not(conn: Connection, oids: dict[str, int]) -> None:
    """The casts of the page, with each type for which it shows them, and without a type."""
    for cast, declared in (
        ("$1::jsonb", ("text", "varchar", "json")),
        ("$1::interval", ("text", "varchar")),
        ("$1::timestamptz", ("text", "varchar")),
        ("$1::bigint", ("text", "varchar", "numeric", "double precision")),
        ("$1::text[]", ("text", "varchar")),
        ("make_interval(secs => $1)", ("smallint", "integer", "bigint", "numeric", "real", "double precision")),
    ):
        argument = {"$1::jsonb": "args", "$1::timestamptz": "ripe_at", "$1::bigint": "priority"}.get(cast, "delay")
        call = f"pgq_claim({cast})" if "[]" in cast else f"pgq_enqueue('k', {argument} => {cast})"
        for one in ("none", *declared):
            assert parse(conn, f"SELECT {call}", [oids[one]]) is None, (cast, one)


def test_the_page_shows_what_each_type_takes() -> None:
    """Its table has a row for each type of an argument, with the types that need no cast."""
    table = CLIENTS.section("What an argument takes")
    rows = zip(cells(table), cells(table, 1), strict=True)
    shown = {kind.split("`")[1]: set(re.findall(r"`([^`]+)`", types)) for kind, types in rows}
    promised = {kind.replace("timestamp with time zone", "timestamptz"): types for kind, types in TAKEN.items()}
    assert shown == {kind: types - {"none"} for kind, types in promised.items()}


# What a driver declares for text, JSON, numbers, intervals, a list of text and a list of numbers.
PROFILES = {
    "nothing": ("none", "none", "none", "none", "none", "none"),
    "pgjdbc": ("varchar", "varchar", "bigint", "varchar", "text[]", "bigint[]"),
    "pgjdbc with varchar[]": ("varchar", "varchar", "integer", "interval", "varchar[]", "integer[]"),
    "Prisma, sqlx": ("text", "jsonb", "bigint", "text", "text[]", "bigint[]"),
    "all text": ("text", "text", "bigint", "text", "text[]", "bigint[]"),
    "Npgsql": ("text", "jsonb", "integer", "interval", "text[]", "bigint[]"),
    "psycopg": ("none", "json", "smallint", "interval", "text[]", "bigint[]"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_job_lives_in_the_calls_of_a_typed_driver(
    conn: Connection, queue: Queue, oids: dict[str, int], name: str
) -> None:
    """The casts that the page shows are all that it takes; a driver that needs none may have them."""
    text, json, number, interval, texts, numbers = (oids[kind] for kind in PROFILES[name])

    def call(query: str, *given: tuple[str, int]) -> list[list[str | None]]:
        values = [value.encode() for value, _ in given]
        result = conn.pgconn.exec_params(query.encode(), values, [kind for _, kind in given])
        assert result.status == ExecStatus.TUPLES_OK, result.error_message
        rows = range(result.ntuples)
        found = [[result.get_value(row, column) for column in range(result.nfields)] for row in rows]
        return [[None if value is None else value.decode() for value in row] for row in found]

    enqueue = (
        "SELECT id FROM pgq_enqueue($1, $2::jsonb, queue => $3, priority => $4, max_retries => $5, "
        "backoff => $6::interval)"
    )
    given = [("k", text), ('{"a": 1}', json), ("q", text), ("3", number), ("4", number), ("90 s", interval)]
    assert call(enqueue, *given) == [["1"]]
    claim = "SELECT id, token, kind, args, priority, max_retries FROM pgq_claim($1, $2, $3::interval, $4)"
    (row,) = call(claim, ("{q}", texts), ("1", number), ("60 s", interval), ("w", text))
    assert row[0] == "1"
    assert row[2:] == ["k", '{"a": 1}', "3", "4"]
    job = ("1", number), (str(row[1]), oids["none" if PROFILES[name][2] == "smallint" else "bigint"])
    assert call("SELECT pgq_extend($1, $2, $3::interval) IS NOT NULL", *job, ("60 s", interval)) == [["t"]]
    failed = call("SELECT outcome FROM pgq_fail($1, $2, $3, $4::interval)", *job, ("why", text), ("0", interval))
    assert failed == [["retry"]]
    ((_, token, *_),) = call(claim, ("{q}", texts), ("1", number), ("60 s", interval), ("w", text))
    pair = ("{1}", numbers), (f"{{{token}}}", oids["bigint[]"])
    assert call("SELECT pgq_complete_many($1, $2)", *pair) == [["1"]]


@pytest.mark.parametrize(
    ("second", "ambiguous"),
    [
        ("json", ["SELECT pgq_enqueue('k', '{}')", "SELECT pgq_enqueue('k')"]),
        ("text", ["SELECT pgq_enqueue('k')", "SELECT pgq_enqueue('k', delay => '5 s')"]),
    ],
)
def test_a_second_function_would_make_calls_ambiguous(conn: Connection, second: str, ambiguous: list[str]) -> None:
    """That is why there is none, and why PostgreSQL's own conversions decide what fits."""
    for call in ambiguous:
        assert parse(conn, call, []) is None
    conn.execute(
        f"CREATE FUNCTION pgq_enqueue(kind text, args {second} DEFAULT '{{}}', delay interval DEFAULT NULL) "
        "RETURNS bigint LANGUAGE sql RETURN 1".encode()
    )
    for call in ambiguous:
        assert parse(conn, call, []) == "42725", call
