"""The tests of the app for Django, which Django runs on its own in ``tests/django_project``."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.servers import Place

COMMAND = (sys.executable, "-W", "ignore", "manage.py", "test", "--noinput", "shop")


def run(place: Place, *options: str) -> int:
    """Run the tests on the server of this session, and return how many there were."""
    env = os.environ | {"PGHOST": place.host, "PGPORT": str(place.port), "PGUSER": place.user}
    done = subprocess.run(
        [*COMMAND, *options], cwd=ROOT / "tests/django_project", env=env, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    (ran,) = re.findall(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    return int(ran)


@pytest.mark.slow
def test_the_app_for_django(place: Place) -> None:
    """In one process, with the Django of this environment."""
    assert run(place, "--exclude-tag", "slow") > 50


@pytest.mark.slow
def test_the_app_for_django_in_processes(place: Place) -> None:
    """Migrations that remove and upgrade, and the command in processes of its own."""
    assert run(place, "--tag", "slow") > 8
