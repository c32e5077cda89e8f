"""A program installs, upgrades and removes pgq with the functions that it exports."""

from __future__ import annotations

import pytest
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
