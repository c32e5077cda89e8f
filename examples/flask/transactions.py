"""A transaction for each request."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg
from flask import current_app

P = ParamSpec("P")
R = TypeVar("R")
Connection = psycopg.Connection[Any]


def transaction(view: Callable[Concatenate[Connection, P], R]) -> Callable[P, R]:
    """
    Call a view with a connection of the pool. Its transaction commits when the view returns, before the response is
    sent, and rolls back when it raises, by abort() or an error.
    """

    @wraps(view)
    def in_transaction(*args: P.args, **kwargs: P.kwargs) -> R:
        with current_app.extensions["connection"]() as conn, conn.transaction():
            return view(conn, *args, **kwargs)

    return in_transaction
