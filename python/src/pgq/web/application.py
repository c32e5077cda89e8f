"""The ASGI application: its routes, and a page for everything that goes wrong."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from pgq.errors import Error, JobNotFound, NotInstalled, Outdated
from pgq.web import actions
from pgq.web.database import TooSlow, databases
from pgq.web.history import Histories
from pgq.web.pages import batches, dead, job, jobs, overview, queues, schedules, workers
from pgq.web.security import FIELD, Guard, comes_from_here
from pgq.web.site import Ask, Page, Site, environment

log: Final = logging.getLogger("pgq.web")
# Bytes: the numbers of a thousand jobs, and room.
LONGEST_FORM: Final = 64_000
ROUTES: Final[Sequence[tuple[str, Page]]] = (
    ("/", overview.page),
    ("/queues", queues.page),
    ("/queues/settings", queues.settings_page),
    ("/jobs", jobs.page),
    ("/jobs/{id:int}", job.page),
    ("/dead", dead.page),
    ("/batches", batches.page),
    ("/schedules", schedules.page),
    ("/schedules/show", schedules.show_page),
    ("/workers", workers.page),
)


def app(
    dsn: str | Sequence[str] = "",
    *,
    schema: str | None = None,
    allow_actions: bool = False,
    hosts: Iterable[str] | None = None,
) -> ASGIApp:
    """
    Return the pages as an ASGI application, to be served alone or mounted behind the login of another application.

    ``dsn`` names the database, or several of them; empty, libpq's environment does. The role of the connection decides
    what the pages show, and with ``allow_actions`` what they let do: the application knows no users, so everybody who
    reaches it acts as that role. ``hosts`` are the host names under which browsers may ask for it; None accepts all,
    for an application behind a server that checks them. Raises ValueError for a DSN that libpq cannot read.
    """
    try:
        known = databases([dsn] if isinstance(dsn, str) else list(dsn), schema)
    except psycopg.ProgrammingError:
        # libpq quotes what it cannot read, password and all.
        raise ValueError("the DSN is not one that libpq can read") from None
    if not known:
        raise ValueError("name at least one database")
    histories = Histories(known)
    site = Site(known, allow_actions, histories, environment())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        histories.start()
        yield
        histories.stop()

    routes: list[Any] = [Route(path, _endpoint(site, page)) for path, page in ROUTES]
    if allow_actions:
        routes += [Route(f"/do/{name}", _action(site, name), methods=["GET", "POST"]) for name in actions.ACTIONS]
    routes.append(Mount("/static", StaticFiles(packages=[("pgq.web", "static")])))
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: _missing(site)},
        lifespan=lifespan,
    )


def _endpoint(site: Site, page: Page) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(_answered, site, request, page, {})

    return endpoint


def _action(site: Site, name: str) -> Callable[[Request], Any]:
    """Return the endpoint of an action: GET shows what it would do, POST does it."""

    async def endpoint(request: Request) -> Response:
        if request.method != "POST":
            return await run_in_threadpool(_answered, site, request, actions.ACTIONS[name].confirmation, {})
        form = await sent(request)
        page = actions.ACTIONS[name].result if comes_from_here(request, form.get(FIELD, "")) else _not_from_here
        return await run_in_threadpool(_answered, site, request, page, form)

    return endpoint


async def sent(request: Request) -> dict[str, str]:
    """Return the fields of a form; none if it is longer than any of ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            return {}
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def _not_from_here(ask: Ask) -> Response:
    return problem(ask, 403, "This form was not sent by one of these pages", "Go back, reload the page, and try again.")


def _answered(site: Site, request: Request, page: Page, form: dict[str, str]) -> Response:
    """Return the page, or the page that says why there is none."""
    database = site.database(request.query_params.get("db"))
    ask = Ask(site, request, database or site.databases[0])
    ask.form = form
    if database is None:
        return problem(ask, 404, "There is no such database", "Choose one in the header.")
    try:
        return page(ask)
    except Exception as error:
        known = failed(ask, error)
        if known is not None:
            return known
        # Without the message, which may have an argument of a job in it.
        frames = traceback.extract_tb(error.__traceback__)
        where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        log.error("a page has failed: %s in %s", type(error).__name__, where)
        return problem(ask, 500, "This page has failed", f"It is a mistake in pgq: {type(error).__name__}.")


def failed(ask: Ask, error: Exception) -> Response | None:
    """Return the page for what the database has refused, or could not do; None for any other error."""
    found = verdict(error)
    return None if found is None else problem(ask, *found)


def verdict(error: Exception) -> tuple[int, str, str | None] | None:
    """Return the status of an error, what is wrong, and what to do; None for one that is a mistake of the pages."""
    found: tuple[int, str, str | None] | None = None
    if isinstance(error, TooSlow | psycopg.errors.QueryCanceled):
        found = 503, "The database is slow", "It has not replied within two seconds. The page tries again."
    elif isinstance(error, Error):
        status = 503 if isinstance(error, Outdated | NotInstalled) else 404 if isinstance(error, JobNotFound) else 409
        found = status, str(error), error.hint
    elif isinstance(error, psycopg.OperationalError) and not error.sqlstate:
        lines = str(error).strip().splitlines()
        found = 503, "The database cannot be reached", lines[0] if lines else None
    elif isinstance(error, psycopg.Error):
        is_denied = isinstance(error, psycopg.errors.InsufficientPrivilege)
        is_down = isinstance(error, psycopg.OperationalError)
        message = error.diag.message_primary or "The database has refused that"
        found = 403 if is_denied else 503 if is_down else 400, message, _hint(error)
    return found


def _hint(error: psycopg.Error) -> str | None:
    if error.diag.message_hint:
        return error.diag.message_hint
    notes = [note.removeprefix("hint: ") for note in getattr(error, "__notes__", [])]
    return notes[0] if notes else None


def problem(ask: Ask, status: int, title: str, hint: str | None) -> Response:
    """Return a page that says what is wrong, and what to do."""
    return ask.page("problem.html", status, title=title, hint=hint, now=None)


def _missing(site: Site) -> Callable[[Request, Exception], Any]:
    """Return the handler for addresses and methods that there are not."""

    async def missing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        ask = Ask(site, request, site.databases[0])
        title = "There is no such page" if status == 404 else "This page does not take that"
        return await run_in_threadpool(problem, ask, status, title, None)

    return missing
