"""
A page to look at: ``pgq.web.app(…)`` is an ASGI application, and ``pgq web`` serves it.

It needs the extra ``pgq-jobs[web]``. Applications use ``app``; the modules are private.
"""

from pgq.web.application import app

__all__ = ["app"]

app.__module__ = __name__
