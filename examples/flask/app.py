"""Reminders in a browser. `PGQ_DSN=… gunicorn --threads 4 "app:create_app()"`"""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from uuid import UUID, uuid4

from flask import Blueprint, Flask, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from psycopg_pool import ConnectionPool

import reminders
from transactions import Connection, transaction

YEAR = 365 * 24 * 60
views = Blueprint("views", __name__)


def create_app() -> Flask:
    """Return the application, for the database of PGQ_DSN. A connection is opened when a request needs one."""
    app = Flask(__name__)
    app.register_blueprint(views)
    pool = ConnectionPool(os.environ["PGQ_DSN"], min_size=0, max_size=4, open=True)
    atexit.register(pool.close)
    app.extensions["connection"] = pool.connection
    return app


@views.get("/reminders")
@transaction
def show(conn: Connection) -> ResponseReturnValue:
    """Show the reminders, and a form for a new one, which brings its key."""
    return render_template("reminders.html", reminders=reminders.newest(conn), key=uuid4())


@views.post("/reminders")
@transaction
def add(conn: Connection) -> ResponseReturnValue:
    """Add a reminder, and show all."""
    form = request.form
    try:
        key, text, minutes = UUID(form["key"]), form["text"].strip(), float(form["minutes"])
    except ValueError:
        abort(400)
    if not text or not 0 <= minutes <= YEAR:
        abort(400)
    reminders.add(conn, key, text, timedelta(minutes=minutes))
    return redirect(url_for("views.show"), 303)
