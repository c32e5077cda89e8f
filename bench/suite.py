"""The command line: which scenarios run, and where their results go."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import host
import pictures
import psycopg
import targets
from harness import Bench, BenchError, write
from scenarios import NAMES

import pgq.errors

ROOT = Path(__file__).resolve().parent.parent
FULL, QUICK = ROOT / "bench/results", ROOT / "build/bench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios; the answer is 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Run the benchmarks of pgq.")
    parser.add_argument("--quick", action="store_true", help="everything scaled down, to be done in two minutes")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"some of: {', '.join(NAMES)}")
    options = parser.parse_args(argv)
    # An exception, so that the databases and processes of the run are seen to as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    bench = Bench(options.quick)
    status = 0
    started = time.monotonic()
    for name in options.only or NAMES:
        print(f"{name}  ({time.monotonic() - started:.0f} s)", flush=True)
        try:
            importlib.import_module(f"scenarios.{name}").run(bench)
        except (BenchError, psycopg.Error, pgq.errors.Error) as error:
            # The other scenarios have something to say all the same.
            print(f"bench: {name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            status = 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    # Only a complete run may replace the numbers of another.
    report(bench, time.monotonic() - started, QUICK if options.quick or options.only or status else FULL)
    return status


def report(bench: Bench, seconds: float, directory: Path) -> None:
    """Print the table of targets, and write it with everything else that is known."""
    environment = host.environment()
    lines = targets.targets(bench)
    table = targets.markdown(lines)
    drawn = pictures.draw(bench.results.series, directory)

    size = "quick" if bench.quick else "full"
    parts = [
        f"# Benchmarks of pgq\n\nA {size} run of {seconds / 60:.0f} minutes.\n\n{host.markdown(environment)}",
        f"## To reach\n\n{table}",
        *(f"![{path.stem}]({path.name})\n" for path in drawn),
        bench.results.to_markdown(),
    ]
    write(directory / "results.md", "\n".join(parts))
    head = {
        "size": size,
        "seconds": round(seconds),
        "environment": environment,
        "targets": [dataclasses.asdict(line) for line in lines],
    }
    write(directory / "results.json", bench.results.to_json(head))
    print(f"\n{table}\n{directory.relative_to(ROOT)}/results.md  ({seconds:.0f} s)")
