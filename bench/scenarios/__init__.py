"""The scenarios, one module each, with a function ``run(harness)``."""

NAMES = (
    "enqueue",
    "bulk",
    "drain",
    "latency",
    "held_snapshot",
    "scale",
    "payload",
    "transactional",
    "idle",
    "one_shot",
)
