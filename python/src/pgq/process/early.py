"""
Heed stop signals from the first line of the command ``pgq worker`` on, and of ``manage.py pgq_worker`` from the import
of this package on.

The package imports this module before anything else: the first process of a container ignores signals that have no
handler, and would do so while modules are imported. It does nothing in any other program.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise

from pgq.process.forks import set_handler
from pgq.process.signals import STOP, end_at_once, is_main_thread


def is_worker_command() -> bool:
    """Return whether this process is ``pgq worker``, or the same by ``python -m pgq`` or a program of Django's."""
    if any(word.startswith("from multiprocessing.") for word in sys.orig_argv):
        # A process that was started with spawn or forkserver takes over the sys.argv of its parent.
        return False
    if sys.argv[1:2] == ["pgq_worker"]:
        return True
    if sys.argv[:1] == ["-m"]:
        # Python does not name the module in sys.argv before it has imported the package.
        options = pairwise(sys.orig_argv)
        is_pgq = any(option[:1] == "-" and option[-1:] == "m" and name == "pgq" for option, name in options)
    else:
        is_pgq = any(os.path.basename(name) == "pgq" for name in sys.argv[:1])
    return is_pgq and "worker" in sys.argv


if is_worker_command() and is_main_thread():
    for number in STOP:
        set_handler(number, end_at_once)
