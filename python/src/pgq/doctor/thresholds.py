"""From when on something counts as wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Thresholds:
    """The values from which on something is a finding. Tests set lower ones than a server reaches in a second."""

    # How long a job may be ripe: in a queue without a worker, which a deployment restarts, and in one with workers. How
    # long dead jobs are news.
    unserved: timedelta = timedelta(seconds=10)
    late: timedelta = timedelta(minutes=5)
    recent: timedelta = timedelta(hours=1)
    # How long after its end a lease may wait for the rescue, which claims make within two seconds, and how long after
    # its time a schedule.
    rescue: timedelta = timedelta(seconds=10)
    fire: timedelta = timedelta(minutes=1)
    # How long a transaction may be open: with a job in its hands, with the lock of a limited queue, with a snapshot.
    transaction: timedelta = timedelta(minutes=1)
    claim: timedelta = timedelta(seconds=10)
    snapshot: timedelta = timedelta(minutes=5)
    # How many transactions old the snapshot of a slot or standby may be, and how much WAL an unused slot may keep.
    xids: int = 1_000_000
    wal_bytes: int = 1 << 30
    # How long a full queue may start nothing.
    still: timedelta = timedelta(minutes=5)
    # Dead rows of a table, and the size from which on it counts whether most of it is empty.
    dead_rows: int = 100_000
    bloat_bytes: int = 256 << 20
    # Of the 2,144 million transactions after which PostgreSQL refuses to write.
    wraparound: int = 1_000_000_000
    # Parts of what there is: of the connections, of the queue of notifications, of a sequence.
    connections: float = 0.9
    notify: float = 0.5
    sequence: float = 0.9
    # How far the clocks of client and server may be apart, and how far the clock may have gone back.
    skew: timedelta = timedelta(seconds=5)
    back: timedelta = timedelta(minutes=2)
    # How late housekeeping may delete, and how much may pile up.
    deletion: timedelta = timedelta(days=1)
    counts: int = 100_000
    ended_bytes: int = 1 << 30
    # The shortest timeouts of the server that leave workers alone.
    statement: timedelta = timedelta(seconds=5)
    idle: timedelta = timedelta(minutes=1)
    # How many jobs and rows a search reads, and up to which size a table is searched without an index.
    rows: int = 10_000
    searched_bytes: int = 64 << 20
