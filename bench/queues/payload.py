"""The one kind of job that there is in the benchmarks."""

from __future__ import annotations

import json
import random
import string
from typing import Any

KIND = "job"


def args(n: int, pad: str = "") -> dict[str, Any]:
    """The arguments of job ``n``."""
    return {"n": n, "pad": pad} if pad else {"n": n}


def array(first: int, count: int, pad: str = "") -> str:
    """The JSON text of many jobs, as pgq_enqueue_many takes it and as the floor stores its elements."""
    return json.dumps([{"kind": KIND, "args": args(n, pad)} for n in range(first, first + count)])


def padding(size: int) -> str:
    """Text that does not compress: how PostgreSQL stores a payload depends on it."""
    return "".join(random.Random(size).choices(string.ascii_letters + string.digits, k=size))
