"""Sleep until a connection has something to read, in both kinds of code: the one thing that differs between them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import psycopg

from pgq.process.polling import readable


def wait_readable(seconds: float, conn: psycopg.Connection[Any] | None) -> None:
    """Sleep for a time, or until there is something to read from a connection."""
    readable(seconds, *([] if conn is None else [conn.fileno()]))


async def wait_readable_async(seconds: float, conn: psycopg.AsyncConnection[Any] | None) -> None:
    """Sleep for a time, or until there is something to read from a connection."""
    if conn is None:
        await asyncio.sleep(seconds)
        return
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    fileno = conn.fileno()
    loop.add_reader(fileno, is_readable.set)
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(is_readable.wait(), seconds)
    finally:
        loop.remove_reader(fileno)
