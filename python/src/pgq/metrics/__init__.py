"""Metrics in the format of Prometheus and OpenMetrics. Needs prometheus-client, the extra ``metrics``."""
