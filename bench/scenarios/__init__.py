"""The scenarios, one module each, with a function ``run(harness)``."""

NAMES = (
    "enqueue",
    "bulk",
    "drain",
    "batches",
    "single",
    "transactional",
    "latency",
    "queues",
    "wal",
    "steady",
    "held_snapshot",
    "scale",
    "payload",
    "idle",
    "one_shot",
    "groups",
    "groups_held",
    "fairness",
    "limited",
    "purge",
)
