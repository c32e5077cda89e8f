"""The one kind of job in the benchmarks, and the steps of a workflow."""

from __future__ import annotations

import json
import random
import string
from typing import Any

KIND = "job"
# The steps of a workflow.
STEPS = ("charge", "reserve", "ship")


def args(n: int, pad: str = "") -> dict[str, Any]:
    """Return the arguments of job ``n``."""
    return {"n": n, "pad": pad} if pad else {"n": n}


def key(n: int, step: str) -> str:
    """Return what a step of job ``n`` returns."""
    return f"{step} {n}"


def array(first: int, count: int, pad: str = "") -> str:
    """Return many jobs as JSON text: the argument of pgq_enqueue_many; the floor stores its elements."""
    return json.dumps([{"kind": KIND, "args": args(n, pad)} for n in range(first, first + count)])


def padding(size: int) -> str:
    """Return text that does not compress; compressible text would be stored differently."""
    return "".join(random.Random(size).choices(string.ascii_letters + string.digits, k=size))
