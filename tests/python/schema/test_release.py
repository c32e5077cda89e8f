"""The steps of a release, as CONTRIBUTING.md states them, leave all that is released in a commit."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from support.installed import RELEASED, VERSION
from support.pages import Page
from support.sources import commit_sources

from pgq.version import parse_version

# Steps 1 and 3; step 2 is make dist, which test_packaging.py runs.
FREEZE, _, BEGIN = (
    textwrap.dedent(block)
    for block in re.findall(r"^ +```sh\n(.*?)^ +```$", Page("CONTRIBUTING.md").section("How to release"), re.M | re.S)
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with the sources as they are now, committed or not."""
    commit_sources(tmp_path / "pgq")
    return tmp_path / "pgq"


def type_(directory: Path, commands: str, **versions: str) -> None:
    """Run the lines of a block one after the other; none may fail."""
    who = {f"GIT_{role}_{part}": "x@example.org" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | who | versions
    done = subprocess.run(
        ["bash", "-euxc", commands], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def enter(directory: Path, before: str, after: str) -> None:
    """Replace the first such text of the list of changes, as a person does."""
    path = directory / "CHANGELOG.md"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_a_release_and_the_begin_of_the_next_one_are_whole(copy: Path, tmp_path: Path) -> None:
    """A clone of the repository builds each release, byte by byte as it was, and upgrades between them."""
    major, minor, _ = parse_version(VERSION)
    before, version, later = RELEASED[-1], VERSION, f"{major}.{minor + 1}.0"
    if VERSION in RELEASED:
        before, version, later = VERSION, later, f"{major}.{minor + 2}.0"
        enter(copy, "# Changes\n", f"# Changes\n\n## {version}, unreleased\n\nNothing.\n")
        type_(copy, BEGIN, A=before, B=before, C=version)
    type_(copy, "make")
    built = (copy / f"build/pgq--{version}.sql").read_bytes()
    step = (copy / f"build/pgq--{before}--{version}.sql").read_bytes()

    enter(copy, f"## {version}, unreleased", f"## {version}, 2030-01-01")
    type_(copy, FREEZE, A=before, B=version, C=later)
    assert (copy / f"build/pgq--{version}.sql").read_bytes() == built
    assert (copy / f"build/pgq--{before}--{version}.sql").read_bytes() == step
    enter(copy, "# Changes\n", f"# Changes\n\n## {later}, unreleased\n\nNothing.\n")
    type_(copy, BEGIN, A=before, B=version, C=later)

    type_(tmp_path, "git -C pgq diff --quiet HEAD && git clone --quiet pgq clone && make -C clone")
    clone = tmp_path / "clone/build"
    assert (clone / f"pgq--{version}.sql").read_bytes() == built
    assert (clone / f"pgq--{before}--{version}.sql").read_bytes() == step
    assert f"RETURN '{later}';" in (clone / f"pgq--{later}.sql").read_text()
    assert (clone / f"pgq--{version}--{later}.sql").exists()
