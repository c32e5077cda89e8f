"""Producers and workers under faults: no job is lost, none is done twice, none is left. Begin reading at run.py."""
