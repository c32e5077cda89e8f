"""A program installs, upgrades and removes pgq with the functions that it exports."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from support.database import As
from support.installed import VERSION

import pgq


def test_a_program_installs_upgrades_and_uninstalls(as_: As) -> None:
    """Each function works in the schema that it is given, and upgrade returns no version when the SQL is up to date."""
    owner = as_("owner")
    assert pgq.install(owner, schema="jobs") == VERSION
    with pytest.raises(pgq.AlreadyInstalled):
        pgq.install(owner, schema="jobs")
    assert pgq.upgrade(owner, schema="jobs") == []
    assert pgq.uninstall(owner, schema="jobs") == VERSION
    for call in (pgq.upgrade, pgq.uninstall):
        with pytest.raises(pgq.NotInstalled):
            call(owner, schema="jobs")


@pytest.mark.parametrize("factory", [psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor])
def test_the_factories_of_a_connection_do_not_matter(as_: As, factory: Any) -> None:
    """The search path of the session stays, too."""
    owner = as_("owner")
    path = owner.execute("SELECT current_setting('search_path')").fetchone()
    owner.cursor_factory, owner.row_factory = factory, dict_row  # type: ignore[assignment]
    assert pgq.install(owner, schema="jobs") == VERSION
    assert pgq.upgrade(owner, schema="jobs") == []
    assert pgq.uninstall(owner, schema="jobs") == VERSION
    owner.cursor_factory, owner.row_factory = psycopg.Cursor, psycopg.rows.tuple_row
    assert owner.execute("SELECT current_setting('search_path')").fetchone() == path
