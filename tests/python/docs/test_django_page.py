"""The page about Django: its blocks are the files and the commands of a project."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection
from support.pages import Page

PAGE = Page("docs/django.md")
BACKPORT = find_spec("django.tasks") is None
# What startproject makes, and the page does not show.
SETTINGS = """
SECRET_KEY = "of no use"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": {dbname!r}, "USER": {user!r},
                           "HOST": {host!r}, "PORT": {port!r}}}}}
INSTALLED_APPS = {apps!r}
"""
MANAGE = """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
"""
MODELS = """
from django.db import models

class Order(models.Model):
    article = models.TextField()
    shipped = models.BooleanField(default=False)
"""


@pytest.mark.slow
def test_the_project_of_the_page_works(dsn: str, conn: Connection, tmp_path: Path) -> None:
    """Each Python block is a file that its first line names; then the commands run in their order."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    settings = SETTINGS.format(**conninfo_to_dict(dsn), apps=["django_tasks"] if BACKPORT else [])
    files = {"settings.py": settings, "manage.py": MANAGE, "shop/__init__.py": "", "shop/models.py": MODELS}
    for block in PAGE.blocks("python"):
        (name,) = re.findall(r"\A# (\S+\.py)\n", block)
        files[name] = files.get(name, "") + (block.replace("django.tasks", "django_tasks") if BACKPORT else block)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in [line for block in PAGE.blocks("sh") for line in block.splitlines()]:
        words = shlex.split(command)
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    # Of the last command, which runs the tests of the page.
    assert re.search(r"^Ran 3 tests", done.stderr, re.MULTILINE)
