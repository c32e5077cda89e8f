"""
The examples of workflows, each killed at each moment of its statements.

Every write to this database is made once, and what is called outside is called with one idempotency key for each step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from support.database import Connection, expire, one
from support.mortal import Deaths, Outside, Program, PythonWorker
from support.paths import ROOT
from support.proxy import Proxy

from pgq import WorkerQueue

EXAMPLES = ROOT / "examples/workflows"
# The short form meets every 25th moment.
STRIDES = [pytest.param(1, marks=pytest.mark.slow), 25]
LAMPS = 1000
BIG = 200
# Those of the lines that can be imported.
NAMES = ("ann", "ben", None, None, "eve")


@pytest.fixture
def outside() -> Iterator[Outside]:
    """The service that the examples call."""
    with Outside() as outside:
        yield outside


@pytest.fixture
def bash(conn: Connection, dsn: str, proxy: Proxy, psql: Path, outside: Outside) -> Deaths:
    """Workers of the order workflow in bash; leases of those that were killed are over at once."""

    def start() -> Program:
        info = psycopg.conninfo.conninfo_to_dict(proxy.lead(dsn))
        env = {"PGDATABASE" if name == "dbname" else f"PG{name.upper()}": str(value) for name, value in info.items()}
        path = f"{psql.parent}{os.pathsep}{os.environ['PATH']}"
        return Program([str(EXAMPLES / "order.sh")], env | {"PATH": path, "SHOP_URL": outside.url})

    return Deaths(conn, proxy, start, partial(expire, conn))


@pytest.fixture
def python(dsn: str, conn: Connection, proxy: Proxy, outside: Outside) -> Callable[..., Deaths]:
    """Workers of an example in Python."""

    def make(name: str, queue: str = "default") -> Deaths:
        start = partial(PythonWorker, EXAMPLES / name, queue, {"SHOP_URL": outside.url}, proxy.lead(dsn))
        return Deaths(conn, proxy, start)

    return make


class Shop:
    """The tables of the order workflow, and the orders."""

    def __init__(self, queue: WorkerQueue) -> None:
        self.queue = queue
        self.conn = queue.conn
        self.conn.execute((EXAMPLES / "shop.sql").read_bytes())
        self.conn.execute("INSERT INTO stock VALUES ('lamp', %s)", [LAMPS])
        self.jobs: list[int] = []

    def order(self, amount: int, patience: int = 86_400) -> int:
        """Enqueue an order; return the id of its job."""
        args = {"order": len(self.jobs) + 1, "item": "lamp", "amount": amount, "patience": patience}
        self.jobs.append(self.queue.enqueue("order", args, queue="orders", backoff="0").id)
        return self.jobs[-1]

    def state(self) -> str:
        """Return the state of the newest order: waiting, running, asleep until a signal comes, or done."""
        query = "SELECT CASE WHEN ripe_at > clock_timestamp() THEN 'asleep' ELSE state END FROM pgq_jobs WHERE id = %s"
        return str(one(self.conn, query, self.jobs[-1]))

    def shipped(self) -> list[tuple[int, str | None]]:
        """Return the shipments, and who has approved them."""
        return self.conn.execute("SELECT order_id, approved_by FROM shipment ORDER BY order_id").fetchall()

    def called(self, *services: str) -> list[tuple[str, str]]:
        """Return what was to be done outside for all orders."""
        return sorted((f"/{service}", f"{job}/{service}") for service in services for job in self.jobs)


@pytest.fixture
def shop(queue: WorkerQueue) -> Shop:
    return Shop(queue)


@pytest.mark.parametrize("stride", STRIDES)
def test_an_order_in_bash_is_shipped_once(bash: Deaths, shop: Shop, outside: Outside, stride: int) -> None:
    """It is approved while it waits for that."""

    def life() -> None:
        job = shop.order(BIG)
        bash.work(lambda: shop.state() == "asleep")
        shop.queue.signal(job, "approved", {"by": "ann"})
        bash.work(lambda: shop.state() == "done")
        assert shop.shipped() == [(n + 1, "ann") for n in range(len(shop.jobs))]

    bash.at_each_moment(life, stride)
    assert bash.count > 50 // stride
    assert one(shop.conn, "SELECT available FROM stock") == LAMPS - len(shop.jobs)
    assert outside.done == shop.called("charge", "ship")


@pytest.mark.parametrize("stride", STRIDES)
def test_an_order_in_python_is_shipped_once(
    python: Callable[..., Deaths], shop: Shop, outside: Outside, stride: int
) -> None:
    """It is approved while it waits for that."""
    deaths = python("order.py", "orders")

    def life() -> None:
        job = shop.order(BIG)
        deaths.work(lambda: shop.state() == "asleep")
        shop.queue.signal(job, "approved", {"by": "ann"})
        deaths.work(lambda: shop.state() == "done")
        assert shop.shipped() == [(n + 1, "ann") for n in range(len(shop.jobs))]

    deaths.at_each_moment(life, stride)
    assert deaths.count > 50 // stride
    assert one(shop.conn, "SELECT available FROM stock") == LAMPS - len(shop.jobs)
    assert outside.done == shop.called("charge", "ship")


@pytest.mark.parametrize("language", ["python", "bash"])
def test_an_order_that_is_not_approved_in_time_is_refunded(
    request: pytest.FixtureRequest, shop: Shop, outside: Outside, language: str
) -> None:
    """Nothing is reserved or shipped."""
    made = request.getfixturevalue(language)
    deaths = made if language == "bash" else made("order.py", "orders")
    shop.order(BIG, patience=1)
    deaths.work(lambda: shop.state() == "done")
    assert one(shop.conn, "SELECT result FROM pgq_jobs") == "refunded"
    assert shop.shipped() == []
    assert one(shop.conn, "SELECT available FROM stock") == LAMPS
    assert outside.done == shop.called("charge", "refund")


@pytest.mark.parametrize("stride", STRIDES)
def test_each_page_is_noted_once(
    python: Callable[..., Deaths], queue: WorkerQueue, outside: Outside, stride: int
) -> None:
    """The crawl sleeps between two pages."""
    conn = queue.conn
    conn.execute("CREATE TABLE page (url text, size integer)")
    deaths = python("crawler.py")
    crawls: list[int] = []

    def life() -> None:
        pages = [f"{outside.url}/{len(crawls)}/{name}" for name in "ab"]
        crawls.append(queue.enqueue("crawl", {"pages": pages, "pause": 0.02}, backoff="0").id)
        deaths.work(lambda: queue.result(crawls[-1]).state == "done")

    deaths.at_each_moment(life, stride)
    assert deaths.count > 50 // stride
    pages = sorted(row[0] for row in conn.execute("SELECT url FROM page").fetchall())
    assert pages == sorted(f"{outside.url}/{n}/{name}" for n in range(len(crawls)) for name in "ab")
    keys = [(f"/{n}/{name}", f"{job}/page {m}") for n, job in enumerate(crawls) for m, name in enumerate("ab")]
    assert outside.done == sorted(keys)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_file_is_imported_once(
    python: Callable[..., Deaths], queue: WorkerQueue, tmp_path: Path, stride: int
) -> None:
    """One of three parts cannot be imported."""
    conn = queue.conn
    conn.execute("CREATE TABLE person (file text, line integer, name text, born date)")
    conn.execute("CREATE TABLE import_summary (file text, imported bigint, missing bigint)")
    deaths = python("bulk_import.py")
    files: list[str] = []

    def life() -> None:
        path = tmp_path / f"{len(files)}.csv"
        path.write_text("ann,1990-01-01\nben,1991-02-03\ncleo,1992\ndan,1993-04-05\neve,1994-05-06\n")
        files.append(str(path))
        queue.enqueue("import", {"path": str(path), "size": 2}, backoff="0")
        deaths.work(lambda: one(conn, "SELECT count(*) FROM import_summary") == len(files))
        deaths.work(lambda: not queue.remaining().running)

    deaths.at_each_moment(life, stride)
    assert deaths.count > 50 // stride
    summaries = conn.execute("SELECT file, imported, missing FROM import_summary").fetchall()
    assert sorted(summaries) == sorted((file, 3, 2) for file in files)
    people = conn.execute("SELECT file, line, name FROM person").fetchall()
    assert sorted(people) == sorted((file, n, name) for file in files for n, name in enumerate(NAMES, 1) if name)
