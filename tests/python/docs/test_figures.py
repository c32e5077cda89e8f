"""The README, and pages about performance, scale and sizing, state the figures of the published benchmark."""

# ruff: noqa: RUF001 - the sign for "times" stands in the pages

from __future__ import annotations

import json
import re
from statistics import median
from typing import Any

import pytest
from support.pages import Page
from support.paths import ROOT

RESULTS = json.loads((ROOT / "bench/results/results.json").read_text(encoding="utf-8"))
README, PERFORMANCE, SCALE = Page("README.md"), Page("docs/performance.md"), Page("docs/scale.md")
SIZING, COMPARISON = Page("docs/sizing.md"), Page("docs/comparison.md")
TRANSACTION, GROUPED, BULK = "one job in a transaction", "batch=100", "1,000 jobs a call"
ONE_PROCESS = ("1 process, 1 server", "1 process, 2 servers", "1 process, 4 servers")
TWO_PROCESSES = ("2 processes, 1 server", "2 processes, 2 servers", "2 processes, 4 servers")
ONE_EACH = ("1 process, 1 server", "1 process for each of 2 servers", "1 process for each of 4 servers")
SLOWER = "1 process, 2 servers: jobs of the slower one when half are done"
BESIDE_IDLE = "1 process, 2 servers, one of them idle"
STEADY, HELD = "a producer and two workers", "a producer and a worker, snapshot held"


def measured(scenario: str, what: str, contender: str = "pgq") -> dict[str, Any]:
    """Return one measurement."""
    (found,) = (
        one
        for one in RESULTS["measurements"]
        if (one["scenario"], one["what"], one["contender"]) == (scenario, what, contender)
    )
    return dict(found)


def jobs(scenario: str, what: str, contender: str = "pgq") -> str:
    """Return a median in jobs per second, in two digits."""
    value = measured(scenario, what, contender)["median"]
    unit = 10 ** (len(str(int(value))) - 2)
    return f"{round(value / unit) * unit:,}"


def ratio(scenario: str, what: str, other: str, ours: str = "pgq") -> str:
    """Return the median of pgq's ratios to another contender in each round, as the benchmark does."""
    pairs = zip(measured(scenario, what, ours)["values"], measured(scenario, what, other)["values"], strict=True)
    return f"{median(mine / theirs for mine, theirs in pairs):.2f}"


def unit(scenario: str, what: str, digits: int = 1) -> str:
    """Return a median with so many digits after the point."""
    return f"{measured(scenario, what)['median']:,.{digits}f}"


def wal(what: str) -> float:
    """Return the WAL of a job on a path without groups, in bytes."""
    return float(measured("plain_path", what)["costs"]["WAL"])


def drain(what: str) -> str:
    return f"| drain, {what} | {jobs('drain', what)} jobs/s | {ratio('drain', what, 'graphile')} × graphile-worker |"


def transactional(what: str) -> str:
    return f"{jobs('transactional', what)} jobs/s | {ratio('transactional', what, '0.2.0')} × 0.2.0 |"


def enqueue(what: str) -> str:
    bare, pgmq = ratio("enqueue", what, "bare insert"), ratio("enqueue", what, "pgmq.send")
    return f"| enqueue one by one, {what} | {jobs('enqueue', what)} jobs/s | {bare} × a bare `INSERT`, {pgmq} × pgmq |"


def row(title: str, scenario: str, what: str, contenders: tuple[str, ...], digits: int | None = None) -> str:
    """Return a row of the comparison: jobs per second, or other units with so many digits; "" was not measured."""
    cells = ["" if one == "" else shown(scenario, what, one, digits) for one in contenders]
    return f"| {title} |" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def shown(scenario: str, what: str, contender: str, digits: int | None) -> str:
    """Return a median as a page shows it."""
    if digits is None:
        return jobs(scenario, what, contender)
    return f"{measured(scenario, what, contender)['median']:,.{digits}f}"


def databases(title: str, *whats: str) -> str:
    """Return a row of jobs per second, with one, two and four servers."""
    return f"| {title}, jobs/s | {' | '.join(jobs('databases', what) for what in whats)} |"


def cpu(what: str) -> str:
    """Return the CPU time of a job on all sides, in microseconds."""
    costs = measured("databases", what)["costs"]
    return f"{costs['server CPU'] + costs['client CPU']:.1f}"


