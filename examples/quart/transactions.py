"""A transaction for each request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from psycopg import AsyncConnection
from quart import current_app

P = ParamSpec("P")
R = TypeVar("R")
Connection = AsyncConnection[Any]


def transaction(view: Callable[Concatenate[Connection, P], Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """
    Call a view with a connection of the pool. Its transaction commits when the view returns, before the response is
    sent, and rolls back when it raises: by abort(), an error, or because the client has gone.
    """

    @wraps(view)
    async def in_transaction(*args: P.args, **kwargs: P.kwargs) -> R:
        async with current_app.extensions["connection"]() as conn, conn.transaction():
            return await view(conn, *args, **kwargs)

    return in_transaction
