"""Metrics as Prometheus reads them, and the programs of Prometheus."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from postgres.debian import unpacked
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pgq.metrics.exporter import Databases, Source

Samples = dict[tuple[str, ...], float]


def by_name(families: Iterable[Metric]) -> dict[str, Samples]:
    """Return the values of each metric by the values of its labels, in the order of the labels' names."""
    found: dict[str, Samples] = {}
    for family in families:
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), (sample.name, labels)
            found[sample.name][labels] = sample.value
    return found


def scraped(*sources: Source, within: float = 20.0) -> dict[str, Samples]:
    """Return what a scrape of these databases has, as Prometheus parses it: labels are database, kind, queue."""
    registry = CollectorRegistry()
    registry.register(Databases(list(sources), within))
    return by_name(text_string_to_metric_families(generate_latest(registry).decode()))


def source(dsn: str, name: str = "here", *, schema: str | None = None, most: int = 200) -> Source:
    """Return a database to be scraped, which has a lot of time to reply."""
    return Source(name, dsn, schema, most, 20.0)


def program(name: str, package: str) -> Path:
    """Return a program of this machine or of a Debian package."""
    if found := shutil.which(name):
        return Path(found)
    tree = unpacked(package, re.compile(re.escape(package)))
    if tree is None:
        pytest.fail(f"{name} is not installed, and its Debian package {package} cannot be fetched")
    return tree / "usr/bin" / name
