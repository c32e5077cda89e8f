"""What all pages share: the settings, the templates, and the request with the database that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from time import monotonic
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pgq.version import driver_version
from pgq.web.database import Database, Reader, reading
from pgq.web.history import Histories
from pgq.web.security import FIELD, set_token, token_of
from pgq.web.show import FILTERS, STATES, ago

# Seconds between two looks of an open page at the server.
REFRESH: Final = 5
PAGES: Final = (
    ("/", "Overview"),
    ("/queues", "Queues"),
    ("/jobs", "Jobs"),
    ("/dead", "Dead"),
    ("/batches", "Batches"),
    ("/schedules", "Schedules"),
    ("/workers", "Workers"),
)


@dataclass(frozen=True)
class Site:
    """The settings of the application."""

    databases: Sequence[Database]
    allow_actions: bool
    histories: Histories
    environment: Environment

    def database(self, label: str | None) -> Database | None:
        """Return the database with a label; without, the first one; None: there is none with it."""
        if not label:
            return self.databases[0]
        return next((database for database in self.databases if database.label == label), None)


def environment() -> Environment:
    """Return the templates. All that they insert is escaped, and a name that is missing is an error."""
    made = Environment(
        loader=PackageLoader("pgq.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS
    made.globals |= {"STATES": STATES, "VERSION": driver_version()}
    return made


class Ask:
    """A request, and the database that it is about."""

    def __init__(self, site: Site, request: Request, database: Database) -> None:
        self.site = site
        self.request = request
        self.database = database
        self.begun_at = monotonic()
        self.form: dict[str, str] = {}

    @cached_property
    def token(self) -> str:
        """The token that forms of this browser send."""
        return token_of(self.request)

    def get(self, name: str) -> str | None:
        """Return a parameter of the query; None: it is missing or empty."""
        return self.request.query_params.get(name, "").strip() or None

    def number(self, name: str) -> int | None:
        """Return a parameter that is the number of a job; None: it is missing, or is none."""
        value = self.get(name)
        return int(value) if value and value.isascii() and value.isdigit() and len(value) < 19 else None

    def link(self, path: str, **params: Any) -> str:
        """Return the address of a page, below where the application is mounted; without parameters that are None."""
        root = self.request.scope.get("root_path", "").rstrip("/")
        given = {name: value for name, value in params.items() if value not in (None, "")}
        if self.database is not self.site.databases[0] and not path.startswith("/static/"):
            given["db"] = self.database.label
        return f"{root}{path}" + (f"?{urlencode(given)}" if given else "")

    def same(self, **params: Any) -> str:
        """Return the address of this page with other parameters."""
        path = self.request.scope["path"].removeprefix(self.request.scope.get("root_path", ""))
        given = {name: value for name, value in self.request.query_params.items() if name != "db"}
        return self.link(path or "/", **given | params)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Read from the database, in one transaction."""
        with reading(self.database) as reader:
            yield reader

    def page(self, template: str, status: int = 200, *, now: datetime | None, **values: Any) -> Response:
        """Return a page. ``now`` is the time of the server to which it counts; None: it shows no times."""
        html = self.site.environment.get_template(template).render(
            ask=self,
            path=self.request.scope["path"].removeprefix(self.request.scope.get("root_path", "")) or "/",
            PAGES=PAGES,
            REFRESH=REFRESH,
            FORM_TOKEN=FIELD,
            now=now,
            ago=partial(ago, now=now),
            **values,
        )
        response = HTMLResponse(html, status)
        set_token(self.request, response, self.token)
        response.headers["Server-Timing"] = f"page;dur={1000 * (monotonic() - self.begun_at):.1f}"
        return response


Page = Callable[[Ask], Response]
