"""OpenTelemetry: the trace in which a job is enqueued continues where the job runs. Needs OpenTelemetry's API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pgq.job import Job

try:
    from opentelemetry import propagate, trace
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


# Characters of JSON. The SQL takes a context of 8,192 bytes, of which Django's tasks need some.
LARGEST: Final = 8000
# The names of W3C, by which a trace goes on.
TRACE: Final = frozenset(("traceparent", "tracestate"))


def is_on() -> bool:
    """Return whether this process has set up a tracer provider."""
    return AVAILABLE and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def current() -> dict[str, str] | None:
    """
    Return the context of the current trace, for a job to carry; None when there is no trace.

    Baggage that is too large for a job stays behind: it may come with a request from anywhere.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if len(json.dumps(carrier)) > LARGEST:
        carrier = {name: value for name, value in carrier.items() if name in TRACE}
    return carrier or None


@contextmanager
def span(kind: str, jobs: Sequence[Job]) -> Iterator[None]:
    """
    Open a span around the execution of jobs of one kind.

    The span of a single job is a child of the span in which the job was enqueued; that of a batch has links to them.
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
    """Return the trace context of a job. One that Python cannot decode counts as none: the job still has to run."""
    try:
        carrier = json.loads(job.context or "{}")
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in carrier.items() if isinstance(value, str)}
