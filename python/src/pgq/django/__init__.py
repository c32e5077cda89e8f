"""pgq in Django: a backend for Django's tasks, an app that installs the SQL, and ``manage.py pgq_worker``."""
