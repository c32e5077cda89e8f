"""Random lives of jobs on two connections, compared step by step with a model of what pgq promises."""

from __future__ import annotations

import pytest
from hypothesis.stateful import run_state_machine_as_test
from support.database import Connect, Connection
from support.hunt import bounds, hunt
from support.limited_lives import LimitedLives, RatedLives
from support.lives import Lives, WindowedLives
from support.scheduled_lives import ScheduledLives


@pytest.fixture
def lives(conn: Connection, connect: Connect) -> type[Lives]:
    """Return the machine, on two connections to this database."""

    class Here(Lives):
        connections = (conn, connect())

    return Here


def test_jobs_live_as_the_model_promises(lives: type[Lives]) -> None:
    """After every step of a random sequence, each result and each table is what the model says."""
    hunt(lambda seed: run_state_machine_as_test(seed(lives), settings=bounds(80, 60)))


def test_windows_results_and_updates_are_as_the_model_promises(conn: Connection, connect: Connect) -> None:
    """A window has one job, a result is what its job has left, and an update changes what it is told to."""

    class Here(WindowedLives):
        connections = (conn, connect())

    hunt(lambda seed: run_state_machine_as_test(seed(Here), settings=bounds(30, 40)))


class PackedLives(Lives):
    """Claim by pgq_claim_batch, which packs the jobs of every claim that it may pack."""

    # A call that takes no job rescues none, so pgq_claim does that before.
    claim_query = (
        "SELECT j.id, b.token, j.attempt, j.args::jsonb, b.lease_until "
        "FROM (SELECT count(*) AS jobs FROM pgq_claim('{none}', 0)) AS no "
        "CROSS JOIN LATERAL pgq_claim_batch(%s, no.jobs + %s, %s) AS b "
        "CROSS JOIN LATERAL unnest(b.ids, b.attempts, b.args) AS j (id, attempt, args)"
    )


def test_packed_jobs_live_as_the_model_promises(conn: Connection, connect: Connect) -> None:
    """A job has the same life in a packed batch as in a row, but for its lease, which the batch has in common."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION _pgq_is_plain(jobs bigint, bytes bigint, failed bigint) RETURNS boolean "
        "LANGUAGE sql IMMUTABLE RETURN failed = 0"
    )

    class Here(PackedLives):
        connections = (conn, connect())

    hunt(lambda seed: run_state_machine_as_test(seed(Here), settings=bounds(20, 60)))


def test_jobs_of_queues_with_limits_live_as_the_model_promises(conn: Connection, connect: Connect) -> None:
    """Claims take no job beyond a limit, out of order or from what is paused, and never fewer than they could."""

    class Here(LimitedLives):
        connections = (conn, connect())

    hunt(lambda seed: run_state_machine_as_test(seed(Here), settings=bounds(40, 60)))


def test_jobs_start_under_rates_as_the_model_promises(conn: Connection, connect: Connect) -> None:
    """A claim takes as many jobs as the rates of queues and groups allow at its time, and no more."""

    class Here(RatedLives):
        connections = (conn, connect())

    hunt(lambda seed: run_state_machine_as_test(seed(Here), settings=bounds(30, 40)))


def test_jobs_of_a_schedule_live_as_the_model_promises(conn: Connection, connect: Connect) -> None:
    """A claim fires what is due, and what it has fired is gone again if it rolls back."""

    class Here(ScheduledLives):
        connections = (conn, connect())

    hunt(lambda seed: run_state_machine_as_test(seed(Here), settings=bounds(20, 60)))
