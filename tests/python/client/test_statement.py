"""Statements for any driver: the SQL of Queue, with the parameters in the style of the driver."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

import pgq
from pgq import Handlers, Queue
from pgq.calls import Calls
from pgq.statement import Paramstyle, in_style

# A name that would be taken for a parameter, and for the end of the name.
SCHEMA = 'a%s"b'


@pytest.mark.parametrize(
    ("paramstyle", "sql", "params"),
    [
        (
            "format",
            'SELECT id, created FROM "a%%s""b".pgq_enqueue(kind => %s::text, args => %s::jsonb, delay => %s::interval, '
            "priority => %s::bigint, after => %s::bigint[])",
            ("mail", '{"n":1}', "5 minutes 0 microseconds", 0, [7, 8]),
        ),
        (
            "pyformat",
            'SELECT id, created FROM "a%%s""b".pgq_enqueue(kind => %(kind)s::text, args => %(args)s::jsonb, '
            "delay => %(delay)s::interval, priority => %(priority)s::bigint, after => %(after)s::bigint[])",
            {
                "kind": "mail", "args": '{"n":1}', "delay": "5 minutes 0 microseconds", "priority": 0, "after": [7, 8],
            },
        ),
        (
            "numeric_dollar",
            'SELECT id, created FROM "a%s""b".pgq_enqueue(kind => $1::text, args => $2::text::jsonb, '
            "delay => $3::text::interval, priority => $4::bigint, after => $5::bigint[])",
            ("mail", '{"n":1}', "5 minutes 0 microseconds", 0, [7, 8]),
        ),
    ],
)  # fmt: skip
def test_the_parameters_are_in_the_style_of_the_driver(paramstyle: Paramstyle, sql: str, params: Any) -> None:
    """A driver with $1 is told the type of each by the server, so all that is sent as text is declared as text."""
    delay, after = timedelta(minutes=5), iter([7, 8])
    given = pgq.statement("mail", {"n": 1}, delay=delay, priority=0, after=after, schema=SCHEMA, paramstyle=paramstyle)
    assert given == (sql, params)


def test_every_call_can_be_made_a_statement() -> None:
    """Parameters that have no name in the call are numbered."""
    call = Calls(None, Handlers()).signal_key("k", "key", "approved", 7, "q")
    assert in_style(call, "pyformat") == (
        "SELECT pgq_signal_key(%(p1)s::text, %(p2)s::text, %(p3)s::text, %(p4)s::text, %(p5)s::jsonb)",
        {"p1": "q", "p2": "k", "p3": "key", "p4": "approved", "p5": "7"},
    )
    assert in_style(Calls(None, Handlers()).version(), "pyformat") == ("SELECT pgq_version()", {})


def test_an_unknown_style_is_refused() -> None:
    for paramstyle in ("qmark", "numeric", "named", "", None):
        with pytest.raises(ValueError, match="is none of format, pyformat and numeric_dollar"):
            pgq.statement("mail", paramstyle=cast("Paramstyle", paramstyle))


def test_a_statement_is_what_queue_executes(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults of handlers and the hook for what is not in JSON count in both."""
    known = Handlers()
    known.handler("k", queue="q", backoff=timedelta(hours=1), group_key=lambda args: str(args["n"]))(lambda job: None)
    known.json_default(lambda value: "converted")
    other = Queue(queue.conn, schema="public", handlers=known)
    sent: list[tuple[str, Any]] = []

    def rows(query: str, params: Any) -> list[tuple[Any, ...]]:
        sent.append((query, tuple(params)))
        return [(1, True)]

    monkeypatch.setattr(other, "_rows", rows)
    jobs: list[Any] = [
        {"kind": "k", "args": {"n": 1}, "priority": 3, "context": {"a": "b"}},
        {"kind": "l", "args": object(), "delay": "5 s"},
        {"kind": "l", "args": None},
    ]
    for job in jobs:
        other.enqueue(**job)
        other.enqueue_many([job])
        own: dict[str, Any] = {"schema": "public", "handlers": known}
        assert sent == [pgq.statement(**job, **own), pgq.statement_many([job], **own)]
        sent.clear()
