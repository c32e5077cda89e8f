"""
A throw-away PostgreSQL, and what runs beside it.

    server    start a server in a temporary directory, stop and delete it
    standby   the same for a streaming standby of such a server
    programs  find initdb and postgres, and the account that runs them
    versions  fetch PostgreSQL of a given major version
    debian    fetch Debian packages and unpack them
    tap       find pg_prove and pgTAP
    children  start child processes, and end them when a signal comes
"""
