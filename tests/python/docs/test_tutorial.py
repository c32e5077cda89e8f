"""The tutorial, typed as a new user would type it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from postgres.server import bare_environ
from support.pages import Block, Page, matches
from support.paths import ROOT

TUTORIAL = Page("docs/tutorial.md")
DIRECTORY = ROOT / "build/tutorial"
DONE = "the end of the output of"


class Shell:
    """A shell that reads what is typed, line by line, as a terminal's does; what it starts may read on."""

    def __init__(self, log: Path) -> None:
        environment = {name: value for name, value in bare_environ().items() if not name.startswith("MAKE")}
        self._log = log.open("w")
        self._process = subprocess.Popen(
            ["bash"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._typed = 0

    def type(self, command: str) -> list[str]:
        """Type a command, and return what it prints. A command that opens or ends a shell prints nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._typed += 1
        end = f"{DONE} {self._typed}"
        self._process.stdin.write(f"{command}\ncode=$?; echo; echo '{end}' $code\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith(end):
                assert line.split()[-1] == "0", (command, printed)
                return "\n".join(printed).rstrip().splitlines()
            printed.append(line.rstrip())
        raise AssertionError(f"the shell has ended at: {command}")

    def close(self) -> int:
        """End the input, and return the exit code."""
        self._process.communicate(timeout=60)
        self._log.close()
        return self._process.returncode


def typed(block: Block) -> list[tuple[str, list[str]]]:
    """Return the commands of a block, each with the output that the page shows."""
    commands: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("#"):
            commands[-1][1].append(line.removeprefix("#").removeprefix(" "))
        else:
            commands.append((line, []))
    return commands


def write(block: Block) -> None:
    """Write or extend the file that the first line of a block names."""
    first, _, code = block.text.partition("\n")
    name, _, where = first.removeprefix("# ").partition(", ")
    assert where in {"", "at the end"}
    with (DIRECTORY / name).open("a" if where else "w") as file:
        file.write(f"\n\n{code}" if where else code)


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(tmp_path: Path) -> None:
    """
    All of it in one shell, beside the server that it starts; the demo is not run.

    The environment of the tests stands in for .venv, which may be that of another Python.
    """
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    shell = Shell(tmp_path / "log")
    try:
        for block in TUTORIAL.all_blocks():
            if block.language == "python":
                write(block)
                continue
            for command, shown in typed(block):
                own = str(Path(sys.executable).parent)
                printed = shell.type(command.replace("make demo", "make --dry-run demo >&2").replace(".venv/bin", own))
                assert matches(shown, printed) or (not shown and not printed), f"{command}\n{printed}"
    finally:
        code = shell.close()
        print((tmp_path / "log").read_text())
        shutil.rmtree(DIRECTORY, ignore_errors=True)
    assert code == 0


def test_the_tutorial_is_commands_and_files_only() -> None:
    """So all of it is typed."""
    assert {block.language for block in TUTORIAL.all_blocks()} == {"sh", "python"}
    assert all(block.runs for block in TUTORIAL.all_blocks())
