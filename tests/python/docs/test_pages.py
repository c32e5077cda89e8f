"""The documentation is complete, agrees with the program, and its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import tomllib

import click
import psycopg
import pytest
from manual.__main__ import PAGES
from manual.contents import parts
from sql_reference import PAGE, reference
from support.database import Connection
from support.pages import Page, cells, pages
from support.paths import ROOT

import pgq
from pgq.cli import main
from pgq.errors import BY_SQLSTATE
from pgq.metrics.families import empty_families

README, WORKERS, FAILURES = Page("README.md"), Page("docs/workers.md"), Page("docs/failures.md")
CONTRIBUTING, DESIGN = Page("CONTRIBUTING.md"), Page("docs/design.md")
# What users of queues search for.
WORDS = (
    "backoff", "batch size", "cancel", "config", "connection", "dead letters", "dedup", "executor", "health",
    "heartbeat", "lease", "listen", "logging", "metrics", "notify", "orphan", "permission", "poll", "register",
    "rescue", "retry", "runner", "shutdown", "systemd", "timeout", "unique", "version",
)  # fmt: skip


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in pages()])
def test_links_lead_somewhere(page: Page) -> None:
    """A relative link names a file, and a fragment one of its headings."""
    broken = []
    for link in page.links():
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = Page(str((page.path.parent / path).resolve().relative_to(ROOT.resolve()))) if path else page
        if not target.path.exists() or (fragment and fragment not in target.anchors()):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in pages()])
def test_a_page_has_one_title(page: Page) -> None:
    """It is the first line."""
    assert re.findall(r"^# .*$", page.prose, flags=re.MULTILINE) == [page.text.splitlines()[0]]


def test_the_contents_list_every_page_once() -> None:
    """The navigation of the site, and llms.txt, are made from docs/README.md. The README links to it."""
    listed = [entry.path for part in parts() for entry in part.entries]
    assert len(listed) == len(set(listed))
    assert {page.name for page in pages() if page.name.startswith("docs/")} - {"docs/README.md"} <= set(listed)
    assert "docs/README.md" in README.links()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    """After a change to a docstring, a command, or an error of the SQL, call make reference."""
    assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name]()


def test_the_python_reference_has_every_public_name() -> None:
    """Each has a heading of its own."""
    assert set(pgq.__all__) <= set(re.findall(r"^### (\w+)$", Page("docs/python.md").text, flags=re.MULTILINE))


def test_the_reference_of_commands_has_every_option() -> None:
    """Each is named in the section of its command; --dsn and --schema are described once."""
    page = Page("docs/cli.md")

    def check(command: click.Command, name: str) -> None:
        if isinstance(command, click.Group):
            for one in command.commands.values():
                check(one, f"{name} {one.name}")
            return
        options = {opt for option in command.params if isinstance(option, click.Option) for opt in option.opts}
        section = page.section(name)
        assert {option for option in options - {"--dsn", "--schema"} if f"`{option}" not in section} == set(), name

    check(main, "pgq")


def test_the_page_of_errors_has_every_sqlstate_that_is_raised(conn: psycopg.Connection[tuple[str]]) -> None:
    """Those that functions of the installed pgq name, but the one that they catch themselves."""
    raised = {
        code
        for (source,) in conn.execute("SELECT prosrc FROM pg_proc WHERE proname ~ '^_?pgq_'")
        for found in re.findall(r"ERRCODE = '(\w+)'|ARRAY\['(\w{5})',|(?:THEN|ELSE) '(\d\w{4})'", source)
        for code in found
        if code
    }
    headings = re.findall(r"^## (.*)$", Page("docs/errors.md").text, flags=re.MULTILINE)
    words = {word for heading in headings for word in heading.split()}
    assert len(raised) > 15
    assert {code for code in raised if code not in words} == set()


def test_concepts_name_tests_that_exist() -> None:
    """Each idea has a promise, and tests that keep it."""
    page = Page("docs/concepts.md")
    tests = {
        name
        for path in (ROOT / "tests/python").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    ideas = page.text.split("\n## ")[1:]
    assert len(ideas) == 10
    for idea in ideas:
        promise, _, kept = idea.partition("**Kept by**")
        assert "**Promise.**" in promise
        named = set(re.findall(r"`(test_\w+)`", kept))
        assert named, idea
        assert named <= tests


def test_the_comparison_has_a_source_for_each_queue() -> None:
    """It has a section of its own, and links to a repository name the commit, so that they can be checked later."""
    page = Page("docs/comparison.md")
    sources = page.section("Sources").split("\n### ")[1:]
    for table in ("What each guarantees", "What each can do"):
        names = [re.sub(r"\[(.*)\]\(.*\)", r"\1", cell) for cell in cells(page.section(table))]
        assert names == ["**pgq**", *(source.splitlines()[0] for source in sources)]
    assert all("](https://" in source for source in sources)
    assert [link for link in page.links() if "/blob/" in link and not re.search("/blob/[0-9a-f]{40}/", link)] == []


def test_the_page_of_settings_has_every_key() -> None:
    """The keys of pgq_configure, and no others."""
    page = Page("docs/settings.md")
    command = inspect.cleandoc(main.commands["configure"].help or "")
    known = re.search(r"KEY is one of (.*?)\.", command, flags=re.DOTALL)
    assert known is not None
    keys = set(re.split(r",\s+|\s+and\s+", known[1]))
    assert {cell.strip("`") for cell in cells(page.section("Settings of a queue"))} == keys


def test_the_page_of_settings_has_every_environment_variable() -> None:
    """Those that the program reads by name, but the one that a supervisor sets for its processes."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "python/src/pgq").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\.pop\(|\[)\"(\w+)\"|envvar=\"(\w+)\"", source))
    section = Page("docs/settings.md").section("Environment variables")
    assert len(read) > 3
    assert {name for names in read for name in names if name and f"`{name}`" not in section} == set()


