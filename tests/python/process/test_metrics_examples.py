"""examples/postgres_exporter and examples/grafana: queries, dashboard and alerts fit what pgq metrics serves."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from support.database import Connection
from support.metrics import Samples, by_name, program, scraped, source
from support.paths import ROOT
from support.servers import Place
from support.threads import eventually

from pgq import WorkerQueue
from pgq.cli import main
from pgq.metrics.exporter import Databases
from pgq.metrics.families import empty_families

QUERIES = ROOT / "examples/postgres_exporter/queries.yaml"
GRAFANA = ROOT / "examples/grafana"
# An exporter says of itself whether it is up.
PYTHON_ONLY = {"pgq_up", "pgq_unread", "pgq_reading_seconds"}


def named(expression: str) -> set[str]:
    """Return the metrics in an expression of PromQL."""
    return set(re.findall(r"\bpgq_\w+", expression))


def expressions() -> list[str]:
    """Return the expressions of the dashboard, with its variables replaced."""
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [one.replace("$__rate_interval", "5m").replace("$database", ".*").replace("$queue", ".*") for one in found]


def rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    groups = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def monitor(dsn: str, conn: Connection, queue: WorkerQueue) -> Iterator[str]:
    """The connection string of a role that is a reader, in a database with jobs in each state."""
    conn.execute("DROP ROLE IF EXISTS monitor")
    conn.execute("CREATE ROLE monitor LOGIN")
    queue.grant("monitor", "reader")
    queue.enqueue_many({"kind": kind, "queue": "mail", "max_retries": 0} for kind in ("dies", "ends", "runs"))
    queue.register("w", ["mail"], kinds=["runs"])
    for job in queue.claim(["mail"], max_jobs=3, worker="w"):
        if job.kind == "dies":
            queue.fail(job, "no")
        elif job.kind == "ends":
            queue.complete(job, 1)
    queue.enqueue_many({"kind": "waits", "args": n, "queue": "other"} for n in range(3))
    queue.pause("paused")
    queue.configure("mail", {"max_running": 1})
    yield make_conninfo(dsn, user="monitor")
    conn.execute("DROP OWNED BY monitor")
    conn.execute("DROP ROLE monitor")


def by_queries(dsn: str) -> dict[str, Samples]:
    """Return the metrics that postgres_exporter makes of the queries: the name is that of the query and the column."""
    found: dict[str, Samples] = {}
    with psycopg.connect(dsn, row_factory=dict_row) as conn:
        for namespace, query in yaml.safe_load(QUERIES.read_text()).items():
            columns = {name: spec["usage"] for metric in query["metrics"] for name, spec in metric.items()}
            labels = sorted(name for name, usage in columns.items() if usage == "LABEL")
            for row in conn.execute(query["query"].encode()):
                assert set(row) == set(columns), namespace
                for name in columns.keys() - set(labels):
                    assert row[name] is not None, name
                    samples = found.setdefault(f"{namespace}_{name}", {})
                    samples[tuple(row[label] for label in labels)] = float(row[name])
    return found


def unchanging(found: dict[str, Samples]) -> dict[str, Samples]:
    """Return the metrics without those of the time, and those of the process."""
    return {name: one for name, one in found.items() if name not in PYTHON_ONLY and "age_seconds" not in name}


def test_the_queries_have_the_names_and_values_of_pgq_metrics(monitor: str, conn: Connection) -> None:
    """As a reader, on a real server."""
    here = source(monitor, conn.info.dbname)
    queried, served = by_queries(monitor), scraped(here)
    assert set(queried) == set(served) - PYTHON_ONLY == set(empty_families()) - PYTHON_ONLY
    assert unchanging(queried) == unchanging(served)


def test_the_queries_have_types_and_texts_of_pgq_metrics() -> None:
    families = empty_families()
    for namespace, query in yaml.safe_load(QUERIES.read_text()).items():
        for metric in query["metrics"]:
            for name, spec in metric.items():
                if spec["usage"] != "LABEL":
                    family = families[f"{namespace}_{name}"]
                    assert (spec["usage"].lower(), spec["description"]) == (family.type, family.documentation)


def test_the_queries_are_bounded(monitor: str, queue: WorkerQueue) -> None:
    """What is beyond 200 series is in other, where a real queue of this name is, too."""
    queue.enqueue_many({"kind": f"k{n}", "queue": f"q{n:03}"} for n in range(300))
    found = by_queries(monitor)["pgq_jobs_waiting"]
    assert len(found) == 201
    assert sum(found.values()) == 303


@pytest.mark.slow
def test_postgres_exporter_serves_the_same(monitor: str, place: Place, conn: Connection) -> None:
    """The real one, from Debian."""
    exporter = program("prometheus-postgres-exporter", "prometheus-postgres-exporter")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [exporter, f"--web.listen-address={address}", f"--extend.query-path={QUERIES}", "--disable-default-metrics",
         "--disable-settings-metrics"],
        env=os.environ | {"DATA_SOURCE_NAME": f"user=monitor host={place.host} port={place.port} "
                          f"dbname={conn.info.dbname} sslmode=disable"},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip

    def scrape() -> dict[str, Samples]:
        try:
            with urlopen(f"http://{address}/metrics", timeout=30) as reply:
                found = by_name(text_string_to_metric_families(reply.read().decode()))
        except URLError:
            assert process.poll() is None
            return {}
        return {name: samples for name, samples in found.items() if name.startswith("pgq_")}

    try:
        found = eventually(scrape)
        expected = unchanging(scraped(source(monitor, conn.info.dbname)))
        # The exporter adds the label server.
        values = {name: sorted(samples.values()) for name, samples in unchanging(found).items()}
        assert values == {name: sorted(samples.values()) for name, samples in expected.items()}
    finally:
        process.kill()
        process.communicate()


def test_dashboard_and_alerts_name_metrics_that_exist() -> None:
    """Each panel has a text, and each alert says what to do."""
    served = set(empty_families())
    used = {name for one in expressions() for name in named(one)} | {
        name for rule in rules() for name in named(rule["expr"])
    }
    assert used <= served
    # What is served is looked at, but for what only limits or explains it.
    assert served - used == {"pgq_reading_seconds", "pgq_jobs_estimated", "pgq_jobs_cancelled", "pgq_jobs_done",
                             "pgq_queue_paused_groups"}  # fmt: skip
    dashboard = json.loads((GRAFANA / "dashboard.json").read_text())
    assert all(panel["description"] for panel in dashboard["panels"])
    variables = {one["name"]: one.get("definition", "") for one in dashboard["templating"]["list"]}
    assert {name for text in variables.values() for name in named(text)} <= served
    assert all({"summary", "description"} <= set(rule["annotations"]) for rule in rules())


def test_commands_in_alerts_exist() -> None:
    """What an alert tells to call is a command of pgq."""
    texts = [text for rule in rules() for text in rule["annotations"].values()]
    commands = {word for text in texts for word in re.findall(r"\bpgq ([a-z-]+)", text)}
    assert len(commands) > 4
    assert commands <= set(main.commands)


@pytest.mark.slow
def test_promtool_accepts_all_of_it(monitor: str, tmp_path: Path) -> None:
    """The alerts and their tests, the expressions of the dashboard, and the names and texts of the metrics."""
    promtool = program("promtool", "prometheus")

    def run(*arguments: str | Path, stdin: str | None = None) -> None:
        done = subprocess.run(
            [promtool, *arguments], input=stdin, capture_output=True, text=True, check=False, cwd=GRAFANA
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("check", "config", "prometheus.yaml")
    run("check", "rules", "alerts.yaml")
    run("test", "rules", "alerts_test.yaml")
    recorded = [{"record": f"panel:{n}", "expr": one} for n, one in enumerate(expressions())]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    run("check", "rules", tmp_path / "panels.yaml")
    registry = CollectorRegistry()
    registry.register(Databases([source(monitor)], 20.0))
    run("check", "metrics", stdin=generate_latest(registry).decode())
