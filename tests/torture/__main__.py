"""
    python -m torture [--seconds 60] [--seed N] [--log FILE]

Exits with 0 if nothing was lost, doubled, skipped, left or beyond a limit and no worker crashed. Otherwise lists each
case and exits with 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from random import SystemRandom

from postgres.children import Terminated
from postgres.programs import DevpgError

from torture.run import Plan, torture

SHOWN = 20


def main() -> int:
    """Run the torture; return the exit code."""
    parser = argparse.ArgumentParser(prog="torture", description="Run producers and workers under faults.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10_000), help="the seed of all choices")
    parser.add_argument("--log", type=Path, default=Path("build/torture.log"), help="the log of the workers")
    options = parser.parse_args()
    for name in list(os.environ):
        if name.startswith("PG") and name not in {"PGQ_BINDIR", "PGQ_PGVERSION"}:
            del os.environ[name]

    # psycopg warns when it cannot roll back a transaction on a lost connection, which is usual here.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    print(f"torture: {options.seconds:g} s with SEED={options.seed}", flush=True)
    try:
        verdict = torture(Plan(options.seconds, options.seed), options.log).verdict
    except DevpgError as error:
        print(f"torture: {error}", file=sys.stderr)
        return 125
    except Terminated as stop:
        return stop.status
    for what in ("crashes", "lost", "doubled", "skipped", "left", "beyond"):
        lines: list[str] = getattr(verdict, what)
        for line in lines[:SHOWN]:
            print(f"{what}: {line}")
        if len(lines) > SHOWN:
            print(f"{what}: … and {len(lines) - SHOWN} more")
    if not verdict.is_clean:
        print(f"log of the workers: {options.log}")
    print(verdict.line)
    return 0 if verdict.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
