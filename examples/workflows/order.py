"""
An order in steps: charge, wait for an approval, reserve, ship. `SHOP_URL=… pgq worker order --queue orders`

    pgq enqueue order '{"order": 7, "item": "lamp", "amount": 200}' --queue orders
    pgq signal 1 approved '{"by": "ann"}'

The handler begins at the top in each attempt, and a step that has run returns what it has returned before. The writes
of a step commit with it, once. A call to the service outside may be repeated, with the same idempotency key. The tables
are in shop.sql.
"""

from __future__ import annotations

import json
import os
import urllib.request
from datetime import timedelta
from typing import Any

import psycopg

import pgq

BIG = 100


@pgq.handler("order", transaction=True)
def order(job: pgq.Job, conn: psycopg.Connection[Any]) -> str:
    """Ship an order; return what has become of it."""
    number, item, amount = job.args["order"], job.args["item"], job.args["amount"]
    charge = job.step("charge", call, job, "charge", number)
    by = None
    if amount > BIG:
        try:
            by = job.wait_signal("approved", timedelta(seconds=job.args.get("patience", 86_400)))["by"]
        except TimeoutError:
            job.step("refund", call, job, "refund", number)
            return "refunded"
    job.step("reserve", reserve, conn, item)
    job.step("ship", call, job, "ship", number)
    job.step("note", note, conn, number, charge, by)
    return "shipped"


def reserve(conn: psycopg.Connection[Any], item: str) -> None:
    """Take one from the stock."""
    conn.execute("UPDATE stock SET available = available - 1 WHERE item = %s", [item])


def note(conn: psycopg.Connection[Any], number: int, charge: int, by: str | None) -> None:
    """Note the shipment."""
    conn.execute("INSERT INTO shipment (order_id, charge, approved_by) VALUES (%s, %s, %s)", [number, charge, by])


def call(job: pgq.Job, what: str, number: int) -> int:
    """Call the service outside; return the number that it gives."""
    request = urllib.request.Request(
        f"{os.environ['SHOP_URL']}/{what}", json.dumps({"order": number}).encode(), {"Idempotency-Key": job.step_key}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return int(json.load(response)["number"])
