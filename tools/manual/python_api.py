"""docs/python.md, from the docstrings and signatures of what pgq exports."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, get_args

import pgq
from pgq.new_job import AfterFailed, OnDuplicate
from pgq.schedule import CatchUp, Overlap
from pgq.statement import Paramstyle
from pgq.worker.settings import QueueOrder

WIDTH: Final = 118
# Every public name, by what it is for. One that is missing here is an error.
GROUPS: Final[Mapping[str, Sequence[str]]] = {
    "Enqueue and operate": ("Queue", "AsyncQueue", "NewJob", "Enqueued", "EnqueuedBatch", "BatchProgress", "Result"),
    "Statements": ("statement", "statement_many", "Statement"),
    "Handlers": ("handler", "around", "json_default", "Handlers"),
    "Jobs in a handler": ("Job", "AsyncJob"),
    "The end of an attempt": ("Snooze", "Cancel", "Retry", "WaitForSignal"),
    "The worker": ("Worker", "Drain", "WorkerQueue", "Failure", "Remaining", "SignalWait"),
    "Look": ("Views",),
    "Install": ("install", "upgrade", "uninstall"),
    "Errors": (
        "Error", "JobNotFound", "LeaseLost", "WrongState", "DuplicateJob", "JobFailed", "NotEnded", "NotInstalled",
        "AlreadyInstalled", "Outdated", "NoUpgradePath", "LockTimeout", "JobsRemain", "TransactionPooler",
        "PayloadError", "ArgumentsMismatch", "TransactionEnded", "TimedOut", "Cancelled",
    ),
}  # fmt: skip
# The methods of these that an application calls; the others are called by the worker.
METHODS: Final[Mapping[str, Sequence[str]]] = {
    "Handlers": ("handler", "around", "json_default"),
    "Worker": ("run", "stop"),
    "Drain": (),
    "WorkerQueue": (
        "claim", "idle", "ripe_in", "queues_to_serve", "remaining", "register", "unregister", "reconcile", "hold",
        "hold_many", "complete", "complete_many", "fail", "cancel_claimed", "cancel_requested", "extend", "snooze",
        "save", "wait_signal", "decline", "release",
    ),
}  # fmt: skip
# Of these, whose methods are those of another one to be awaited, only the names are listed.
AWAITED: Final = {"AsyncQueue": "Queue", "AsyncJob": "Job"}
# Words that an argument takes; the signatures have these names.
WORDS: Final[Mapping[str, Any]] = {
    "AfterFailed": AfterFailed, "CatchUp": CatchUp, "OnDuplicate": OnDuplicate, "Overlap": Overlap,
    "Paramstyle": Paramstyle, "QueueOrder": QueueOrder,
}  # fmt: skip
INTRODUCTION: Final = """\
# Python reference

