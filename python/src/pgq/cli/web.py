"""The command ``pgq web``."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any, Final

import click

from pgq.cli.errors import CommandError
from pgq.cli.target import Target, pass_target

PORT: Final = 8740


@click.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, help="Port to listen on; 0: a free one.")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name under which browsers may reach it, beside localhost.",
)
@click.option("--allow-actions", is_flag=True, help="Let the pages retry, cancel, discard, pause and configure.")
@click.option("--root-path", default="", metavar="PATH", help="Path below which a proxy serves it, such as /jobs.")
@pass_target
def web(target: Target, host: str, port: int, names: tuple[str, ...], allow_actions: bool, root_path: str) -> None:
    """
    Serve pages that show the queues, jobs, batches, schedules and workers, until SIGTERM or Ctrl-C.

    There is no login: everybody who reaches it sees what the role of the DSN may see. So it listens on this machine
    only, and an address of a network takes --allow-host. With --allow-actions they may also do what that role may do.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an extra

        from pgq.web import app  # noqa: PLC0415 - an extra
        from pgq.web.security import LOOPBACK, is_loopback  # noqa: PLC0415 - an extra
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("jinja2", "starlette", "uvicorn"):
            raise
        raise CommandError(
            f"this Python has no module {missing}, which pgq web needs", "Install pgq-jobs[web]."
        ) from error
    if not is_loopback(host) and not names:
        raise click.UsageError(
            f"{host} can be reached from elsewhere, and the pages have no login: name the hosts by --allow-host, or "
            "mount pgq.web.app behind a login"
        )
    try:
        application = app(target.dsns, schema=target.schema, allow_actions=allow_actions, hosts=[*LOOPBACK, *names])
    except ValueError as error:
        raise CommandError(str(error)) from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    # Its access log has the whole address, and so the arguments that were searched for.
    config = uvicorn.Config(
        application, host=host, port=port, root_path=root_path, access_log=False, log_config=None, server_header=False
    )
    serve(uvicorn.Server(config))


def serve(server: Any) -> None:
    """Run the server until a signal. Raises CommandError when it cannot listen."""
    # The server raises the signal again when it has stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        server.run()
    except SystemExit as end:
        if end.code:
            raise CommandError("cannot listen on this address", "Choose another --port.") from end
