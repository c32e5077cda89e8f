"""The command line: run scenarios and write their results."""

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
from harness import BenchError, Harness, Results, write
from noise import Noise
from scenarios import NAMES

import pgq.errors

ROOT = Path(__file__).resolve().parent.parent
FULL, QUICK = ROOT / "bench/results", ROOT / "build/bench"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Run the benchmarks of pgq.")
    parser.add_argument("--quick", action="store_true", help="run smaller scenarios, once each")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of a comparison (5; with --quick 1)")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"run only these: {', '.join(NAMES)}")
    parser.add_argument(
        "--update", action="store_true", help="replace these scenarios in the published results; not with --quick"
    )
    options = parser.parse_args(argv)
    if options.update and options.quick:
        parser.error("--update needs a full run")
    # Raise an exception, so that databases and processes of the run are removed as they are after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    harness = Harness(options.quick, options.rounds or (1 if options.quick else 5))
    status = 0
    measured = host.now()
    started = time.monotonic()
    for name in options.only or NAMES:
        began, noise = time.monotonic(), Noise()
        print(f"{name}  ({began - started:.0f} s)", flush=True)
        try:
            importlib.import_module(f"scenarios.{name}").run(harness)
            harness.note_noise(name, {**noise.end(), "seconds": time.monotonic() - began}, measured)
        except (BenchError, psycopg.Error, pgq.errors.Error) as error:
            # Go on: the other scenarios do not depend on this one.
            print(f"bench: {name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            status = 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    if options.update and not status:
        published = Results.from_json((FULL / "results.json").read_text(encoding="utf-8"))
        published.replace(harness.results, NAMES)
        harness.results = published
    # Only a full run without failures may replace the published results, as a whole or scenario by scenario.
    partial = options.quick or (options.only and not options.update) or status
    report(harness, QUICK if partial else FULL)
    return status


def report(harness: Harness, directory: Path) -> None:
    """Print the table of targets; write it, the environment and all measurements to files."""
    environment = host.environment()
    seconds = sum(noise["seconds"] for noise in harness.results.noise.values())
    lines = targets.targets(harness)
    table = targets.markdown(lines)
    drawn = pictures.draw(harness.results.series, directory)

    size = "A quick" if harness.quick else "A full"
    notices = "\n" * bool(harness.results.notices) + "".join(f"- {notice}\n" for notice in harness.results.notices)
    parts = [
        f"# Benchmarks of pgq\n\n{size} run, {seconds / 60:.0f} minutes in all.\n{notices}",
        host.markdown(environment),
        f"## To reach\n\n{table}",
        *(f"![{path.stem}]({path.name})\n" for path in drawn),
        harness.results.to_markdown(),
        f"## Noise\n\n{harness.results.noise_to_markdown()}",
    ]
    write(directory / "results.md", "\n".join(parts))
    head = {
        "size": "quick" if harness.quick else "full",
        "rounds": harness.rounds,
        "seconds": round(seconds),
        "environment": environment,
        "targets": [dataclasses.asdict(line) for line in lines],
    }
    write(directory / "results.json", harness.results.to_json(head))
    print(f"\n{table}\n{directory.relative_to(ROOT)}/results.md  ({seconds:.0f} s)")
