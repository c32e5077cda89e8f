"""What the SQL of this program's version creates: its tables with their settings, its indexes, its functions."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from pgq.schema.install import CREATED, script

TABLE: Final = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (\w+) \((.*?)^\)(.*?);$", re.MULTILINE | re.DOTALL)
OPTIONS: Final = re.compile(r"^WITH \((.*?)\)", re.MULTILINE | re.DOTALL)
CONSTRAINT: Final = re.compile(r"^ *CONSTRAINT (\w+) (PRIMARY KEY|UNIQUE) (\([^)]*\))", re.MULTILINE)
INDEX: Final = re.compile(r"^CREATE (?:UNIQUE )?INDEX (\w+) ON (\w+)\b.*?;$", re.MULTILINE | re.DOTALL)


@cache
def tables() -> dict[str, dict[str, str]]:
    """Return the storage parameters of each table."""
    found = {}
    for name, _, rest in TABLE.findall(script()):
        given = OPTIONS.search(rest)
        pairs = (option.split("=") for option in given[1].split(",")) if given else ()
        found[name] = {key.strip(): value.strip() for key, value in pairs}
    return found


@cache
def indexes() -> dict[str, tuple[str, str]]:
    """Return for each index its table, and the statements that create it again without keeping others waiting."""
    found = {}
    for name, body, _ in TABLE.findall(script()):
        for constraint, what, columns in CONSTRAINT.findall(body):
            found[constraint] = (
                name,
                f"CREATE UNIQUE INDEX CONCURRENTLY {constraint} ON {name} {columns}; "
                f"ALTER TABLE {name} ADD CONSTRAINT {constraint} {what} USING INDEX {constraint};",
            )
    for match in INDEX.finditer(script()):
        statement = " ".join(match[0].split()).replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
        found[match[1]] = (match[2], statement)
    return found


@cache
def functions() -> tuple[str, ...]:
    """Return the names of all functions."""
    return tuple(sorted({name for what, name in CREATED.findall(script()) if what == "FUNCTION"}))


@cache
def views() -> tuple[str, ...]:
    """Return the names of all views."""
    return tuple(sorted({name for what, name in CREATED.findall(script()) if what == "VIEW"}))
