"""No object that a role creates in a schema it can write to is ever used with the rights of pgq's owner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from hashlib import md5

import psycopg
import pytest
from support.calls import CALLS, life
from support.database import Connection, one
from support.hunt import empty
from support.threads import eventually

from pgq.schema.install import install

# Create an object for every name that pgq's functions and views mention. Each raises the role that it runs as.
PLANT = r"""
CREATE FUNCTION pg_temp.attempt(statement text) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 1;
EXCEPTION WHEN OTHERS THEN  -- not every signature is possible: some have pseudo-types
    RETURN 0;
END
$$;

CREATE TEMP TABLE source AS
SELECT string_agg(CASE WHEN l.lanname = 'plpgsql' THEN p.prosrc ELSE pg_get_functiondef(p.oid) END, ' ') AS text
FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace = 'home'::regnamespace;

CREATE TEMP TABLE mentioned AS
SELECT DISTINCT lower(m[1]) AS name FROM source, regexp_matches(source.text, '(\w+)', 'g') AS m;

-- Stand-ins for the polymorphic types.
CREATE TEMP TABLE concrete (name text);
INSERT INTO concrete VALUES ('text'), ('bigint'), ('integer'), ('smallint'), ('boolean'), ('jsonb'), ('tid'), ('uuid'),
    ('interval'), ('timestamp with time zone'), ('double precision'), ('numeric'), ('name'), ('regclass'), ('oid');

CREATE TEMP TABLE signature AS
WITH one AS (
    SELECT DISTINCT p.proname, p.proretset, c.name AS any, w.width,
           pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
    FROM pg_proc AS p
    JOIN mentioned AS m ON m.name = p.proname
    CROSS JOIN concrete AS c
    CROSS JOIN generate_series(1, 4) AS w (width)
    WHERE p.pronamespace IN ('pg_catalog'::regnamespace, 'home'::regnamespace)
      AND (c.name = 'text' OR pg_get_function_arguments(p.oid) ~ '\many')
      AND (w.width = 1 OR pg_get_function_arguments(p.oid) ~ 'VARIADIC')
)
SELECT DISTINCT proname,
       regexp_replace(regexp_replace(regexp_replace(
           regexp_replace(arguments, ' DEFAULT .*?(?=, \w+ \w|$)', '', 'g'),
           'VARIADIC "?any"?', repeat('any, ', width - 1) || 'any'),
           '\many(compatible)?array\M', one.any || '[]', 'g'),
           '"?\many(element|nonarray|compatible|compatiblenonarray)?\M"?', one.any, 'g') AS arguments,
       regexp_replace(regexp_replace(result, '\many(compatible)?array\M', one.any || '[]', 'g'),
                      '\many\w*', one.any, 'g') AS result
FROM one;

CREATE FUNCTION pg_temp.plant(schema text) RETURNS bigint LANGUAGE plpgsql AS $plant$
DECLARE
    v_body CONSTANT text := $$LANGUAGE plpgsql AS
        'BEGIN RAISE EXCEPTION USING ERRCODE = ''TRAP1'', MESSAGE = current_user; END'$$;
    v_planted bigint;
BEGIN
    SELECT sum(pg_temp.attempt(format(
        'CREATE FUNCTION %I.%I(%s) RETURNS %s %s', schema, s.proname, s.arguments, s.result, v_body)))
    INTO v_planted
    FROM signature AS s;

    SELECT v_planted + sum(
        pg_temp.attempt(format('CREATE FUNCTION %I.operator_%s(%s, %s) RETURNS %s %s',
                               schema, o.oid, t.lft, t.rgt, t.result, v_body))
        + pg_temp.attempt(format('CREATE OPERATOR %I.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %I.operator_%s)',
                                 schema, o.oprname, t.lft, t.rgt, schema, o.oid)))
    INTO v_planted
    FROM pg_operator AS o
    CROSS JOIN LATERAL (
        SELECT format_type(o.oprleft, NULL) AS lft, format_type(o.oprright, NULL) AS rgt,
               format_type(o.oprresult, NULL) AS result
    ) AS t
    WHERE o.oprkind = 'b' AND strpos((SELECT text FROM source), o.oprname) > 0
      AND t.lft IN (SELECT name FROM concrete) AND t.rgt IN (SELECT name FROM concrete);

    EXECUTE format('CREATE FUNCTION %I.spring(pg_catalog.text) RETURNS boolean %s', schema, v_body);
    SELECT v_planted + sum(pg_temp.attempt(format(
        'CREATE DOMAIN %1$I.%2$I AS pg_catalog.%2$I CHECK (%1$I.spring(VALUE::pg_catalog.text))', schema, t.typname)))
    INTO v_planted
    FROM pg_type AS t JOIN mentioned AS m ON m.name = t.typname
    WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b';
    RETURN v_planted;
