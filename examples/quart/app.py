"""Reminders in a browser. `PGQ_DSN=… hypercorn "app:create_app()"`"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from datetime import timedelta
from uuid import UUID, uuid4

from psycopg_pool import AsyncConnectionPool
from quart import Blueprint, Quart, abort, redirect, render_template, request, url_for
from quart.typing import ResponseReturnValue

import reminders
from transactions import Connection, transaction

YEAR = 365 * 24 * 60
views = Blueprint("views", __name__)


def create_app(dsn: str | None = None) -> Quart:
    """Return the application, for the database of ``dsn`` or PGQ_DSN."""
    app = Quart(__name__)
    app.register_blueprint(views)

    @app.while_serving
    async def pool() -> AsyncGenerator[None, None]:
        """Open the connections at the start, and close them when the last request has ended."""
        async with AsyncConnectionPool(dsn or os.environ["PGQ_DSN"]) as pool:
            app.extensions["connection"] = pool.connection
            yield

    return app


@views.get("/reminders")
@transaction
async def show(conn: Connection) -> ResponseReturnValue:
    """Show the reminders, and a form for a new one, which brings its key."""
    return await render_template("reminders.html", reminders=await reminders.newest(conn), key=uuid4())


@views.post("/reminders")
@transaction
async def add(conn: Connection) -> ResponseReturnValue:
    """Add a reminder, and show all."""
    form = await request.form
    try:
        key, text, minutes = UUID(form["key"]), form["text"].strip(), float(form["minutes"])
    except ValueError:
        abort(400)
    if not text or not 0 <= minutes <= YEAR:
        abort(400)
    await reminders.add(conn, key, text, timedelta(minutes=minutes))
    return redirect(url_for("views.show"), 303)
