"""pgq enqueue --stdin: jobs as lines of JSON, in batches, of which each is enqueued or not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.database import Connect, Connection, one
from support.processes import Done, installed, invoke

from pgq import Queue
from pgq.cli.lines import batches

Enqueue = Callable[..., Done]


@pytest.fixture
def enqueue(dsn: str) -> Enqueue:
    """Return a function that enqueues lines, each a job or text, and checks the exit code."""

    def enqueue(lines: list[Any], *options: str, code: int = 0) -> Done:
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        done = invoke("--dsn", dsn, "enqueue", "--stdin", *options, stdin=text)
        assert done.returncode == code, done
        return done

    return enqueue


def jobs(count: int) -> list[Any]:
    """Return so many jobs."""
    return [{"kind": "k", "args": n} for n in range(1, count + 1)]


def waiting(conn: Connection) -> list[Any]:
    """Return the arguments of the jobs that wait."""
    return [row[0] for row in conn.execute("SELECT args FROM pgq_waiting ORDER BY id")]


def test_each_line_is_a_job(enqueue: Enqueue, conn: Connection) -> None:
    """Its keys are the arguments of pgq_enqueue; an empty line is none, and the last may have no end."""
    lines = [
        {"kind": "mail", "args": {"to": "ann"}, "queue": "q", "priority": 2, "delay": "1 hour"},
        "",
        "  ",
        *jobs(2),
    ]
    assert enqueue(lines).stdout == "3 enqueued, 0 were already\n"
    assert conn.execute("SELECT queue, priority FROM pgq_waiting WHERE kind = 'mail'").fetchall() == [("q", 2)]
    assert json.loads(enqueue([*jobs(3), '{"kind": "k"}'], "--json").stdout) == {"created": 2, "duplicates": 2}
    assert enqueue([]).stdout == "0 enqueued, 0 were already\n"


def test_a_batch_is_a_transaction(enqueue: Enqueue, conn: Connection) -> None:
    enqueue(jobs(25), "--batch", "10")
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 25
    assert one(conn, "SELECT count(DISTINCT xmin::text) FROM pgq_waiting") == 3


@pytest.mark.parametrize(
    ("bad", "why"),
    [("{", "not JSON"), ("[]", "not an object"), ("1", "not an object"), ('{"kind": "k", "after": ["#1"]}', "position"),
     ({"kind": "k", "kin": 1}, 'unknown key "kin"'), ({"kind": "k", "priority": 11}, "priority 11"),
     ({"args": 1}, "kind"), ({"kind": "k", "args": "\0"}, "unsupported Unicode"),
     ('{"kind": "k", "args": NaN}', "JSON"), ({"kind": "k", "after": [10**12]}, "has been no job"),
     ({"kind": "k", "after": 5}, "after"), ({"kind": "k", "after": True}, "after"),
     ({"kind": "k", "args": 2, "on_duplicate": "error"}, "is waiting already")],
    ids=str,
)  # fmt: skip
def test_a_bad_line_is_named_and_its_batch_left_out(
    enqueue: Enqueue, conn: Connection, bad: str | dict[str, Any], why: str
) -> None:
    """The lines before its batch are enqueued. Once it is mended, --from-line goes on, and each job is there once."""
    lines = jobs(30)
    done = enqueue([*lines[:16], bad, *lines[17:]], "--batch", "10", code=1)
    assert done.stderr.splitlines()[0] == "pgq: the lines before 11 are enqueued; --from-line 11 goes on there"
    assert done.stderr.splitlines()[1].startswith("pgq: line 17: ")
    assert why in done.stderr
    assert waiting(conn) == list(range(1, 11))
    enqueue(lines, "--from-line", "11")
    assert waiting(conn) == list(range(1, 31))


def test_a_line_that_is_not_utf_8_or_endless_is_refused(
    dsn: str, enqueue: Enqueue, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not read as a whole."""
    monkeypatch.setattr("pgq.cli.lines.LONGEST_LINE", 1024**2)
    done = enqueue([jobs(1)[0], "x" * 3 * 1024**2], code=1)
    assert "pgq: line 2: longer than 1 MiB\n" in done.stderr
    # CliRunner encodes text; this is Latin-1.
    done = invoke("--dsn", dsn, "enqueue", "--stdin", stdin=b'\n{"kind": "\xe9"}\n')
    assert "pgq: line 2: not UTF-8" in done.stderr
    assert waiting(conn) == []


def test_a_role_that_may_not_use_a_queue_learns_which_line_names_it(dsn: str, conn: Connection, queue: Queue) -> None:
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk LOGIN")
    try:
        queue.grant("clerk", "producer", ["mine"])
        lines = "\n".join(json.dumps({"kind": "k", "args": n, "queue": "mine" if n < 5 else "yours"}) for n in range(9))
        done = invoke("--dsn", f"{dsn} user=clerk", "enqueue", "--stdin", stdin=lines)
        assert done.returncode == 1
        assert 'pgq: line 6: role "clerk" may not use queue "yours" as producer' in done.stderr
        assert "hint: Ask the owner of pgq" in done.stderr
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")


def test_a_lost_connection_is_no_fault_of_a_line(
    enqueue: Enqueue, conn: Connection, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is told, and that more may have been."""
    send = Queue.enqueue_many

    def cut(queue: Queue, jobs: Any) -> Any:
        if one(conn, "SELECT count(*) FROM pgq_waiting") == 20:
            connect().execute("SELECT pg_terminate_backend(%s)", [queue.conn.info.backend_pid])
        return send(queue, jobs)

    monkeypatch.setattr(Queue, "enqueue_many", cut)
    done = enqueue(jobs(50), "--batch", "10", code=1)
    told = done.stderr.splitlines()
    assert told[0] == "pgq: the lines before 21 are enqueued; --from-line 21 goes on there"
    assert told[1] == "pgq: the connection was lost, so some lines after these may be enqueued, too"
    assert "line 2" not in told[2]
    monkeypatch.undo()
    enqueue(jobs(50), "--from-line", "21")
    assert waiting(conn) == list(range(1, 51))


def test_a_file_is_not_read_into_memory() -> None:
    """Only a batch of it, and the bytes of a batch are bounded."""
    read: list[int] = []

    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1, /) -> bytes:
            read.append(1)
            return b'{"kind": "k", "args": "%s"}\n' % (b"x" * 1_000_000)

    found: Iterator[Any] = batches(Endless(), 1, 1000)  # type: ignore[arg-type]
    assert 10 < len(next(found)) < 20
    assert len(read) < 20


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(["k", "--stdin"], "--stdin takes no KIND"), (["--stdin", "--priority", "1"], "--stdin takes no --priority"),
     (["k", "--batch", "5"], "--batch: only with --stdin"), ([], "Missing argument 'KIND'"),
     (["--stdin", "--batch", "0"], "--batch")],
    ids=str,
)  # fmt: skip
def test_what_does_not_go_together_is_refused(dsn: str, arguments: list[str], why: str) -> None:
    done = invoke("--dsn", dsn, "enqueue", *arguments)
    assert done.returncode == 2
    assert why in done.stderr


def test_it_works_in_a_process(dsn: str, tmp_path: Any, conn: Connection) -> None:
    """Standard input is a file here, and the output no terminal: there is no bar."""
    (tmp_path / "jobs").write_text('{"kind": "k"}\n')
    with (tmp_path / "jobs").open() as file:
        done = installed("--dsn", dsn, "enqueue", "--stdin", stdin=file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 enqueued, 0 were already\n", "")
