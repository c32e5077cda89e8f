"""The pages of ``pgq.web`` beside a Django project, for those whom its session knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from io import BytesIO
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user
from django.contrib.auth.views import redirect_to_login
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpResponse, HttpResponseForbidden

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_staff(user: Any) -> bool:
    """Return whether a user may use Django's admin."""
    return bool(user.is_active and user.is_staff)


def beside(
    django: Application, pages: Application, *, path: str, may_see: Callable[[Any], bool] = is_staff
) -> Application:
    """
    Return an ASGI application that serves the pages below a path, such as ``/jobs``, and Django elsewhere.

    The pages are for users of Django's session of whom ``may_see`` is true. Others are sent to the login of the
    project (LOGIN_URL), and refused if they are logged in.
    """
    prefix = path.rstrip("/")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "").rstrip("/")
        # The path begins with that below which a proxy serves the project.
        if scope["type"] != "http" or not f"{scope['path'].removeprefix(root)}/".startswith(f"{prefix}/"):
            await django(scope, receive, send)
            return
        refusal = await sync_to_async(_refusal, thread_sensitive=True)(dict(scope), may_see)
        if refusal is None:
            await pages({**scope, "root_path": root + prefix}, receive, send)
            return
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in refusal.items()]
        await send({"type": "http.response.start", "status": refusal.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": refusal.content})

    return application


def _refusal(scope: Scope, may_see: Callable[[Any], bool]) -> HttpResponse | None:
    """Return the reply to a user who may not see the pages; None: the user may."""
    # As Django does around its own requests: a connection that was cut, or is too old, is replaced.
    close_old_connections()
    try:
        request = ASGIRequest(scope, BytesIO())
        SessionMiddleware(lambda _: HttpResponse()).process_request(request)
        user = get_user(request)
        if may_see(user):
            return None
        if user.is_authenticated:
            return HttpResponseForbidden("This user may not see the pages of pgq.")
        return redirect_to_login(request.get_full_path())
    finally:
        close_old_connections()
