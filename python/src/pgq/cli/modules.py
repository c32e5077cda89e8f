"""The modules that register handlers, as commands name them."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import TracebackType

import click

from pgq import handlers
from pgq.cli.errors import CommandError


def below_import(frames: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this module and of the import system, with which it begins."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(
        (__file__, importlib.__file__, "<frozen importlib")
    ):
        frames = frames.tb_next
    return frames


def load(modules: tuple[str, ...]) -> None:
    """Import the modules, which register their handlers. What they raise is shown with its traceback."""
    sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except SystemExit as error:
            message = f"cannot import {module}: it calls sys.exit({error.code!r})"
            raise CommandError(message, "Let a module that is imported only define things.") from error
        except BaseException as error:
            error.__traceback__ = below_import(error.__traceback__)
            if error.__traceback__ is not None or isinstance(error, SyntaxError):
                click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
            reason = "".join(traceback.format_exception_only(error)[-1:]).strip()
            raise CommandError(f"cannot import {module}: {reason}") from None
    if not handlers.default.kinds:
        raise CommandError(f"{', '.join(modules)} registers no handler", "Decorate a function with @pgq.handler(KIND).")
