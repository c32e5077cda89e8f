"""The worker: loops that claim, run and settle jobs. Applications use ``pgq.Worker``; the rest is private."""
