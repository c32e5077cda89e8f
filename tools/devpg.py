"""
Run a command beside a throw-away PostgreSQL, under any account including root.

    python tools/devpg.py run [--durable] -- COMMAND ARG...

The server listens only on a Unix socket inside a private temporary directory, and both are deleted when COMMAND ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from postgres.children import Terminated, run
from postgres.programs import DevpgError
from postgres.server import Server, bare_environ


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command beside a server; return its status, 128 plus a signal's number, or 125 if no server starts."""
    parser = argparse.ArgumentParser(prog="devpg.py", description="Run a command beside a throw-away PostgreSQL.")
    verb = parser.add_subparsers(required=True).add_parser("run", help="start a server, run COMMAND, delete the server")
    verb.add_argument("--durable", action="store_true", help="keep fsync and synchronous_commit on")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ARG")
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        verb.error("no COMMAND to run")
    try:
        with Server(durable=options.durable) as server:
            # PGQ_DSN names another server.
            env = {k: v for k, v in (bare_environ() | server.env).items() if k != "PGQ_DSN"}
            try:
                return run(command, env)
            except OSError as error:
                print(f"devpg: {command[0]}: {error.strerror}", file=sys.stderr)
                return 127 if isinstance(error, FileNotFoundError) else 126
    except DevpgError as error:
        print(f"devpg: {error}", file=sys.stderr)
        return 125
    except Terminated as stop:
        return stop.status


if __name__ == "__main__":
    sys.exit(main())
