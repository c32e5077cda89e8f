"""Traces that go on from where a job was enqueued to where it runs, where the API of OpenTelemetry is installed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pgq.job import Job

try:
    from opentelemetry import propagate, trace
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


def is_on() -> bool:
    """Whether somebody in this process has set up tracing."""
    return AVAILABLE and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def current() -> dict[str, str] | None:
    """What a job carries of the trace that it is enqueued in; None when there is no trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier or None


@contextmanager
def span(kind: str, jobs: Sequence[Job]) -> Iterator[None]:
    """
    A span around the execution of jobs of a kind. That of a single job is a child of the span that it was enqueued in,
    that of a batch has links to those.
    """
    origins = [propagate.extract(_carrier(job)) for job in jobs]
    parent = origins[0] if len(origins) == 1 else None
    links = (
        [] if parent is not None else [trace.Link(trace.get_current_span(one).get_span_context()) for one in origins]
    )
    attributes: dict[str, Any] = {
        "messaging.system": "pgq",
        "messaging.operation.type": "process",
        "messaging.destination.name": jobs[0].queue,
        "messaging.batch.message_count": len(jobs),
    }
    if parent is not None:
        attributes |= {"messaging.message.id": str(jobs[0].id), "pgq.attempt": jobs[0].attempt}
    tracer = trace.get_tracer("pgq")
    with tracer.start_as_current_span(
        f"process {kind}", parent, kind=trace.SpanKind.CONSUMER, attributes=attributes, links=links
    ):
        yield


def _carrier(job: Job) -> dict[str, Any]:
    """The context of a job; whatever else it may be, that is no reason not to run it."""
    try:
        carrier = json.loads(job.context or "{}")
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in carrier.items() if isinstance(value, str)}
