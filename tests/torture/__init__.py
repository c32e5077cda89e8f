"""Producers and workers under fire: nothing is lost, nothing is done twice, nothing is left. See run.py."""
