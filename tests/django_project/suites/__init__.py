"""The tests that Django has for its own backends of tasks, run with that of pgq."""
