"""The command that serves metrics."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from types import FrameType

import click

from pgq.cli.databases import databases
from pgq.cli.errors import CommandError, command_errors
from pgq.cli.target import Target, pass_target
from pgq.cli.values import duration
from pgq.process import logs
from pgq.process.logs import logger


def address(value: str | tuple[str, int]) -> tuple[str, int]:
    """Return the host and the port of text such as 127.0.0.1:9797, [::1]:9797 or :9797, which is all addresses."""
    if isinstance(value, tuple):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not an address such as 127.0.0.1:9797")
    return host.strip("[]") or "0.0.0.0", int(port)


@click.command()
@click.option(
    "--listen", type=address, metavar="HOST:PORT", default="127.0.0.1:9797", help="Address; port 0: any that is free."
)
@click.option(
    "--max-series",
    type=click.IntRange(1, 100_000),
    default=200,
    help="Pairs of queue and kind of a database that have series of their own; the rest is summed up as other.",
)
@click.option(
    "--timeout",
    type=duration,
    metavar="DURATION",
    default="8s",
    help="Time after which a database counts as down; less than that of the scrape.",
)
@pass_target
def metrics(target: Target, listen: tuple[str, int], max_series: int, timeout: timedelta) -> None:
    """
    Serve metrics of one or several databases to Prometheus, in its own format or as OpenMetrics.

    All who can connect to the address can read them. A database that is down has pgq_up 0, and does not delay the
    others. SIGTERM or Ctrl-C ends the command.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - an extra

        from pgq.metrics.exporter import Databases, Source  # noqa: PLC0415
    except ImportError as error:
        if error.name != "prometheus_client":
            raise
        raise CommandError(
            "this Python has no module prometheus_client, by which pgq metrics serves", "Install pgq-jobs[metrics]."
        ) from error
    logs.configure("info", "text")
    within = timeout.total_seconds()
    with command_errors():
        sources = [Source(name, one.dsn, target.schema, max_series, within) for name, one in databases(target).items()]
    registry = CollectorRegistry()
    registry.register(Databases(sources, within))
    ended = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    host, port = listen
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host}:{port}: {error.strerror}", "Choose another address by --listen HOST:PORT."
        ) from error
    names, bound = ", ".join(one.name for one in sources), f"[{host}]" if ":" in host else host
    logger.info("pgq serves metrics of %s at http://%s:%d/metrics", names, bound, server.server_port)
    ended.wait()
    server.shutdown()
    thread.join()
    server.server_close()
    logger.info("pgq metrics has stopped")
