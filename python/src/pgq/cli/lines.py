"""Enqueue jobs from lines of JSON: in batches, each of which is one transaction."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final, NamedTuple, cast

import click

from pgq.cli.errors import CommandError, command_errors
from pgq.cli.progress import Progress
from pgq.cli.values import from_json
from pgq.new_job import NewJob
from pgq.queue import Queue

# Bytes: more than arguments and context may have, and what a batch has at most, if it has more than one line.
LONGEST_LINE: Final = 8 * 1024**2
LARGEST_BATCH: Final = 16 * 1024**2
# What the server raises for a job, beside bad values: a queue that the role may not use, an unknown id, a duplicate,
# JSON that is nested too deep, and text that a database in SQL_ASCII cannot hold.
REFUSED: Final = frozenset(("42501", "PGQ01", "PGQ04", "54001", "0A000"))


class Line(NamedTuple):
    """A line that names a job: its number, the bytes up to its end since the line before, and the job."""

    number: int
    size: int
    job: NewJob


class Enqueued(NamedTuple):
    """How many jobs a file has created, and how many there were already."""

    created: int
    duplicates: int


def bad_line(number: int, message: str, hint: str | None = None) -> CommandError:
    """Return the error for a line."""
    return CommandError(f"line {number}: {message}", hint)


def job_of(number: int, text: bytes) -> NewJob:
    """Return the job that a line names. Raises CommandError."""
    try:
        job = from_json(text.decode())
    except UnicodeDecodeError as error:
        raise bad_line(number, f"not UTF-8: {error.reason}") from error
    except click.BadParameter as error:
        raise bad_line(number, error.message) from error
    if not isinstance(job, dict):
        raise bad_line(number, "not an object", 'Make each line an object such as {"kind": "mail", "args": 1}.')
    after = job.get("after")
    if isinstance(after, list) and any(isinstance(one, str) for one in after):
        raise bad_line(
            number,
            "after names the position of another job, which may be in another batch",
            "Name ids, or enqueue jobs that belong together by one call, such as pgq enqueue-batch.",
        )
    # The server checks the keys.
    return cast(NewJob, job)


def lines(file: BinaryIO, begin: int) -> Iterator[Line]:
    """Yield the lines of a file from a number on, without those that are empty. Raises CommandError."""
    number = size = 0
    while text := file.readline(LONGEST_LINE):
        number += 1
        size += len(text)
        if len(text) == LONGEST_LINE and not text.endswith(b"\n"):
            raise bad_line(number, f"longer than {LONGEST_LINE // 1024**2} MiB")
        if number >= begin and text.strip():
            yield Line(number, size, job_of(number, text))
            size = 0


def batches(file: BinaryIO, begin: int, most: int) -> Iterator[list[Line]]:
    """Yield these lines in batches. What is before a bad line is yielded first, but not that batch."""
    batch: list[Line] = []
    size = 0
    for line in lines(file, begin):
        if batch and (len(batch) == most or size + line.size > LARGEST_BATCH):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += line.size
    if batch:
        yield batch


def size_of(file: BinaryIO) -> int | None:
    """Return the number of bytes of a regular file."""
    try:
        found = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_about_a_job(error: BaseException | None) -> bool:
    """Return whether an error comes from what a line says: not from a lock, a limit of the server or the connection."""
    sqlstate = getattr(error, "sqlstate", None) or ""
    return isinstance(error, TypeError | ValueError) or sqlstate[:2] == "22" or sqlstate in REFUSED


def refusal_of(queue: Queue, batch: Sequence[Line]) -> CommandError | None:
    """Return why a batch is refused, without enqueueing it; None if it is not."""
    try:
        with command_errors(queue.conn), queue.conn.transaction(force_rollback=True):
            queue.enqueue_many(line.job for line in batch)
    except CommandError as error:
        if not is_about_a_job(error.__cause__):
            raise
        return error
    return None


def refused_line(queue: Queue, batch: Sequence[Line], error: CommandError) -> CommandError:
    """Return the error for the first line of a batch that is refused, which is found by trying halves."""
    good, bad = 0, len(batch)
    while bad - good > 1:
        middle = (good + bad) // 2
        if refusal_of(queue, batch[:middle]) is None:
            good = middle
        else:
            bad = middle
    line = batch[bad - 1]
    # The line may be refused beside the others only.
    why = refusal_of(queue, [line]) or error
    return bad_line(line.number, why.message, why.hint)


def enqueue_batch(queue: Queue, batch: Sequence[Line]) -> list[bool]:
    """Enqueue a batch; return of each job whether it was created. Raises CommandError."""
    try:
        with command_errors(queue.conn):
            return [one.created for one in queue.enqueue_many(line.job for line in batch)]
    except CommandError as error:
        if not is_about_a_job(error.__cause__):
            raise
        raise refused_line(queue, batch, error) from error


def enqueue_lines(queue: Queue, file: BinaryIO, begin: int, most: int) -> Enqueued:
    """
    Enqueue the jobs of a file from a line on, in batches of so many lines at most.

    An error is that of a line where one is bad; what is enqueued by then, and how to go on, is told on standard error.
    """
    created = duplicates = 0
    next_ = begin
    try:
        with Progress("enqueued", size_of(file)) as progress:
            for batch in batches(file, begin, most):
                found = enqueue_batch(queue, batch)
                created += sum(found)
                duplicates += len(found) - sum(found)
                next_ = batch[-1].number + 1
                progress.add(len(found), sum(line.size for line in batch))
    except BaseException:
        click.echo(f"pgq: the lines before {next_} are enqueued; --from-line {next_} goes on there", err=True)
        if queue.conn.closed:
            click.echo("pgq: the connection was lost, so some lines after these may be enqueued, too", err=True)
        raise
    return Enqueued(created, duplicates)
