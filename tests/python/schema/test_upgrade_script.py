"""The script that completes upgrade scripts: what it makes of two releases, and what it does not let pass."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
import upgrade_script
from check_sql import squawk_problems
from support.database import As, one
from support.installed import PLAIN, VERSION, put, run, schema
from support.paths import ROOT
from support.servers import Place
from upgrade_script import Unclear, complete

OLD = """
CREATE TABLE t (
    a integer NOT NULL
);

CREATE INDEX t_a ON t (a);

COMMENT ON TABLE t IS 'A table; with a semicolon.';
COMMENT ON COLUMN t.a IS 'A column.';

-- Adds one.
CREATE FUNCTION one(a integer, b text DEFAULT 'x, y') RETURNS integer
    LANGUAGE sql
    RETURN a + 1;

COMMENT ON FUNCTION one(integer, text) IS 'One more.';


CREATE FUNCTION two(a integer, OUT b integer)
    LANGUAGE plpgsql
AS $two$
BEGIN
    b := one(a); -- it's here
END
$two$;

COMMENT ON FUNCTION two(integer) IS 'Two.';


CREATE VIEW v AS
SELECT t.a, one(t.a) AS b
FROM t;

CREATE VIEW w AS
SELECT b
FROM v;

REVOKE ALL ON TABLE t, v, w FROM PUBLIC;
REVOKE ALL ON FUNCTION one, two FROM PUBLIC;
"""
WRITTEN = "-- Why.\n\n-- @drop\n\n-- @create\n"
BLOCK = re.compile(r"\n*--[^@]*?DO \$(upgrade_privileges_\w+)\$.*?\$\1\$;\n*", re.DOTALL)


def change(before: str, after: str, written: str = WRITTEN) -> str:
    """The script for one change of the text, without the blocks that keep privileges."""
    assert before in OLD
    text = complete(OLD, OLD.replace(before, after), written)
    kept = re.sub(
        r"^-- (DROP takes|Give back).*?\$upgrade_privileges_\w+\$;\n", "", text, flags=re.DOTALL | re.MULTILINE
    )
    return re.sub(r"\n+", "\n", kept).removeprefix("-- Why.\n")


def test_what_is_the_same_is_not_touched() -> None:
    """Nor is it when only the comment above it or, without a string for a body, the layout has changed."""
    assert change("RETURN a + 1", "RETURN\n        a + 1") == ""
    assert change("-- Adds one.", "-- Adds 1.") == ""


def test_a_table_that_is_only_set_otherwise_is_the_same() -> None:
    """Line breaks, blanks and comments do not count."""
    assert change("a integer NOT NULL\n", "-- A number.\n    a   integer\n        NOT NULL\n") == ""


def test_a_new_body_replaces() -> None:
    """CREATE OR REPLACE, and the comment only if it has changed."""
    assert change("b := one(a)", "b := 2").startswith("CREATE OR REPLACE FUNCTION two(a integer, OUT b integer)\n")
    assert change("'One more.'", "'More.'") == "COMMENT ON FUNCTION one(integer, text) IS 'More.';\n"
    assert change("'A column.'", "'Some.'") == "COMMENT ON COLUMN t.a IS 'Some.';\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("two(a integer, OUT b integer)", "two(x integer, OUT b integer)"),
        ("two(a integer, OUT b integer)", "two(a integer, OUT c integer)"),
        ("two(a integer, OUT b integer)", "two(a integer, OUT b bigint)"),
        ("two(a integer, OUT b integer)", "two(a integer, c integer, OUT b integer)"),
    ],
    ids=["an argument's name", "a result's name", "a result's type", "one more"],
)
def test_other_arguments_and_results_take_a_drop(before: str, after: str) -> None:
    """And what is made anew gets its comment, and nobody else may call it."""
    text = change(before, after)
    assert text.startswith("DROP FUNCTION two(integer);\nCREATE FUNCTION two(")
    assert "COMMENT ON FUNCTION two(integer) IS 'Two.';\n" in text
    assert text.endswith("REVOKE ALL ON FUNCTION\n    two\nFROM PUBLIC;\n")


def test_a_new_default_takes_none() -> None:
    """A default that is gone does: PostgreSQL does not let it go."""
    assert "DROP" not in change("DEFAULT 'x, y'", "DEFAULT 'z'")
    assert "DROP FUNCTION one(integer, text);" in change(" DEFAULT 'x, y'", "")


def test_what_stands_on_a_dropped_one_is_dropped_before() -> None:
    """And made anew after it, in load order; a body that is a string stands on nothing."""
    text = change("one(a integer,", "one(n integer,").replace("RETURN a", "RETURN n")
    assert re.findall(r"^(?:DROP|CREATE) .*?(?=[(;]| AS)", text, re.MULTILINE) == [
        "DROP VIEW w", "DROP VIEW v", "DROP FUNCTION one", "CREATE FUNCTION one", "CREATE VIEW v", "CREATE VIEW w",
    ]  # fmt: skip
    assert "-- Adds one.\nCREATE FUNCTION one" in text
    assert "REVOKE ALL ON TABLE\n    v,\n    w\nFROM PUBLIC;" in text


def test_a_view_is_replaced_as_long_as_its_columns_are_there() -> None:
    """New ones come last."""
    assert change("AS b\nFROM", "AS b, t.a AS c\nFROM").startswith("CREATE OR REPLACE VIEW v AS\n")
    assert change("t.a, one(t.a) AS b", "one(t.a) AS b, t.a").startswith("DROP VIEW w;\nDROP VIEW v;\n")
    assert change("t.a, one", "t.a + 1 AS a, one", WRITTEN.replace("@drop", "@drop v")).startswith("DROP VIEW w;\n")


def test_a_new_table_comes_with_all_that_is_its_own() -> None:
    """Indexes, comments, privileges; on what it does not have it does not touch the old ones."""
    new = OLD.replace(
        "-- Adds",
        "CREATE TABLE n (\n    a integer GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME n_number CYCLE)\n);\n\n"
        "CREATE INDEX n_a ON n (a);\n\nCOMMENT ON TABLE n IS 'New.';\n"
        "ALTER TABLE n ALTER a SET STORAGE EXTERNAL;\n\n-- Adds",
    ).replace("ON TABLE t, v", "ON TABLE t, n, v")
    new += "REVOKE ALL ON SEQUENCE n_number, other FROM PUBLIC;\n"
    text = complete(OLD, new, WRITTEN)
    for part in (
        "CREATE TABLE n (", "CREATE INDEX n_a ON n", "IS 'New.'", "ALTER TABLE n ALTER a", "ON TABLE\n    n\nFROM",
        "ON SEQUENCE\n    n_number\nFROM",
    ):  # fmt: skip
        assert part in text
    assert "CREATE TABLE t" not in text
    assert "t_a" not in text
    # The next one drops it.
    written = WRITTEN.replace("-- @create", "DROP TABLE n;\n\n-- @create")
    assert "CREATE" not in complete(new, OLD, written).partition("$upgrade_privileges_restore$")[0].partition("-- @")[2]
    with pytest.raises(Unclear, match="table n is gone, and the written script neither drops nor renames it"):
        complete(new, OLD, WRITTEN)


def test_a_table_may_be_renamed_or_made_anew() -> None:
    """As the written script says."""
    new = re.sub(r"\bt\b", "u", OLD).replace("u_a", "t_a").replace("(t_a)", "(a)")
    written = WRITTEN.replace("-- @create", "ALTER TABLE t RENAME TO u;\n\n-- @create")
    assert "CREATE TABLE" not in complete(OLD, new, written)
    written = WRITTEN.replace("-- @create", "DROP TABLE t;\n\n-- @create")
    text = complete(OLD, OLD.replace("a integer NOT NULL", "a bigint"), written)
    assert "DROP VIEW w;\nDROP VIEW v;\n" in text
    assert "CREATE TABLE t (\n    a bigint\n);" in text
    assert "CREATE INDEX t_a ON t" in text


@pytest.mark.parametrize(
    ("before", "after", "written", "message"),
    [
        ("'x, y'", "'x, y'", "-- @create\n", "must have one line '-- @drop', and has 0"),
        ("'x, y'", "'x, y'", "\n-- @drop\n", "must have one line '-- @create', and has 0"),
        ("'x, y'", "'x, y'", WRITTEN + "-- @create\n", "must have one line '-- @create', and has 2"),
        ("'x, y'", "'x, y'", "\n-- @create\n\n-- @drop\n", "'-- @drop' must stand before '-- @create'"),
        ("'x, y'", "'x, y'", WRITTEN + "-- @creates\n", "unknown marker: -- @creates"),
        ("'x, y'", "'x, y'", WRITTEN.replace("@drop", "@drop gone"), "names gone, which the release before"),
        ("'x, y'", "'x, y'", WRITTEN + "-- @renamed one\n", "takes an old and a new name"),
        ("'x, y'", "'x, y'", WRITTEN + "-- @renamed one two\n", "must name an object that is gone"),
        ("a integer NOT", "a bigint NOT", WRITTEN, "table t has changed, and no statement of the written script"),
        ("ON t (a);", "ON t (a, a);", WRITTEN, "index t_a has changed, and no statement"),
        ("CREATE INDEX t_a ON t (a);", "", WRITTEN, "index t_a is gone, and the written script neither"),
        ("(a);\n\nC", "(a);\nCREATE INDEX i ON t (a);\n\nC", WRITTEN, "index i is new on a table that is not"),
        ("(a);\n\nC", "(a);\nALTER TABLE t ALTER a SET STATISTICS 1;\n\nC", WRITTEN, "the written script must do this"),
        ("CREATE VIEW w", "CREATE DOMAIN d AS text;\n\nCREATE VIEW w", WRITTEN, "statement: 'CREATE DOMAIN"),
        ("CREATE VIEW w", "CREATE TABLE v (\n);\n\nCREATE VIEW w", WRITTEN, "there are two objects of the name v"),
        ("one(a integer,", "one(integer,", WRITTEN, "cannot parse an argument of function one: 'integer'"),
        ("two(a integer, OUT b integer)", "two (a integer)", WRITTEN, "cannot parse the arguments of function two"),
        ("    LANGUAGE plpgsql\n", "", WRITTEN, "cannot parse what function two returns"),
        ("SELECT b\nFROM v", "VALUES (1)", WRITTEN, "cannot parse view w: no AS SELECT"),
        ("SELECT b\nFROM v", "SELECT 1 AS b", WRITTEN, "cannot parse view w: no FROM"),
        ("SELECT b\nFROM v", "SELECT b + 1\nFROM v", WRITTEN, "name of a column of view w: 'b + 1'"),
        ("'One more.';", "'One more.;", WRITTEN, "does not end"),
        ("$two$;", "$tow$;", WRITTEN, "does not end"),
        ("one, two FROM PUBLIC;", "one, two FROM PUBLIC", WRITTEN, "a statement does not end: 'REVOKE"),
    ],
)  # fmt: skip
def test_what_it_does_not_understand_it_does_not_let_pass(before: str, after: str, written: str, message: str) -> None:
    """Nor what the written script must decide and does not."""
    with pytest.raises(Unclear) as caught:
        change(before, after, written)
    assert message in str(caught.value)


def test_values_that_a_table_stores_are_not_forgotten() -> None:
    """A function that made them may change only together with them, or if it returns the same."""
    stored = OLD.replace("(a);\n", "(one(a));\n", 1)
    changed = stored.replace("RETURN a + 1", "RETURN a + 2")
    with pytest.raises(Unclear, match="function one has changed, and t_a stores what it returned"):
        complete(stored, changed, WRITTEN)
    for marker in ("rewritten", "same"):
        assert "CREATE OR REPLACE FUNCTION one" in complete(stored, changed, f"{WRITTEN}-- @{marker} one\n")


def test_an_error_names_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, with the exit status by which make stops."""
    for name, text in (("old", OLD), ("new", OLD), ("written", "")):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in ("old", "new", "written")]
    assert upgrade_script.main(*files) == 1
    assert capsys.readouterr() == ("", f"{files[2]}: the script must have one line '-- @drop', and has 0\n")
    (tmp_path / "written").write_text(WRITTEN)
    assert upgrade_script.main(*files) == 0


