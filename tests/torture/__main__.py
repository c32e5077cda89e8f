"""
    python -m torture [--seconds 60] [--seed N] [--log FILE] [--databases]

With --databases the workers serve four servers, of which three fail.

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

from torture import several
from torture.run import Plan, torture
from torture.verdict import Verdict

SHOWN = 20


def main() -> int:
    """Run the torture; return the exit code."""
    parser = argparse.ArgumentParser(prog="torture", description="Run producers and workers under faults.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are injected")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10_000), help="the seed of all choices")
    parser.add_argument("--log", type=Path, default=Path("build/torture.log"), help="the log of the workers")
    parser.add_argument("--databases", action="store_true", help="serve four servers, of which three fail")
    options = parser.parse_args()
    for name in list(os.environ):
        if name.startswith("PG") and name not in {"PGQ_BINDIR", "PGQ_PGVERSION"}:
            del os.environ[name]

    # psycopg warns when it cannot roll back a transaction on a lost connection, which is usual here.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    print(f"torture: {options.seconds:g} s with SEED={options.seed}", flush=True)
    if options.databases:
        return main_of_several(several.Plan(options.seconds, options.seed), options.log)
    try:
        verdict = torture(Plan(options.seconds, options.seed), options.log).verdict
    except DevpgError as error:
        print(f"torture: {error}", file=sys.stderr)
        return 125
    except Terminated as stop:
        return stop.status
    show(verdict)
    if not verdict.is_clean:
        print(f"log of the workers: {options.log}")
    print(verdict.line)
    return 0 if verdict.is_clean else 1


def main_of_several(plan: several.Plan, log: Path) -> int:
    """Run the torture of several databases; return the exit code."""
    try:
        run = several.torture(plan, log)
    except DevpgError as error:
        print(f"torture: {error}", file=sys.stderr)
        return 125
    except Terminated as stop:
        return stop.status
    for name, verdict in run.verdicts.items():
        show(verdict, f"{name}: ")
    for line in run.stopped:
        print(f"stopped: {line}")
    if not run.is_clean:
        print(f"log of the workers: {log}")
    print(run.line)
    return 0 if run.is_clean else 1


def show(verdict: Verdict, prefix: str = "") -> None:
    """Print the cases behind the numbers of a verdict."""
    for what in ("crashes", "lost", "doubled", "skipped", "left", "beyond"):
        lines: list[str] = getattr(verdict, what)
        for line in lines[:SHOWN]:
            print(f"{prefix}{what}: {line}")
        if len(lines) > SHOWN:
            print(f"{prefix}{what}: … and {len(lines) - SHOWN} more")


if __name__ == "__main__":
    sys.exit(main())
