"""What is measured, a module for each; every one has a function ``run(bench)``."""

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
)