def test_the_page_of_settings_has_every_extra() -> None:
    """Those for users, with the packages that they bring."""
    project = tomllib.loads((ROOT / "python/pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"]) - {"bench", "dev", "docs", "moves"}
    section = Page("docs/settings.md").section("Extras of the Python package")
    assert {cell.strip("`") for cell in cells(section)} == extras


def test_the_sql_reference_is_that_of_the_build(conn: Connection) -> None:
    """After a change to a comment or a signature, run tools/sql_reference.py."""
    conn.execute("CREATE SCHEMA reference")
    conn.execute("SET search_path = reference")
    conn.execute((ROOT / "build/pgq.sql").read_bytes())
    assert PAGE.read_text(encoding="utf-8") == reference(conn)


def test_the_pages_name_only_functions_and_views_that_exist(conn: psycopg.Connection[tuple[str]]) -> None:
    """
    Those of the test kits and metrics count. Exceptions are names of schemas and of reserved tables, and the command
    of Django.
    """
    kits = "".join((ROOT / "python/src/pgq" / name).read_text() for name in ("pgq_tap.sql", "pytest_plugin.py"))
    there = {"pgq_worker", *re.findall(r"^(?:CREATE OR REPLACE FUNCTION|def) (\w+)", kits, flags=re.MULTILINE)}
    there |= empty_families().keys() | {
        row[0]
        for row in conn.execute(
            "SELECT proname::text FROM pg_proc WHERE proname ~ '^_?pgq_' UNION ALL "
            "SELECT relname::text FROM pg_class WHERE relname ~ '^_?pgq_'"
        )
    }
    named = {name for page in pages() for name in re.findall(r"(?<![\w.{])_?pgq_[a-z_]*[a-z]\b(?![.*…])", page.text)}
    assert named <= there


