"""A chat that the examples of applications call for each reminder."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

PATIENCE = 60.0


class Chat:
    """``sent`` has the text and the key of each message, also of those that were refused with 503 while it is down."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.is_down = False
        # Cleared, each call waits.
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Chat:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.goes_on.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(chat) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chat.sent.append((message["text"], self.headers["Idempotency-Key"]))
                chat.goes_on.wait(PATIENCE)
                self.send_response(503 if chat.is_down else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler
