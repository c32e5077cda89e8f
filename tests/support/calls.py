"""Every public function, called at least once, so that results can be compared."""

from __future__ import annotations

import re
from typing import Any

from support.database import Connection

# Only calls: anything else would look up operators on the path of the caller. :id and :token are those of the job
# claimed last, :first is the id of the job claimed first, :batch that of the batch.
LIFE = """
    pgq_now()
    pgq_version()
    pgq_backoff(3, '90 s', '1 day')
    pgq_cron_next('0 7 * * mon-fri', '2020-01-01T00:00+00:00', 'Europe/Berlin')
    pgq_register('w', '{default}', 'host', 7, '{k,l}', true)
    pgq_idle('{default}', true)
    pgq_idle('{default}', false)
    pgq_enqueue('k', '{"x": 1.50, "a": "\\\\"}', delay => '1 hour', backoff => '90 s')
    pgq_enqueue_many('[
        {"kind": "k", "args": {"a": "\\\\", "x": 1.50}, "on_duplicate": "soonest"},
        {"kind": "l", "ripe_at": "2019-12-31T12:00+02:00", "delay": null, "backoff": "00:01:30", "priority": 0}]')
    pgq_enqueue('l', dedup_key => 'x', on_duplicate => 'replace', delay => '1 hour')
    pgq_enqueue('l', dedup_key => 'x', on_duplicate => 'replace', delay => '2 hours')
    pgq_enqueue('w', dedup_key => 'x', dedup_for => '1 hour', delay => '1 hour')
    pgq_enqueue('w', dedup_key => 'x', dedup_for => '1 hour', on_duplicate => 'soonest', delay => '50 minutes')
    pgq_enqueue_many('[{"kind": "w", "dedup_key": "x", "dedup_for": "01:00"}]')
    pgq_remaining()
    pgq_ripe_in()
    pgq_queues_to_serve()
    pgq_claim(lease => '90 s')
    pgq_hold(':id', ':token')
    pgq_hold_many('{:id}', '{:token}') AS id
    pgq_cancel_requested('{:id}', '{:token}')
    pgq_extend(':id', ':token', '2 hours')
    pgq_signal(':id', 's', '{"n": 1.50}')
    pgq_signal_key('default', 'l', 'x', 's')
    pgq_wait_signal(':id', ':token', 's')
    pgq_save(':id', ':token', '{"n": 1.50}')
    pgq_fail(':id', ':token', 'e')
    pgq_claim(worker => 'w')
    pgq_release(':id', ':token')
    pgq_claim('{default,a}', worker => 'w')
    pgq_snooze(':id', ':token', delay => '0')
    pgq_update(':id', priority => 5, group_key => '')
    pgq_claim(worker => 'w')
    pgq_decline(':id', ':token')
    pgq_enqueue('k', '{"x": 1.50, "a": "\\\\"}', on_duplicate => 'soonest')
    pgq_claim(worker => 'w')
    pgq_cancel_claimed(':id', ':token', 'no')
    pgq_retry(':id')
    pgq_cancel(':id')
    pgq_retry(':id')
    pgq_claim(worker => 'w')
    pgq_reconcile('w', '{:id}', '{:token}')
    pgq_complete(':id', ':token', '{"done": [1.0, null]}', 'a note')
    pgq_result(':id')
    pgq_await('7')
    pgq_await('7', false)
    pgq_complete_many('{:id}', '{:token}')
    pgq_enqueue('k', '{"b": 1.0, "a": "\\\\"}', context => '{"t": 1}', group_key => 'g')
    pgq_claim_batch(worker => 'w')
    pgq_claim_batch(max_jobs => 0, worker => 'w', done_ids => '{:id}', done_tokens => '{:token}')
    pgq_cancel(':first')
    pgq_enqueue('b', after => '{:first}')
    pgq_enqueue_batch('b', '1', '[{"kind": "m", "args": {"x": 1.50}, "queue": "c"}]', 'c', backoff => '90 s')
    pgq_claim('{c}')
    pgq_add_to_batch(':id', ':token', '[{"kind": "n", "queue": "c"}]')
    pgq_batch_progress(':batch')
    pgq_cancel(':batch')
    pgq_complete(':id', ':token')
    pgq_claim('{c}')
    pgq_complete(':id', ':token')
    pgq_jobs
    pgq_stats
    pgq_counters
    pgq_overview_kinds()
    pgq_overview_counters()
    pgq_overview_ids()
    pgq_overview_waits()
    pgq_overview_deaths('1 day')
    pgq_workers
    pgq_find_jobs(contains => 'no such text')
    pgq_needs
    pgq_purge('0')
    pgq_purge_jobs('{1}')
    pgq_configure('default', '{"backoff": "90 s", "ordered": true, "rate": 5, "per": "00:01", "keep_dead": "1 day"}')
    pgq_pause('default', group_key => 'g')
    pgq_queues
    pgq_overview_queues()
    pgq_resume('default', 'g')
    pgq_configure('default', '{"backoff": null, "ordered": null, "rate": null, "per": null, "keep_dead": null}')
    pgq_schedule('s', '0 7 * * mon-fri', 'k', '{"x": 1.50}', timezone => 'Europe/Berlin', jitter => '90 s')
    pgq_pause_schedule('s')
    pgq_schedules
    pgq_run_schedule('s')
    pgq_claim(worker => 'w')
    pgq_resume_schedule('s')
    pgq_unschedule('s')
    pgq_unregister('w')
"""
# Ids, and what differs between lives: the time of an error is stored as text, in the time zone of the session, and the
# token decides what is timed.
UNLIKE = (
    "id", "pgq_run_schedule", "pgq_add_to_batch", "pgq_signal_key", "pgq_overview_ids", "newest_job", "errors", "timed",
    "ran_seconds",
)  # fmt: skip
CALLS = [" ".join(call.split()) for call in re.split(r"\n    (?=pgq)", LIFE) if call.strip()]


def life(conn: Connection, home: str) -> list[Any]:
    """Make all calls and return their rows, without ids and tokens; raise the error of the first refusal."""
    results: list[Any] = []
    held = {"id": "0", "token": "0"}
    for call in CALLS:
        for name, number in held.items():
            call = call.replace(f":{name}", number)  # noqa: PLW2901
        cursor = conn.execute(f"SELECT * FROM {home}.{call}".encode(), binary=True)
        names = [column.name for column in cursor.description or []]
        rows = []
        for row in cursor.fetchall():
            named = dict(zip(names, row, strict=True))
            if "ids" in named and "id" in named:
                held["batch"] = str(named["id"])
            if "ids" in named:
                (named["id"],) = named.pop("ids") or [None]
            if (token := named.pop("token", None)) is not None:
                held |= {"id": str(named["id"]), "token": str(token)}
                held.setdefault("first", held["id"])
            for name in UNLIKE:
                named.pop(name, None)
            rows.append([readable(value) for value in named.values()])
        # A view has no order, which shows once a table has been analyzed.
        results += rows if "(" in call else sorted(rows, key=repr)
    return results


def readable(value: Any) -> Any:
    """Return a value, with bytes decoded: the encoding of the session may leave text as bytes."""
    if isinstance(value, list):
        return [readable(element) for element in value]
    return value.decode() if isinstance(value, bytes) else value
