"""
Run the benchmarks on the server that libpq's variables name, which should be a throw-away, durable one.

    python bench/run.py [--quick] [--rounds N] [--only NAME ...] [--update]
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

NEEDED = ("psycopg", "psycopg_pool", "pgqueuer", "asyncpg", "uvloop", "procrastinate", "pgmq", "matplotlib")


def main() -> int:
    """Check the requirements and run the benchmarks; return the exit status."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"bench: {', '.join(missing)} not installed; run pip install './python[bench]'", file=sys.stderr)
        return 2
    if "PGHOST" not in os.environ:
        print("bench: PGHOST is not set; run this through python tools/devpg.py run --durable --", file=sys.stderr)
        return 2
    # Imported here, by name: each child process imports this module again, but must load only its own library.
    status: int = importlib.import_module("suite").main()
    return status


if __name__ == "__main__":
    sys.exit(main())
