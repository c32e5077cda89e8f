"""
Run the benchmarks on the server that libpq's variables name, which should be a throw-away, durable one.

    python bench/run.py [--quick] [--only NAME ...]
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

NEEDED = ("psycopg", "psycopg_pool", "pgqueuer", "asyncpg", "uvloop", "procrastinate", "matplotlib")


def main() -> int:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"bench: {', '.join(missing)} missing: pip install './python[bench]'", file=sys.stderr)
        return 2
    if "PGHOST" not in os.environ:
        print("bench: no PGHOST: run me through python tools/devpg.py run --durable --", file=sys.stderr)
        return 2
    # By name: each worker process imports this module again, and shall carry nothing but its own library.
    status: int = importlib.import_module("suite").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
