"""What pgq exports: the names that users meet in tracebacks, pickles, stored errors and type hints."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import pydoc
import re
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import pytest

import pgq
import pgq.control
import pgq.errors

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def drawn(docstring: str | None) -> dict[str, list[tuple[str, str]]]:
    """Return the trees of a docstring: each root with its branches, and the text beside them."""
    trees: dict[str, list[tuple[str, str]]] = {}
    line_before = ""
    root = ""
    for line in (docstring or "").splitlines():
        if line.startswith(("├── ", "└── ")):
            root = root or line_before
            name, _, rest = line[4:].partition(" ")
            trees.setdefault(root, []).append((name, rest.strip()))
        else:
            root, line_before = "", line
    return trees


def subclasses(base: type[BaseException]) -> set[type[BaseException]]:
    """Return the classes of the driver that are derived from a class, in every module that needs no Django project."""
    for module in pkgutil.walk_packages(pgq.__path__, "pgq."):
        if module.name != "pgq.__main__" and not module.name.startswith("pgq.django."):
            importlib.import_module(module.name)
    found: set[type[BaseException]] = set()
    for one in base.__subclasses__():
        found |= {one} | subclasses(one)
    return {one for one in found if one.__module__.split(".")[0] == "pgq"}


@pytest.mark.parametrize("module", [pgq.errors, pgq.control])
def test_the_drawn_tree_is_the_real_one(module: Any) -> None:
    """Every error of the driver is drawn, below its base, and is exported."""
    trees = drawn(module.__doc__)
    assert {"Error", "KeyboardInterrupt"} == set(trees) or set(trees) == {"Control"}
    for root, branches in trees.items():
        base = getattr(module, root, KeyboardInterrupt)
        assert {name for name, _ in branches} == {one.__name__ for one in subclasses(base)}
        for name, _ in branches:
            assert getattr(pgq, name).__bases__ == (base,)


def test_the_drawn_codes_are_the_translated_ones() -> None:
    """The SQLSTATEs beside an error are those that become it."""
    branches = drawn(pgq.errors.__doc__)["Error"]
    codes = {code: name for name, rest in branches for code in re.findall(r"\w{5}", rest)}
    assert codes == {code: error.__name__ for code, error in pgq.errors.BY_SQLSTATE.items()}


@pytest.mark.parametrize("name", pgq.__all__)
def test_an_exported_name_does_not_show_where_it_is_defined(name: str) -> None:
    """Tracebacks, pickles and help name it as pgq's, and its type hints can be read."""
    exported = getattr(pgq, name)
    assert exported.__module__ == "pgq"
    assert exported.__doc__
    assert name in pydoc.render_doc(exported)
    if isinstance(exported, type):
        assert (f"{exported.__module__}.{exported.__qualname__}", repr(exported)) == (
            f"pgq.{name}",
            f"<class 'pgq.{name}'>",
        )
        assert pickle.loads(pickle.dumps(exported)) is exported
    get_type_hints(exported)


def test_the_exported_names_are_sorted_and_unique() -> None:
    assert sorted(set(pgq.__all__)) == pgq.__all__


@pytest.mark.parametrize(
    "error",
    [
        pgq.LeaseLost("gone", hint="Stop.", sqlstate="PGQ02"),
        pgq.JobFailed("job 1 is dead: no", state="dead", error="no"),
        pgq.TimedOut(),
        pgq.Snooze(until=NOON),
        pgq.Snooze(delay=timedelta(hours=1)),
        pgq.Cancel("no such address"),
        pgq.Retry(timedelta(hours=1)),
        pgq.Retry(),
    ],
    ids=repr,
)
def test_an_error_raised_in_a_process_pool_arrives_whole(error: BaseException) -> None:
    """A pool pickles the exception with all its attributes."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.args, vars(copy)) == (type(error), str(error), error.args, vars(error))