Every public name of the module `pgq`, with its docstring. This page is generated from the code. [Enqueue](enqueue.md),
[Handlers](handlers.md) and [Workers](workers.md) show how they are used, and [Tests](testing.md) the fixtures of
`pgq.testing`.
"""


def page() -> str:
    """Return the page."""
    listed = [name for names in GROUPS.values() for name in names]
    if sorted(listed) != sorted(pgq.__all__):
        raise ValueError(f"GROUPS and pgq.__all__ differ: {sorted(set(listed) ^ set(pgq.__all__))}")
    contents = "".join(f"- [{title}](#{title.lower().replace(' ', '-')})\n" for title in GROUPS)
    sections = [f"## {title}\n\n" + "\n".join(_entry(name) for name in names) for title, names in GROUPS.items()]
    return "\n".join([INTRODUCTION, contents, _types(), *sections])


def _types() -> str:
    """Return a table of the types of arguments that have names."""
    words = [f"| `{name}` | {', '.join(f'`{word}`' for word in get_args(one))} |" for name, one in WORDS.items()]
    interval = "| `Interval` | a timedelta, or text that PostgreSQL reads as an interval, such as `5 minutes` |"
    return "\n".join(["In the signatures these stand for:\n", "| type | |", "|---|---|", interval, *words, ""])


def _entry(name: str) -> str:
    one = getattr(pgq, name)
    parts = [f"### {name}"]
    if not isinstance(one, type):
        parts += [_block(_signature(name, one)), _prose(one)]
    elif issubclass(one, BaseException) and name in GROUPS["Errors"]:
        parts.append(_prose(one))
    elif name == "NewJob":
        keys = ", ".join(f"`{key}`" for key in one.__annotations__)
        parts += [_prose(one), f"Keys: {keys}. Only `kind` is required."]
    else:
        # A claim makes jobs, and a call makes what it returns: only the others have a constructor to be called.
        if name not in {"Job", "AsyncJob"}:
            parts.append(_block(_signature(name, one)))
        parts += [_prose(one), *_members(name, one)]
    return "\n\n".join(parts) + "\n"


def _members(name: str, one: type) -> Iterator[str]:
    if name in AWAITED:
        methods = ", ".join(f"`{method}`" for method, _ in _methods(name, one))
        yield f"The methods of [{AWAITED[name]}](#{AWAITED[name].lower()}), to be awaited: {methods}."
        return
    held = set(getattr(one, "_fields", ())) | ({field.name for field in fields(one)} if is_dataclass(one) else set())
    rows = [
        f"| `{attribute}` | {_line(value)} |"
        for attribute, value in _all(one)
        if isinstance(value, property) and attribute not in held and value.__doc__
    ]
    if rows:
        yield "\n".join(["| attribute | |", "|---|---|", *rows])
    for method, function in _methods(name, one):
        yield f"#### {name}.{method}"
        yield _block(_signature(method, function))
        yield _prose(function)


def _all(one: type) -> Iterator[tuple[str, Any]]:
    """Return the public attributes of a class and its bases in pgq, in the order of the source, bases first."""
    found: dict[str, Any] = {}
    for base in reversed(one.__mro__):
        if base.__module__.split(".")[0] == "pgq":
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    yield from found.items()


def _methods(name: str, one: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    inherited = set(dir(pgq.Queue)) if name == "WorkerQueue" else set()
    for method, function in _all(one):
        if inspect.isfunction(function) and method in METHODS.get(name, (method,)) and method not in inherited:
            yield method, function


def _signature(name: str, function: Any) -> str:
    """Return a signature, without ``self``, in one line where it fits."""
    signature = inspect.signature(function)
    parameters = [one for one in signature.parameters.values() if one.name not in {"self", "_", "timing"}]
    written = [_parameter(one) for one in parameters]
    first = next((n for n, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if first is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        written.insert(first, "*")
    result = "" if isinstance(function, type) else f" -> {_type(signature.return_annotation)}"
    line = f"{name}({', '.join(written)}){result}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {one},\n" for one in written) + f"){result}"


def _parameter(one: inspect.Parameter) -> str:
    star = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
    text = f"{star}{one.name}: {_type(one.annotation)}"
    return text if one.default is one.empty else f"{text} = {_default(one.default)}"


def _type(annotation: Any) -> str:
    """Return an annotation as it is written in the code, but without the modules of pgq."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__forward_arg__", None)
    if text is None:
        text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"\b(?:registry|typing)\.", "", text)


def _default(value: Any) -> str:
    """Return a default; what code cannot write is said in words."""
    if isinstance(value, pgq.Handlers):
        return "those of @pgq.handler"
    text = repr(value)
    return "..." if text.startswith("<") else text


def _block(signature: str) -> str:
    return f"```text\n{signature}\n```"


def _prose(one: Any) -> str:
    return _marked(inspect.getdoc(one) or "")


def _line(one: Any) -> str:
    """Return the first paragraph of a docstring, in one line."""
    return re.sub(r"\s+", " ", _prose(one).split("\n\n")[0])


def _marked(text: str) -> str:
    """Return a docstring with Markdown's marks of code."""
    return text.replace("``", "`")
