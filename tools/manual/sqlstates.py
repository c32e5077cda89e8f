"""docs/errors.md, from each RAISE in the SQL: its message is the cause, its hint the cure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from psycopg import errors

import pgq
from manual.contents import ROOT
from pgq.errors import BY_SQLSTATE

# What each code means, and what a caller does about it in general. One that is missing here is an error.
MEANINGS: Final[Mapping[str, str]] = {
    "PGQ01": "There is no such job, or none in a queue that the role may use. In Python `pgq.JobNotFound`.",
    "PGQ02": "The token of the call does not hold the job any more: its lease has ended and another session has taken "
    "it, or it has ended. A worker rolls back what it did for the job, records nothing, and goes on with other jobs. "
    "If this comes often, handlers run longer than their lease: extend it, or claim fewer jobs at a time. In Python "
    "`pgq.LeaseLost`.",
    "PGQ03": "The job is in a state that does not allow the call. In Python `pgq.WrongState`.",
    "PGQ04": "A twin waits, and the enqueue said that this is an error. In Python `pgq.DuplicateJob`.",
    "22004": "An argument that must have a value is NULL. A mistake of the caller: trying again does not help.",
    "22008": "A time is out of range. A mistake of the caller.",
    "22023": "An argument has a value that makes no sense. A mistake of the caller: trying again does not help.",
    "2202E": "Two arrays that belong together differ in length. A mistake of the caller.",
    "25000": "A handler has ended the transaction in which its job was to be completed. In Python "
    "`pgq.TransactionEnded`.",
    "25001": "The isolation level does not allow the call.",
    "2BP01": "An object of yours depends on one that is to be removed or replaced.",
    "3F000": "No schema is found. In Python `pgq.NotInstalled`.",
    "42501": "The role lacks a privilege. The owner of pgq grants it with `pgq_grant`, see [Grants](grants.md).",
    "42704": "An object that is named does not exist.",
    "42710": "What is to be made is there already.",
    "42809": "The installation is of another kind than the script is for.",
    "54000": "A value is too large. Store it in a table of your own, and enqueue a reference: see "
    "[Large payloads](payloads.md).",
    "55000": "The database, or the schema, is not in the state that the call needs.",
    "55P03": "Another transaction has locked what the call needs, for longer than the call waits. Nothing has changed: "
    "try again. `pgq doctor` names [transactions that stay open](doctor.md#open-transaction).",
}
# What PostgreSQL itself raises in calls of pgq, and what single upgrades raise.
OTHERS: Final[Mapping[str, tuple[str, str]]] = {
    "08000, 08003, 08006, 57P01, 57P02, 57P03": (
        "the connection is lost, or the server stops, crashes or starts",
        "Connect again, as workers do. Whether a COMMIT whose reply is lost has counted, only the database knows.",
    ),
    "0A000": ("a claim on a standby server", "Connect to the primary."),
    "22007, 22008, 22003, 22P02": (
        "a text in the array of `pgq_enqueue_many`, or in settings, is no time, interval or number",
        "Correct the value.",
    ),
    "25006": ("an enqueue in a read-only transaction, or on a standby", "Connect to the primary, with writes allowed."),
    "25P03, 25P04, 57P05": (
        "a timeout of the server has ended the session: idle in a transaction, a long transaction, or idle",
        "Raise it for the role: see [short-timeout](doctor.md#short-timeout).",
    ),
    "26000, 42P05": (
        "a prepared statement is missing or there already: a pooler in transaction mode",
        "See [PgBouncer](pgbouncer.md).",
    ),
    "28000, 28P01, 3D000": (
        "the server refuses the role, the password or the database",
        "Correct the DSN, or at the server the password, its VALID UNTIL or pg_hba.conf.",
    ),
    "40001": ("a transaction in REPEATABLE READ or SERIALIZABLE has met a change of another one", "Try it again."),
    "40P01": (
        "two transactions wait for each other, as when both enqueue the same jobs in opposite order",
        "Try it again; enqueue in one order, or in one call: see [Enqueue](enqueue.md#duplicates).",
    ),
    "42883": (
        "no function of this name takes these types: pgq is not on the search path, or a parameter needs a cast",
        "Set the search path, or see [Casts](clients.md#casts).",
    ),
    "42P01": ("no view of this name: pgq is not on the search path", "Set the search path, or run `pgq install`."),
    "53100": ("the disk is full", "Make room: see [The database grows](operations.md#the-database-grows)."),
    "53300": (
        "the server, the database or the role has no connection left",
        "Close some: see [connections](doctor.md#connections).",
    ),
    "54000": (
        "besides what is said above: the database has used up its transaction ids",
        "See [wraparound](doctor.md#wraparound).",
    ),
    "55006": ("an upgrade to a release that is a clean break, while workers are present", "Stop the workers it names."),
    "57014": ("`statement_timeout`, or a request to cancel the statement", "Try it again, with more time."),
    "XX001, XX002": (
        "a table or an index is damaged",
        "Stop the workers, copy the files of the server, then restore; REINDEX mends an index, not a table.",
    ),
}
INTRODUCTION: Final = """\
# Errors

