"""Loaded by some of the workers after the handlers: they have no handler for these kinds."""

from __future__ import annotations

from pgq import handlers

for kind in ("list", "own", "pool"):
    del handlers.default._by_kind[kind]