END
$plant$;
"""

# Shadow the relations that they mention with views of the session: reading or writing one raises, too.
LURE = r"""
CREATE FUNCTION evil.spring_row() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION USING ERRCODE = ''TRAP1'', MESSAGE = current_user; END';
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN
        SELECT c.oid::regclass AS original, c.relname AS name
        FROM pg_class AS c JOIN mentioned AS m ON m.name = c.relname
        WHERE c.relkind IN ('r', 'v') AND c.relnamespace IN ('pg_catalog'::regnamespace, 'home'::regnamespace)
    LOOP
        EXECUTE format($f$CREATE FUNCTION evil.lure_%s() RETURNS SETOF %s LANGUAGE plpgsql AS
                       'BEGIN RAISE EXCEPTION USING ERRCODE = ''TRAP1'', MESSAGE = current_user; END'$f$,
                       r.name, r.original);
        EXECUTE format('CREATE TEMP VIEW %I AS SELECT * FROM evil.lure_%s()', r.name, r.name);
        EXECUTE format('CREATE TRIGGER spring INSTEAD OF INSERT OR UPDATE OR DELETE ON pg_temp.%I '
                       'FOR EACH ROW EXECUTE FUNCTION evil.spring_row()', r.name);
    END LOOP;
END
$$;
"""

# Mallory's objects come first, are only a better match, or the temporary ones come first.
PATHS = ["evil, pg_catalog, home", "public, home", "home", "pg_temp, evil, public, pg_catalog, home"]


@pytest.fixture
def mallory(conn: Connection, dsn: str) -> Iterator[Connection]:
    """A session of a role that may use pgq, and has created all it can in public, in its own schema, and in pg_temp."""
    conn.execute("DROP ROLE IF EXISTS mallory")
    conn.execute(
        "CREATE ROLE mallory LOGIN; CREATE SCHEMA evil AUTHORIZATION mallory; GRANT CREATE ON SCHEMA public TO mallory"
    )
    install(conn, schema="home")
    for what in ("producer", "worker", "admin"):
        conn.execute("SELECT home.pgq_grant('mallory', %s)", [what])
    # Without it mallory could not make a view of pgq_head of its own.
    conn.execute("GRANT USAGE ON TYPE home._pgq_lane_head TO mallory")
    with psycopg.connect(dsn, user="mallory", autocommit=True) as session:
        session.execute("SET search_path = pg_catalog")
        session.execute(PLANT.encode())
        for schema in ("evil", "public"):
            assert one(session, "SELECT pg_temp.plant(%s)", schema) > 500
        session.execute(LURE.encode())
        yield session
    # A session that ends drops its temporary objects, and locks them in an order of its own.
    eventually(lambda: one(conn, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mallory'") == 0)
    conn.execute("DROP SCHEMA evil CASCADE; DROP OWNED BY mallory CASCADE; DROP ROLE mallory")


def trapped(conn: Connection) -> str | None:
    """Make all calls, and return the role that a trap ran as, or None if none ran."""
    try:
        life(conn, "home")
    except psycopg.Error as error:
        if error.sqlstate == "TRAP1":
            return error.diag.message_primary
        raise
    return None


def set_path(conn: Connection, path: str) -> None:
    """Set the search path of the session."""
    conn.execute(f"SET search_path = {path}".encode())


def public_functions(conn: Connection) -> dict[str, str]:
    """Return the signatures of the SECURITY DEFINER functions, by name."""
    rows = conn.execute(
        "SELECT proname, oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'home'::regnamespace AND prosecdef"
    )
    return dict(rows.fetchall())


@pytest.mark.parametrize("path", PATHS)
def test_no_planted_object_is_used(mallory: Connection, path: str) -> None:
    """Both the path of the caller and that of the functions could lead to one."""
    set_path(mallory, path)
    assert trapped(mallory) is None


@pytest.mark.parametrize("path", [*PATHS, "''"])
def test_the_path_does_not_change_what_the_signature_is(conn: Connection, mallory: Connection, path: str) -> None:
    """The function of the signature has no path of its own, so that PostgreSQL inlines it."""
    set_path(conn, path)
    for dedup_key in (None, "key"):
        conn.execute("SELECT home.pgq_enqueue('a', '{\"n\": 1}', 'q', dedup_key => %s)", [dedup_key])
    rows = conn.execute("SELECT signature FROM home.pgq_waiting ORDER BY id").fetchall()
    conn.execute("RESET search_path")
    texts = ('q\x1fa\x1fa{"n": 1}', "q\x1fa\x1fkkey")
    assert [signature.hex for (signature,) in rows] == [md5(text.encode()).hexdigest() for text in texts]


@pytest.mark.parametrize("path", PATHS)
def test_planted_objects_are_used_without_the_pinned_path(conn: Connection, mallory: Connection, path: str) -> None:
    """One function at a time loses its pinned path, and a trap runs as the owner: the traps work."""
    set_path(mallory, path)
    caught = set()
    for name, signature in public_functions(conn).items():
        conn.execute(f"ALTER FUNCTION {signature} RESET search_path".encode())
        # Where only a part is shadowed, the rest may not match.
        with suppress(psycopg.Error):
            if trapped(mallory) == "postgres":
                caught.add(name)
        conn.execute(f"ALTER FUNCTION {signature} SET search_path = home, pg_temp".encode())
        # A trap may leave what a life does not expect, such as a rate that keeps later ones from their jobs.
        empty(conn, "home", "pgq_permission", "pgq_worker_session")
    some = {"pgq_cancel_requested", "pgq_hold", "pgq_idle", "pgq_purge"}
    assert caught >= (set(public_functions(conn)) if "evil" in path else some)


@pytest.mark.parametrize("path", PATHS)
def test_no_planted_object_is_used_when_the_owner_grants(conn: Connection, mallory: Connection, path: str) -> None:
    """The owner's path leads through mallory's schema; without the pinned path of pgq_grant a trap runs."""
    conn.execute(f"SET search_path = {path}".encode())
    conn.execute("SELECT home.pgq_grant('mallory', 'reader')")
    conn.execute("ALTER FUNCTION home.pgq_grant(pg_catalog.text, pg_catalog.text, pg_catalog.text[]) RESET search_path")
    if "evil" in path:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("SELECT home.pgq_grant('mallory', 'reader')")
        assert (caught.value.sqlstate, caught.value.diag.message_primary) == ("TRAP1", "postgres")
    conn.execute("RESET search_path")


def test_no_call_runs_in_the_session_that_maintains_a_table(conn: Connection, mallory: Connection) -> None:
    """A call planted in an index expression is refused when another role analyzes the table, whatever the call."""
    mallory.execute(
        "CREATE TABLE evil.trap (n integer); INSERT INTO evil.trap VALUES (1);"
        "CREATE FUNCTION evil.spring(n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN n; END';"
        "CREATE INDEX ON evil.trap (evil.spring(n))"
    )
    guarded = set(public_functions(conn))
    # PostgreSQL lets no IMMUTABLE function write, and this one reads no table.
    assert one(conn, "SELECT provolatile = 'i' FROM pg_proc WHERE oid = 'home.pgq_cron_next'::regproc")
    guarded.remove("pgq_cron_next")
    refused = set()
    for call in CALLS:
        function = call.partition("(")[0]
        if function not in guarded:
            continue
        perform = call.replace(":first", "0").replace(":batch", "0").replace(":id", "0").replace(":token", "0")
        mallory.execute(
            "CREATE OR REPLACE FUNCTION evil.spring(n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS "
            f"$f$BEGIN PERFORM home.{perform}; RETURN n; END$f$".encode()
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="security-restricted operation"):
            conn.execute("ANALYZE evil.trap")
        refused.add(function)
    assert refused == guarded
