"""How the handlers of the benchmarks count their jobs, under any release of pgq."""

from __future__ import annotations

import json
import mmap
import os
import time
from typing import Any

KIND = "job"
TASK = json.loads(os.environ["BENCH_TASK"])
PAD: int = TASK["pad"]
TIMES: int = TASK["times"]

with open(TASK["counts"], "r+b") as file:
    counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")


def count(args: dict[str, Any]) -> None:
    """Count a job: how many there were, and the sum of their numbers."""
    n = args["n"]
    if PAD and len(args["pad"]) != PAD:
        raise ValueError(f"the payload of job {n} is truncated")
    if TIMES:
        counts[2 + n] = time.monotonic_ns()
    counts[1] += n
    counts[0] += 1
