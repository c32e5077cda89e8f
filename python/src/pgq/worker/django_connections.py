"""Django's connections in handlers: treated as in Django's requests. Needs no Django."""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Final

from pgq.process.logs import logger
from pgq.worker.joblog import first_line

# The module that has the connections.
DJANGO: Final = "django.db"
# Whether they stay open, for a test that is in a transaction of theirs.
STAY_OPEN: Final = ContextVar("pgq_django_stay_open", default=False)


def close_old_connections() -> None:
    """
    Let Django close the connections of this thread that are lost or older than CONN_MAX_AGE, where Django is set up.

    Django does so before and after each request. A connection that is in an atomic block stays open.
    """
    db = sys.modules.get(DJANGO)
    if db is None or STAY_OPEN.get():
        return
    try:
        if sys.modules["django.conf"].settings.configured:
            db.close_old_connections()
    except Exception as error:
        logger.warning("cannot close old connections of Django: %s", first_line(error))
