"""Clients that enqueue without a pause, for a machine without pgbench, whose clients would take less of the CPU."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor

from databases import connect

START_IN = 1.0
APART = 1_000_000_000_000


def enqueue_in_processes(database: str, query: str, clients: int, seconds: int) -> tuple[int, float]:
    """Run a statement from threads of a process for each core; return the number of calls and the seconds they took."""
    processes = min(clients, os.cpu_count() or 1)
    numbers = [list(range(first, clients, processes)) for first in range(processes)]
    begin = time.time() + START_IN
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(run_clients, database, query, mine, begin, seconds) for mine in numbers]
        counts, ends = zip(*(part.result() for part in parts), strict=True)
    return sum(counts), max(ends) - begin


def run_clients(database: str, query: str, numbers: list[int], begin: float, seconds: int) -> tuple[int, float]:
    """Run the clients of one process; return the number of their calls, and the time at which the last one ended."""
    counts = dict.fromkeys(numbers, 0)
    threads = [threading.Thread(target=run_client, args=[database, query, n, begin, seconds, counts]) for n in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts.values()), time.time()


def run_client(database: str, query: str, number: int, begin: float, seconds: int, counts: dict[int, int]) -> None:
    text = query.replace("%", "%%").replace(":n::", "%(n)s::")
    with connect(database) as conn:
        time.sleep(max(0.0, begin - time.time()))
        for n in itertools.count(number * APART):
            if time.time() >= begin + seconds:
                break
            conn.execute(text, {"n": n}, prepare=True)
            counts[number] += 1
