"""Tracing: the span of a job belongs to the trace in which the job was enqueued."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.database import Connection, jobs, one
from support.workers import drain

from pgq import Handlers, Job, Queue
from pgq.worker.loop import Loop

CONTEXTS = "SELECT context FROM pgq_waiting ORDER BY id"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Set tracing up for one test; applications do it once and for all."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the spans that have ended, by name."""
    return {span.name: span for span in exporter.get_finished_spans()}


def identity(span: Any) -> tuple[int, int]:
    """Return the ids of the trace and the span."""
    context = span.get_span_context()
    return context.trace_id, context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int]:
    """Return the ids of the parent's trace and span."""
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


def test_large_baggage_stays_behind(queue: Queue, exported: InMemorySpanExporter) -> None:
    """The trace goes on all the same."""
    tracer = trace.get_tracer("test")
    for size in (10, 4080):
        token = attach(baggage.set_baggage("a", "x" * size, baggage.set_baggage("b", "x" * size)))
        with tracer.start_as_current_span("request"):
            queue.enqueue("k", size)
        detach(token)
    (small,), (large,) = queue.conn.execute(CONTEXTS).fetchall()
    assert small.keys() == {"traceparent", "baggage"}
    assert large.keys() == {"traceparent"}


def test_a_trace_continues_in_the_worker(
    queue: Queue, loop: Loop, handlers: Handlers, exported: InMemorySpanExporter
) -> None:
    """This includes jobs of enqueue_many and jobs that a handler enqueues; errors are recorded."""
    tracer = trace.get_tracer("test")
    inside: list[tuple[int, int]] = []

    @handlers.handler("first")
    def first(job: Job) -> None:
        inside.append(identity(trace.get_current_span()))
        queue.enqueue("second")

    @handlers.handler("second", transaction=True)
    def second(job: Job, conn: Connection) -> None:
        raise ValueError("told")

    handlers.handler("third")(lambda job: inside.append(identity(trace.get_current_span())))
    with tracer.start_as_current_span("request") as request:
        queue.enqueue("first")
        queue.enqueue_many([{"kind": "third", "args": n} for n in range(2)])
    drain(loop)
    found = spans(exported)
    assert parent_of(found["process first"]) == identity(request)
    assert inside[0] == identity(found["process first"])
    assert parent_of(found["process second"]) == identity(found["process first"])
    assert not found["process second"].status.is_ok
    assert [event.name for event in found["process second"].events] == ["exception"]
    assert parent_of(found["process third"]) == identity(request)
    assert len({trace_id for trace_id, _ in inside}) == 1
    attributes = dict(found["process first"].attributes or {})
    assert attributes["messaging.destination.name"] == "default"
    assert (attributes["messaging.batch.message_count"], attributes["pgq.attempt"]) == (1, 1)


def test_a_batch_is_linked_to_the_traces_of_its_jobs(
    queue: Queue, loop: Loop, handlers: Handlers, exported: InMemorySpanExporter
) -> None:
    """Its jobs have different traces, so its span has no parent."""
    handlers.handler("k", batch=10)(lambda jobs: None)
    requests = []
    for n in range(3):
        with trace.get_tracer("test").start_as_current_span("request") as request:
            queue.enqueue("k", n)
        requests.append(identity(request))
    drain(loop)
    span = spans(exported)["process k"]
    assert span.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == requests


def test_jobs_that_differ_only_in_their_trace_are_twins(queue: Queue, exported: InMemorySpanExporter) -> None:
    """The context is no part of the signature, and an explicit context overrides the current one."""
    for _ in range(2):
        with trace.get_tracer("test").start_as_current_span("request"):
            queue.enqueue("k")
            queue.enqueue("own", context={"mine": "1"})
    (context,), (own,) = queue.conn.execute(CONTEXTS).fetchall()
    assert set(context) == {"traceparent"}
    assert own == {"mine": "1"}


def test_without_a_trace_there_is_no_context(queue: Queue, exported: InMemorySpanExporter) -> None:
    """Tracing is set up, but no span is current."""
    queue.enqueue("k")
    queue.enqueue_many([{"kind": "other"}])
    assert queue.conn.execute(CONTEXTS).fetchall() == [(None,), (None,)]


def test_without_tracing_set_up_no_context_is_stored(
    queue: Queue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the API is installed and a span is current, pgq does not read it."""
    called: list[Any] = []
    monkeypatch.setattr("pgq.tracing.current", called.append)
    monkeypatch.setattr("pgq.tracing.span", called.append)
    handlers.handler("k")(lambda job: None)
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True))):
        queue.enqueue("k")
        assert queue.conn.execute(CONTEXTS).fetchall() == [(None,)]
        drain(loop)
    assert called == []
    assert jobs(queue.conn) == []


@pytest.mark.parametrize("context", ['{"traceparent": 7}', '{"traceparent": "rubbish"}', '{"a": {"b": []}}'])
def test_an_invalid_context_does_not_stop_the_job(
    queue: Queue, loop: Loop, handlers: Handlers, exported: InMemorySpanExporter, context: str
) -> None:
    """The job begins a new trace."""
    handlers.handler("k")(lambda job: None)
    one(queue.conn, "SELECT id FROM pgq_enqueue('k', context => %s::jsonb)", context)
    drain(loop)
    assert spans(exported)["process k"].parent is None
    assert jobs(queue.conn) == []


def test_pgq_works_without_opentelemetry() -> None:
    """It imports OpenTelemetry only where that is installed."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import pgq, pgq.tracing; assert not pgq.tracing.AVAILABLE and not pgq.tracing.is_on()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
