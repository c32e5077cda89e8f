"""Shared parts of the tests: servers, ways to break them, worker processes, a model, comparisons."""
