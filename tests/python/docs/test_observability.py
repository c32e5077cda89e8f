"""The recipes for Sentry, structlog and OpenTelemetry, with the real libraries."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sentry_sdk
import structlog
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from structlog.testing import capture_logs
from support.pages import Page
from support.workers import drain

import pgq
from pgq import AsyncJob, Handlers, Job, Queue
from pgq.worker.loop import Loop

PAGE = Page("docs/observability.md")


class Events(Transport):
    """The events that would be sent to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep an event."""
        self.events.append(envelope.get_event())


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """Set Sentry up for one test, without what it patches elsewhere."""
    transport = Events()
    sentry_sdk.init(
        "http://public@127.0.0.1/1",
        transport=transport,
        default_integrations=False,
        ignore_errors=[pgq.Snooze, pgq.Cancel, pgq.Retry, pgq.WaitForSignal],
    )
    yield transport.events
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Set tracing up for one test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """Set metrics up for one test."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(metrics, "get_meter", MeterProvider([reader]).get_meter)
    return reader


def as_async(block: str) -> str:
    """Return a recipe as one for async handlers, as the page describes it."""
    block = block.replace("def ", "async def ").replace("proceed()", "await proceed()")
    return block.replace("return reported(", "return await reported(")


@pytest.fixture
def recipes(
    sort: str, handlers: Handlers, events: list[Any], reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The hook of the page, around the handlers of the test."""
    # The recipes are functions.
    *blocks, registration = (block for block in PAGE.blocks("python") if "\ndef " in block)
    monkeypatch.setattr(pgq, "around", handlers.around)
    module: dict[str, Any] = {}
    for block in (*blocks, registration.partition("@pgq.handler")[0]):
        exec(compile(as_async(block) if sort == "async" else block, PAGE.name, "exec"), module)
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("sort", ["plain", "batch", "async"])
def test_the_recipes_report_log_and_measure_each_execution(
    recipes: None,
    queue: Queue,
    handlers: Handlers,
    loop: Loop,
    events: list[Any],
    spans: InMemorySpanExporter,
    reader: InMemoryMetricReader,
    sort: str,
) -> None:
    """What is no error is not reported."""

    def work(job: Job | AsyncJob) -> None:
        structlog.get_logger().info("begun")
        if job.args == "fail":
            raise ValueError("told")
        if job.args == "snooze":
            raise pgq.Snooze(delay=timedelta(hours=1))

    def work_on_all(jobs: list[Job]) -> None:
        (job,) = jobs
        work(job)

    async def work_async(job: AsyncJob) -> None:
        work(job)

    if sort == "plain":
        handlers.handler("k")(work)
    elif sort == "batch":
        handlers.handler("k", batch=10)(work_on_all)
    else:
        handlers.handler("k")(work_async)
    ids = []
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        for args in ("succeed", "fail", "snooze"):
            ids.append(queue.enqueue("k", args, group_key="acme").id)
            drain(loop)
    assert lines == [{"event": "begun", "job": job, "kind": "k", "attempt": 1, "log_level": "info"} for job in ids]
    (event,) = events
    assert event["exception"]["values"][0]["value"] == "told"
    assert event["contexts"]["job"] == {"id": ids[1], "kind": "k", "queue": "default", "attempt": 1}
    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert isinstance(metric.data, Histogram)
    assert [(point.attributes, point.count) for point in metric.data.data_points] == [({"kind": "k"}, 3)]
    assert [(span.attributes or {}).get("tenant") for span in spans.get_finished_spans()] == ["acme"] * 3
