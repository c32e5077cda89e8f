"""A database in which much has gone wrong at once: that of docs/operations.md."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pgq import WorkerQueue
from support.database import Connection

WORKER = "web-1.4711"


def go_wrong(conn: Connection, session: Connection) -> None:
    """
    Let all of it go wrong.

    Jobs 1 to 3 wait in a queue whose name is misspelled, 4 in a paused one. 5 and 6 are dead. 7 runs in a worker, which
    is present as long as ``session`` lives. 8 has lost its workers twice. 9 to 12 are those of a bad release.
    """
    queue = WorkerQueue(conn)
    for n in range(3):
        queue.enqueue("mail", {"to": f"user-{n}"}, queue="mial", ripe_at=datetime.now(UTC) - timedelta(minutes=7))
    queue.enqueue("sum", queue="reports")
    queue.pause("reports")
    for n in range(2):
        queue.enqueue("pay", {"order": n}, queue="orders", max_retries=0)
    queue.enqueue("export", queue="orders", priority=9)
    WorkerQueue(session).register(
        WORKER,
        ["orders", "mail", "images", "bulk", "reports"],
        kinds=["mail", "pay", "export", "sum", "thumbnail", "newsletter"],
    )
    for job in queue.claim(["orders"], max_jobs=2, worker=WORKER):
        queue.fail(job, "ConnectionError: the bank is away")
    queue.claim(["orders"], worker=WORKER, lease="1 hour")
    queue.enqueue("thumbnail", {"image": "a.png"}, queue="images")
    for retry_in in ("0", "1 hour"):
        (job,) = queue.claim(["images"], worker=WORKER)
        queue.fail(job, "the worker is gone", retry_in)
    for n in range(4):
        queue.enqueue("newsletter", {"to": n}, queue="bulk")
    queue.schedule("nightly", "0 3 * * *", "sum", queue="reports")