def test_squawk_still_finds_what_blocks_callers(tmp_path: Path) -> None:
    """In the complete script of this version, which is exempt from some rules."""
    text = (ROOT / f"build/complete/pgq--0.2.0--{VERSION}.sql").read_text()
    script = tmp_path / "script.sql"
    script.write_text(text)
    assert list(squawk_problems([script])) == []
    for danger, rule in (
        ("ALTER TABLE pgq_waiting ALTER COLUMN priority TYPE integer;", "changing-column-type"),
        ("CREATE INDEX i ON pgq_waiting (kind);", "require-concurrent-index-creation"),
        ("ALTER TABLE pgq_waiting ADD COLUMN probe integer NOT NULL;", "adding-required-field"),
        ("ALTER TABLE pgq_waiting DROP COLUMN context;", "ban-drop-column"),
        ("DROP TABLE pgq_ended;", "ban-drop-table"),
    ):
        script.write_text(f"{text}\n{danger}\n")
        assert rule in "".join(squawk_problems([script])), danger


# In the complete script of this version, one thing left out: an object that is new, one that is replaced, a drop, a
# comment, a REVOKE.
FORGOTTEN = {
    "a new function": r"^CREATE FUNCTION pgq_remaining\(.*?^COMMENT[^;]*;\n",
    "a new body": r"^CREATE OR REPLACE FUNCTION pgq_enqueue_many\(.*?^\$pgq_enqueue_many\$;\n",
    "a drop": r"^DROP FUNCTION _pgq_steps[^\n]*\n",
    "a comment": r"^COMMENT ON COLUMN pgq_permission\.privilege[^\n]*\n",
    "a table's comment": r"^COMMENT ON TABLE pgq_head[^;]*;\n",
    "a REVOKE": r"^    pgq_reconcile,\n",
    "a rename": r"^ALTER TABLE pgq_worker_session RENAME CONSTRAINT pgq_worker_number_key[^\n]*\n",
}


@pytest.mark.parametrize("pattern", FORGOTTEN.values(), ids=FORGOTTEN.keys())
def test_what_the_script_forgets_is_noticed(as_: As, place: Place, dsn: str, pattern: str) -> None:
    """By the comparison of an upgraded installation with a new one, if the upgrade itself does not fail."""
    text = (ROOT / f"build/upgrades/0.2.0--{VERSION}.sql").read_text()
    mutant, count = re.subn(pattern, "", text, count=1, flags=re.DOTALL | re.MULTILINE)
    assert count == 1
    owner = as_("owner")
    run(owner, PLAIN)
    new = schema(place, dsn)
    owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    put(owner, "plain", "0.2.0")
    try:
        run(owner, mutant.encode())
    except psycopg.Error:
        assert one(owner, "SELECT pgq_version()") == "0.2.0"
    else:
        assert schema(place, dsn) != new
