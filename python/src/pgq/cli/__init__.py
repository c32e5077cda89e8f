"""The command line of pgq. Private: applications and scripts call the command ``pgq``."""

from pgq.cli.commands import main

__all__ = ["main"]