def test_the_readme_names_every_command() -> None:
    """It names no other command."""
    shell = next(block for block in README.blocks("sh") if "pgq install" in block)
    named = set(re.findall(r"^pgq ([a-z]+)", shell, flags=re.MULTILINE))
    also = re.search(r"# also: (.*)$", shell, flags=re.MULTILINE)
    assert also is not None
    assert named | set(also[1].split(", ")) == {name for name, command in main.commands.items() if not command.hidden}


def test_the_page_of_workers_names_every_option() -> None:
    """It names no other option, and their defaults are those of the program."""
    worker = main.commands["worker"]
    options = {
        option.opts[0]: option
        for option in worker.params
        if isinstance(option, click.Option) and not option.hidden and option.opts[0] != "--help"
    }
    table = WORKERS.section("Options")
    assert [name.strip("`") for name in cells(table)] == list(options)
    for name, default in zip(cells(table), cells(table, 1), strict=True):
        option = options[name.strip("`")]
        if default and name != "`--name`":
            shown = option.default[0] if isinstance(option.default, tuple) else option.default
            assert default.strip("`") == str(shown), name


def test_the_page_of_errors_names_every_class() -> None:
    """It stands beside the SQLSTATEs that raise it."""
    table = Page("docs/errors.md").section("Classes of the Python driver")
    told = dict(zip(cells(table), cells(table, 1), strict=True))
    raised: dict[str, list[str]] = {
        f"`pgq.{name}`": []
        for name in pgq.__all__
        if isinstance(one := getattr(pgq, name), type) and issubclass(one, pgq.Error) and one is not pgq.Error
    }
    for sqlstate, error in BY_SQLSTATE.items():
        raised[f"`pgq.{error.__name__}`"].append(sqlstate)
    assert told == {name: ", ".join(sqlstates) for name, sqlstates in raised.items()}


def test_every_row_of_what_happens_when_is_backed_by_a_test() -> None:
    """A marker of some test equals the first cell of each row, and no marker has another text."""
    said = cells(FAILURES.text)
    marked = {
        when
        for path in (ROOT / "tests/python").glob("*/test_*.py")
        for when in re.findall(r'^@pytest\.mark\.happens\("(.*)"\)$', path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(said) == len(set(said)) > 20
    assert marked == set(said)


def path_ends() -> set[str]:
    """Return the ends of the paths of all files and folders of the sources, whole names only."""
    tops = [path for path in ROOT.iterdir() if path.name != "build" and not path.name.startswith(".")]
    paths = [path.relative_to(ROOT) for top in tops for path in (top, *top.rglob("*"))]
    return {"/".join(path.parts[n:]) for path in paths for n in range(len(path.parts))}


def test_the_map_names_files_that_exist() -> None:
    """A name on the map is the end of a path, so that files may move to another folder."""
    named = re.findall(r"`([\w./]+(?:\.py|\.sql|\.control|/))`", CONTRIBUTING.text.split("## Run tests")[0])
    assert len(named) > 80
    assert {name.rstrip("/") for name in named} - path_ends() == set()


def test_the_map_names_every_stage() -> None:
    """Each SQL file, or the range from one to another, is on it."""
    sources = sorted(path.name for path in (ROOT / "sql").glob("[1-9]*.sql"))
    column = " ".join(cells(CONTRIBUTING.section("Find your way"), 1))
    ranges = re.findall(r"`(\d\d_\w+\.sql)`(?: to `(\d\d_\w+\.sql)`)?", column)
    mapped = {name for name in sources for first, last in ranges if first <= name <= (last or first)}
    assert sorted(mapped) == sources


def test_the_map_names_what_a_stranger_looks_for() -> None:
    """Each word leads to a file, or to the reason why there is none."""
    listed = {word for cell in cells(CONTRIBUTING.section("Where is it?")) for word in cell.split(", ")}
    assert set(WORDS) <= listed


def test_the_glossary_has_each_term_once() -> None:
    """It decides about names, so it cannot say two things."""
    terms = re.findall(r"\*\*(.+?)\*\*", " ".join(cells(DESIGN.section("Glossary"))))
    assert len(terms) == len(set(terms)) > 30