What each SQLSTATE means, why it is raised, and what to do. The tables are generated from the SQL: a row is a message
that pgq raises, in which `…` stands for a value, and its hint. Recognize an error by its SQLSTATE, never by its text,
which may change. The Python driver raises [classes of its own](#classes-of-the-python-driver), and [Any
connection](connections.md#errors) says where other drivers keep the SQLSTATE.
"""
TOKEN: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|;|[^';-]+|-", re.DOTALL)
LITERAL: Final = re.compile(r"'((?:[^']|'')*)'")


class Raised(NamedTuple):
    """An error that the SQL raises."""

    sqlstate: str
    message: str
    hint: str


def page() -> str:
    """Return the page."""
    by_code: dict[str, dict[Raised, None]] = {}
    for one in raised():
        by_code.setdefault(one.sqlstate, {})[one] = None
    if set(by_code) != set(MEANINGS):
        raise ValueError(f"MEANINGS and the SQL differ: {sorted(set(by_code) ^ set(MEANINGS))}")
    titles = {code: f"{code} {_condition(code)}".strip() for code in MEANINGS}
    contents = "".join(f"- [{title}](#{title.lower().replace(' ', '-')})\n" for title in titles.values())
    contents += "- [Errors of PostgreSQL](#errors-of-postgresql)\n"
    contents += "- [Classes of the Python driver](#classes-of-the-python-driver)\n"
    sections = [_section(titles[code], code, list(by_code[code])) for code in MEANINGS]
    return "\n".join([INTRODUCTION, contents, *sections, _others(), _classes()])


def raised() -> Iterator[Raised]:
    """Return what the SQL raises, in the order of the files."""
    for path in [*sorted(ROOT.glob("sql/[0-9]*.sql")), *sorted(ROOT.glob("sql/wrap/*.sql"))]:
        text = path.read_text(encoding="utf-8")
        for statement in re.finditer(r"\bRAISE EXCEPTION\s+(?=')", text):
            yield from _parsed(_until_semicolon(text[statement.end() :]))
        for problem in re.finditer(r"\bARRAY\['(\w{5})',(.*?)\]\n", text, re.DOTALL):
            message, hint = _split(problem[2])
            yield Raised(problem[1], _message(message), _sentences(hint))


def _until_semicolon(text: str) -> str:
    found = []
    for token in TOKEN.finditer(text):
        if token[0] == ";":
            break
        if not token[0].startswith("--"):
            found.append(token[0])
    return "".join(found)


def _parsed(statement: str) -> Iterator[Raised]:
    message, _, using = statement.partition("USING")
    code, _, hint = using.partition("HINT")
    codes = LITERAL.findall(code)
    if not codes:
        raise ValueError(f"no ERRCODE in: {statement}")
    for one in codes:
        yield Raised(_sqlstate(one), _message(message), _sentences(hint))


def _sqlstate(condition: str) -> str:
    """Return the SQLSTATE of a condition, which may be one already."""
    if re.fullmatch(r"[0-9A-Z]{5}", condition):
        return condition
    name = "".join(word.capitalize() for word in condition.split("_"))
    sqlstate: str = getattr(errors, name).sqlstate
    return sqlstate


def _condition(sqlstate: str) -> str:
    if sqlstate.startswith("PGQ"):
        return ""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", errors.lookup(sqlstate).__name__).lower()


def _split(text: str) -> tuple[str, str]:
    """Return the message and the hint of an array: the hint is what follows the last comma outside of parentheses."""
    depth, places, quoted = 0, [], False
    for n, character in enumerate(text):
        quoted ^= character == "'"
        if not quoted:
            depth += {"(": 1, ")": -1}.get(character, 0)
            if character == "," and depth == 0:
                places.append(n)
    return text[: places[-1]], text[places[-1] + 1 :]


def _literals(text: str) -> list[str]:
    """Return the strings of an expression; those that follow each other directly are one."""
    joined = re.sub(r"(?<=[^'(])'\s*\n\s*'", "", text)
    return [one.replace("''", "'") for one in LITERAL.findall(joined)]


def _message(text: str) -> str:
    """Return a message, in which … stands for a value; where it begins with one of several words, with all of them."""
    first, *words = _literals(text)
    if first.startswith("% ") and words:
        first = f"{' / '.join(words)}{first[1:]}"
    return re.sub(r"%[sLI]?|@\w+@", "…", first)


def _sentences(text: str) -> str:
    """Return the sentences of a hint, which may depend on a condition."""
    return " ".join(re.sub(r"%[sLI]", "…", one) for one in _literals(text) if re.match(r"\S+ .*\.$", one, re.DOTALL))


def _section(title: str, code: str, found: list[Raised]) -> str:
    rows = [f"| {_cell(one.message)} | {_cell(one.hint)} |" for one in found]
    return "\n".join([f"## {title}", "", MEANINGS[code], "", "| message | what to do |", "|---|---|", *rows, ""])


def _others() -> str:
    rows = [f"| {codes} | {why} | {cure} |" for codes, (why, cure) in OTHERS.items()]
    return "\n".join(
        [
            "## Errors of PostgreSQL",
            "",
            "What PostgreSQL itself raises in calls of pgq, and 55006, which an upgrade raises:",
            "",
            "| SQLSTATE | why | what to do |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _classes() -> str:
    """Return the classes of the driver, with their docstrings."""
    rows = []
    for one in pgq.Error.__subclasses__():
        if one.__name__ in pgq.__all__:
            codes = ", ".join(code for code, error in BY_SQLSTATE.items() if error is one)
            about = inspect.cleandoc(one.__doc__ or "").replace("``", "`")
            rows.append(f"| `pgq.{one.__name__}` | {codes} | {about} |".replace("|  |", "| |"))
    return "\n".join(
        [
            "## Classes of the Python driver",
            "",
            "The driver chooses a class by the SQLSTATE, never by the text of a message. All of them derive",
            "from `pgq.Error`, whose `hint` says what to do. A bad argument raises the class that psycopg has for its",
            "SQLSTATE, mostly `psycopg.DataError`, with a hint. `pgq.TimedOut` and `pgq.Cancelled`, which interrupt a",
            "handler, are `KeyboardInterrupt`s: `except Exception` does not catch them.",
            "",
            "| class | SQLSTATE | when |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _cell(text: str) -> str:
    """Return a text for a cell, in which Markdown leaves names, arrows and asterisks alone."""
    return re.sub(r"([*|<\[\]])", r"\\\1", re.sub(r"(?<![\w\"'])(_?[a-z]+(?:_[a-z]+)+)(?!\w)", r"`\1`", text))
