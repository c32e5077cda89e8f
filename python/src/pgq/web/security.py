"""What keeps other sites, and other people's jobs, from acting through the pages."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import secrets
from collections.abc import Iterable
from time import monotonic
from typing import Final
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

access: Final = logging.getLogger("pgq.web.access")
# Nothing inline, nothing from elsewhere: a payload that got into a page as markup could neither run nor load anything.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # The address of a page may have an argument in it that was searched for.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
COOKIE: Final = "pgq_form"
FIELD: Final = "form_token"
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """
    Refuse requests under a name of the host that is not expected, and add the headers to each response.

    A page of another site can let its own name resolve to 127.0.0.1 and then read the replies (DNS rebinding). The
    browser then sends that name as the host. ``hosts`` are the expected ones; None: what is in front has checked it.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] | None) -> None:
        self.app = app
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun_at = monotonic()

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Without the query, which may have an argument that was searched for.
                took = round(1000 * (monotonic() - begun_at))
                access.info("%s %s %s %s ms", scope["method"], quote(scope["path"]), message["status"], took)
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if self.hosts is not None and host_of(Headers(scope=scope).get("host", "")) not in self.hosts:
            text = "This host name is not expected. Use localhost, or start pgq web with --allow-host NAME.\n"
            await Response(text, 421, media_type="text/plain")(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def host_of(header: str) -> str:
    """Return the name in a Host header, without the port; empty for a bad one."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def token_of(request: Request) -> str:
    """Return the token for the forms of this browser: that of its cookie, or a new one."""
    known = request.cookies.get(COOKIE, "")
    return known if len(known) == 43 and known.isascii() else secrets.token_urlsafe(32)


def set_token(request: Request, response: Response, token: str) -> None:
    """Give the browser its token, if it has none."""
    if request.cookies.get(COOKIE) != token:
        response.set_cookie(
            COOKIE,
            token,
            path=request.scope.get("root_path") or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )


def comes_from_here(request: Request, sent: str) -> bool:
    """
    Return whether a form was sent by a page of ours.

    The token of the form is that of the cookie, which other sites can neither read nor send, and where the browser says
    from which origin the form comes, it is this one.
    """
    known = request.cookies.get(COOKIE, "")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        return False
    return bool(known) and hmac.compare_digest(known.encode(), sent.encode())
