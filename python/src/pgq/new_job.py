"""The type of the jobs that one call enqueues."""

# The annotations are no text: TypedDict does not find Required in a text, and would count ``kind`` as optional.

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, Required, TypedDict

from pgq.convert import Interval

OnDuplicate = Literal["keep", "replace", "soonest", "error"]
AfterFailed = Literal["cancel", "run", "wait"]


class NewJob(TypedDict, total=False):
    """One of the jobs of ``enqueue_many``; the keys are the arguments of ``enqueue``."""

    kind: Required[str]
    # Whatever json.dumps takes.
    args: Any
    queue: str | None
    ripe_at: datetime | None
    delay: Interval | None
    priority: int | None
    max_retries: int | None
    backoff: Interval | None
    backoff_cap: Interval | None
    dedup: bool | None
    dedup_key: str | None
    on_duplicate: OnDuplicate | None
    context: Mapping[str, Any] | None
    group_key: str | None
    dedup_for: Interval | None
    # Ids, and the positions of earlier jobs: "#1" is the first.
    after: Iterable[int | str] | None
    after_failed: AfterFailed | None
