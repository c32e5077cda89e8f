"""Make ``python -m pgq`` the same as the command ``pgq``."""

from pgq.cli import main

main(prog_name="pgq")
