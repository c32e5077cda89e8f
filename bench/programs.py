"""Workers that are programs of their own, such as the command ``pgq worker``: a child process runs and watches one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from child import Child
from harness import BenchError
from postgres.children import in_child

WORKERS = Path(__file__).resolve().parent / "workers"
RELAY_EVERY = 0.01
ENDED = (0, 128 + signal.SIGTERM, -signal.SIGTERM)


def run(child: Child, command: Sequence[str | Path], env: Mapping[str, str]) -> None:
    """
    Run a program from the start until the parent says stop; it is told by SIGTERM.

    The program counts its jobs in a file of whole numbers of eight bytes, which it finds by BENCH_TASK: how many it has
    handled, the sum of their numbers, and the time at which it began each one where that is wanted.
    """
    task, times = child.task, len(child.counters.started or ())
    counts = Path(task.directory, f"counts{child.slot}")
    counts.write_bytes(bytes(8 * (2 + times)))
    described = {
        "counts": str(counts),
        "times": times,
        "transaction": task.transaction,
        "grouped": task.grouped,
        "pad": task.pad,
        "batch": task.batch,
    }
    program: subprocess.Popen[bytes] | None = None

    def stop() -> None:
        if program:
            program.terminate()

    child.ready(stop)
    log = Path(task.directory, f"log{child.slot}")
    with log.open("wb") as output, counts.open("rb", buffering=0) as shared:
        program = subprocess.Popen(
            command,
            cwd=WORKERS,
            env={**os.environ, **env, "BENCH_TASK": json.dumps(described)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=in_child(signal.SIGKILL),
        )
        while program.poll() is None:
            time.sleep(RELAY_EVERY)
            relay(child, shared.fileno())
        relay(child, shared.fileno())
        relay_times(child, shared.fileno())
    if program.returncode not in ENDED or not child.stopped:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise BenchError(f"{command[0]} ended with status {program.returncode}; its log ends:\n{tail}")


def relay(child: Child, file: int) -> None:
    """Copy the program's counts to those that the parent reads."""
    numbers = memoryview(os.pread(file, 8 * 2, 0)).cast("q")
    child.counters.handled[child.slot], child.counters.sums[child.slot] = numbers


def relay_times(child: Child, file: int) -> None:
    """Copy the times at which the program began its jobs. There may be so many that it is done once, at the end."""
    started = child.counters.started
    if started is None:
        return
    for n, at in enumerate(memoryview(os.pread(file, 8 * len(started), 8 * 2)).cast("q")):
        if at:
            started[n] = at
