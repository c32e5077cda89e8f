"""The command line of pgq."""

from pgq.cli.commands import main

__all__ = ["main"]
