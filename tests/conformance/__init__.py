"""The other side of a worker's life: what docs/protocol.md requires of a worker in any language."""