FIGURES = {
    SCALE: [
        f"| one worker process, jobs that do nothing | {jobs('drain', '1 process')} |",
        f"| two worker processes | {jobs('drain', '2 processes')} |",
        f"| {STEADY}, two minutes | {jobs('steady', STEADY)} |",
        "| a handler that shares a transaction with the completion of its job | "
        f"{jobs('transactional', TRANSACTION)} |",
        f"| the same, in batches of 100 | {jobs('transactional', GROUPED)} |",
        f"| one client enqueues, one by one | {jobs('enqueue', '1 client')} |",
        f"| one client enqueues, a thousand in a call | {jobs('bulk', BULK)} |",
        databases("one worker process", *ONE_PROCESS),
        f"| CPU time of a job, µs | {' | '.join(cpu(what) for what in ONE_PROCESS)} |",
        databases("two worker processes", *TWO_PROCESSES),
        databases("a worker process for each server", *ONE_EACH),
        f"the slower one had {unit('databases', SLOWER)} % of the jobs done",
        f"a second database that was idle, one process ran {jobs('databases', BESIDE_IDLE)} jobs/s",
    ],
    SIZING: [
        *(
            f"{text} | {jobs('batches', f'batches of {size}')} jobs/s |"
            for text, size in (("one job at a time", 1), ("ten at a time", 10), ("a hundred at a time", 100))
        ),
        *(f"with arguments of {size} | {jobs('payload', size)} jobs/s |" for size in ("1 kB", "10 kB", "100 kB")),
        "from enqueue to completion in packed batches | "
        f"{measured('wal', 'enqueue, claim and completion of a job')['median'] / 1000:.2f} GB |",
        f"| what an idle worker asks | {unit('idle', 'queries of an idle worker')} queries/s |",
    ],
    COMPARISON: [
        row("drain, one worker process, jobs/s", "drain", "1 process", ("pgq", "graphile", "", "", "")),
        row(
            "drain, a loop with batches of 100, jobs/s",
            "batches",
            "batches of 100",
            ("pgq", "", "pgmq", "pgqueuer", "procrastinate"),
        ),
        row(
            "enqueue a thousand in a call, jobs/s",
            "bulk",
            f"{BULK}, other queues for Python",
            ("pgq", "graphile", "", "pgqueuer", "procrastinate"),
        ),
        row("the same beside pgmq, jobs/s", "bulk", BULK, ("pgq", "", "pgmq", "", "")),
        row("enqueue one by one, one client, jobs/s", "enqueue", "1 client", ("pgq", "", "pgmq.send", "", "")),
        row(f"{STEADY}, two minutes, jobs/s", "steady", STEADY, ("pgq", "graphile", "", "", "")),
        row(
            "a handler that inserts a row, eight at a time, jobs/s",
            "transactional",
            f"{TRANSACTION}, --concurrency 8",
            ("pgq", "graphile", "", "", ""),
        ),
        *(
            row(title, "latency", percent, ("pgq", "graphile", "pgmq", "pgqueuer", "procrastinate"), 1)
            for title, percent in (
                ("enqueue to start of the handler, median, ms", "p50"),
                ("the same, the slowest of a hundred, ms", "p99"),
            )
        ),
        row(
            "under a held snapshot, the last sixth of the time over the first",
            "held_snapshot",
            "last sixth over first",
            ("pgq", "graphile", "", "pgqueuer", "procrastinate"),
            2,
        ),
        *(
            row(
                f"steps that {text}, workflows/s",
                "workflow",
                f"steps that {do}, 1 process",
                ("pgq", "absurd", "dbos"),
            )
            for text, do in (("return a value", "return"), ("write to the database", "write"))
        ),
        f"at {jobs('held_snapshot', f'{HELD}, half the time', 'procrastinate')} jobs/s where pgq has "
        f"{jobs('held_snapshot', HELD)}.",
    ],
    README: [
        f"one `pgq worker` runs {jobs('drain', '1 process')} jobs/s that do nothing, "
        f"{ratio('drain', '1 process', 'graphile')} times graphile-worker with its fastest settings; two run "
        f"{jobs('drain', '2 processes')}.",
        f"One client enqueues {jobs('enqueue', '1 client')} jobs/s one by one, "
        f"{ratio('enqueue', '1 client', 'pgmq.send')} times pgmq, and {jobs('bulk', BULK)} in "
        f"calls of a thousand, {ratio('bulk', BULK, 'pgmq')} times.",
        f"{unit('latency', 'p50')} ms after the commit of its enqueue (median)",
        f"{jobs('transactional', TRANSACTION)} jobs/s, and {jobs('transactional', GROUPED)} in batches of 100",
    ],
    PERFORMANCE: [
        *(drain(f"{count}{version}") for count in ("1 process", "2 processes") for version in ("", ", PostgreSQL 15")),
        f"| {STEADY}, two minutes | {jobs('steady', STEADY)} jobs/s | "
        f"{ratio('steady', STEADY, 'graphile')} × graphile-worker |",
        *(enqueue(f"{count} client{'s' * (count > 1)}") for count in (1, 16, 64)),
        f"| enqueue a thousand at a time | {jobs('bulk', BULK)} jobs/s | {ratio('bulk', BULK, 'pgmq')} × pgmq |",
        f"| the same, `dedup` false | {jobs('bulk', BULK, 'pgq, no dedup')} jobs/s | "
        f"{ratio('bulk', BULK, 'pgmq', 'pgq, no dedup')} × pgmq |",
        f"| transactional handler with an `INSERT` | {transactional(TRANSACTION)}",
        f"| the same, `batch=100` | {transactional(GROUPED)}",
        f"| one job at a time, `--batch 1` | {jobs('single', '--batch 1, 1 process')} jobs/s | "
        f"{ratio('single', '--batch 1, 1 process', '0.2.0')} × 0.2.0 |",
        f"| commit of an enqueue to the start of the handler, sleeping worker | {unit('latency', 'p50')} ms in the "
        f"median, 99 % within {unit('latency', 'p99')} ms | {ratio('latency', 'p50', 'graphile')} × graphile-worker |",
        f"| WAL of a job's life | {unit('wal', 'enqueue, claim and completion of a job', 0)} B |",
        f"by itself writes {wal('one by one'):,.0f} bytes, of which its enqueue writes "
        f"{wal('one by one') - wal('one by one, without enqueue'):,.0f}. In packed batches of 100 it writes "
        f"{wal('100 by pgq_claim_batch'):,.0f} bytes.",
        f"the last sixth of the time has {unit('held_snapshot', 'last sixth over first', 2)} of the jobs of the first.",
        f"without one, the last quarter has {unit('steady', 'last quarter over first', 2)} of the first.",
        f"| last 20 of 120 s under a held snapshot | {unit('held_snapshot', 'last sixth over first', 2)} × the first "
        "20 s |",
        f"| claim from 1,000 queues, empty / with jobs | {unit('queues', 'pgq_claim, 1,000 empty queues')} / "
        f"{unit('queues', 'pgq_claim of 100 jobs, 1,000 queues with jobs')} ms |",
        "| a producer and a worker, a minute under a held snapshot: no groups / 10 groups / 1,000 groups | "
        + " / ".join(jobs("groups_held", HELD, one) for one in ("pgq", "10 groups", "1,000 groups"))
        + " jobs/s |",
    ],
}


@pytest.mark.parametrize(
    ("page", "figure"), [pytest.param(page, text, id=text[:50]) for page, texts in FIGURES.items() for text in texts]
)
def test_a_page_states_what_was_measured(page: Page, figure: str) -> None:
    """After a new benchmark, write its figures into the pages."""
    assert figure in re.sub(r"\s+", " ", page.text)


def test_the_tables_of_performance_have_no_other_figures() -> None:
    """Each row of the table of figures is one of those that are compared with the results."""
    rows = [line for line in PERFORMANCE.section("Figures").splitlines() if re.match(r"\| .*\d", line)]
    assert [row for row in rows if not any(row.startswith(figure) for figure in FIGURES[PERFORMANCE])] == []


def test_performance_lists_each_bar_that_was_missed() -> None:
    """As the results state it, in their order, and no other."""
    reached = Page("bench/results/results.md").section("To reach")
    missed = [line for line in reached.splitlines() if line.endswith("| no |")]
    assert len(missed) == sum(target["met"] is False for target in RESULTS["targets"])
    assert [line for line in PERFORMANCE.section("What it misses").splitlines() if line.endswith("| no |")] == missed
