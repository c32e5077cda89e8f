"""pgq: workflows of three steps. Handlers of a transaction commit it with each step; others save each step."""

from __future__ import annotations

from dataclasses import replace

from child import Child

from contenders import pgq


def work(child: Child) -> None:
    pgq.command(child, {}, "workflows")


CONTENDER = replace(pgq.CONTENDER, name="flow", work=work)
