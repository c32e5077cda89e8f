"""What an operator asks of a busy database: one reading (``read``), and an hour of them (``History``)."""

from pgq.overview.history import History, Rates
from pgq.overview.reading import PARTS, read
from pgq.overview.snapshot import Cause, Counters, KindNumbers, Place, Snapshot, Wait, Worker

__all__ = [
    "PARTS",
    "Cause",
    "Counters",
    "History",
    "KindNumbers",
    "Place",
    "Rates",
    "Snapshot",
    "Wait",
    "Worker",
    "read",
]
