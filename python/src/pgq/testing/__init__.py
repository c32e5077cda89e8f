"""
For tests of programs that use pgq: run their jobs, look at them, and move the clock.

Needs the extra ``pgq-jobs[testing]``, and a database without real jobs. ``pgq.pytest_plugin`` has fixtures for pytest.
"""

from __future__ import annotations

from pgq.testing.clock import Clock, DatabaseClock, time_travel
from pgq.testing.jobs import Jobs
from pgq.testing.kit import load, testkit

__all__ = ["Clock", "DatabaseClock", "Jobs", "load", "testkit", "time_travel"]
