"""So that ``python -m pgq`` is the command, too."""

from pgq.cli import main

main(prog_name="pgq")
