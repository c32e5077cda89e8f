"""What --json prints: for each command the keys and types of cli_json.json, which programs rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from support.database import Connection
from support.processes import invoke

from pgq import WorkerQueue
from pgq.cli import main

# By command, with the options that decide what is printed: an object, or a list of such objects, of types by key.
EXPECTED: dict[str, Any] = json.loads(Path(__file__).with_name("cli_json.json").read_text(encoding="utf-8"))
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "null": (type(None),),
    "array": (list,), "object": (dict,), "any": (object,),
}  # fmt: skip
# These serve until they are stopped.
SERVERS = {"worker", "metrics", "web"}


def commands() -> dict[str, click.Command]:
    """Return all commands but the servers, by the words that call them."""
    found: dict[str, click.Command] = {}
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {step}": one for step, one in command.commands.items()}
        elif name not in SERVERS:
            found[name] = command
    return found


def test_every_command_has_an_expectation() -> None:
    assert {name for name, one in commands().items() if any(option.name == "json_" for option in one.params)} == set(
        commands()
    )
    assert {key.partition(" --")[0] for key in EXPECTED} == set(commands())


def is_of(value: Any, types: str) -> bool:
    """Return whether a value has one of these types; a boolean is no number."""
    return any(
        isinstance(value, TYPES[one]) and (not isinstance(value, bool) or one in {"boolean", "any"})
        for one in types.split("|")
    )


def check(value: Any, expected: Any, where: str) -> None:
    """Check a value against its expectation. A list has at least one element: an empty one would show nothing."""
    if isinstance(expected, list):
        assert isinstance(value, list), where
        assert value, where
        for one in value:
            check(one, expected[0], where)
    elif isinstance(expected, dict):
        assert sorted(value) == sorted(expected), where
        for key, expectation in expected.items():
            check(value[key], expectation, f"{where}: {key}")
    else:
        assert is_of(value, expected), f"{where} is {value!r} and not {expected}"


@pytest.fixture
def lines(queue: WorkerQueue, conn: Connection) -> list[tuple[str, list[str], str | None]]:
    """The commands in an order in which each has something to show: what is expected, arguments, standard input."""
    dead, done = queue.enqueue_many([{"kind": "dead", "max_retries": 0}, {"kind": "done"}])
    queue.register("w", ["default"], "host", 7, ["k"])
    for job in queue.claim(max_jobs=2, worker="w"):
        if job.id == dead.id:
            queue.fail(job, "no")
        else:
            queue.complete(job, 1)
    first, second, third = queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    after = queue.enqueue("after", after=[third.id])
    return [
        ("version", ["version"], None),
        ("install", ["install"], None),
        ("upgrade", ["upgrade"], None),
        ("enqueue", ["enqueue", "new"], None),
        ("enqueue --stdin", ["enqueue", "--stdin"], '{"kind": "k"}'),
        ("enqueue-batch", ["enqueue-batch", "k", "{}", "-"], '[{"kind": "k"}]'),
        ("configure", ["configure", "default", "max_retries=3", "lease=1h", "sensitive=true"], None),
        ("configure", ["configure", "default", "sensitive=null"], None),
        ("batches", ["batches"], None),
        ("result", ["result", str(dead.id)], None),
        ("result", ["result", str(done.id)], None),
        ("signal", ["signal", str(first.id), "go"], None),
        ("update", ["update", str(first.id), "--priority", "3"], None),
        ("list", ["list"], None),
        *(("show", ["show", str(one)], None) for one in (dead.id, done.id, first.id, after.id)),
        ("show --tree", ["show", str(after.id), "--tree"], None),
        ("stats", ["stats"], None),
        ("stats --ever", ["stats", "--ever"], None),
        ("ps", ["ps"], None),
        ("queues", ["queues"], None),
        ("doctor", ["doctor"], None),
        ("top", ["top", "--once"], None),
        ("pause", ["pause", "default", "--until", "2040-01-01"], None),
        ("resume", ["resume", "default"], None),
        ("schedule set", ["schedule", "set", "s", "@daily", "k"], None),
        ("schedules", ["schedules"], None),
        ("schedule run", ["schedule", "run", "s"], None),
        ("schedules", ["schedules"], None),
        ("schedule pause", ["schedule", "pause", "s"], None),
        ("schedule resume", ["schedule", "resume", "s"], None),
        ("schedule sync", ["schedule", "sync", "pgq_schedules_of_a_test"], None),
        ("schedule remove", ["schedule", "remove", "s"], None),
        ("retry", ["retry", str(dead.id)], None),
        ("cancel", ["cancel", str(second.id), "--dry-run"], None),
        ("cancel", ["cancel", str(second.id)], None),
        ("purge --dry-run", ["purge", "--dry-run"], None),
        ("purge", ["purge"], None),
        ("grant", ["grant", "clerk", "reader", "--queue", "q"], None),
        ("revoke", ["revoke", "clerk", "reader"], None),
        ("uninstall", ["uninstall", "--force"], None),
    ]


def test_json_has_the_expected_keys_and_types(
    dsn: str,
    conn: Connection,
    lines: list[tuple[str, list[str], str | None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "pgq_schedules_of_a_test.py").write_text(
        "import pgq\n@pgq.handler('k of a test', schedule='@daily')\ndef k(job): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("pgq.handlers.default._by_kind", {})
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk")
    try:
        for name, arguments, stdin in lines:
            done = invoke("--dsn", dsn, *arguments, "--json", stdin=stdin)
            # The exit code of doctor tells what it has found.
            assert done.returncode == 0 or name == "doctor", (name, done)
            check(json.loads(done.stdout), EXPECTED[name], name)
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")
    assert {name for name, _, _ in lines} == set(EXPECTED)


def test_a_change_that_is_refused_is_a_row_with_its_error(dsn: str, queue: WorkerQueue) -> None:
    """The exit code is 1 as without --json; of several databases each row has its name."""
    job = queue.enqueue("k")
    done = invoke("--dsn", dsn, "cancel", "404", str(job.id), "--json")
    assert done.returncode == 1
    refused, cancelled = json.loads(done.stdout)
    assert (refused["id"], refused["outcome"], refused["error"]) == (404, None, "there is no job 404")
    assert refused["hint"]
    assert cancelled == {"id": job.id, "outcome": "cancelled", "error": None, "hint": None}
