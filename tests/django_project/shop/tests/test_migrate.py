"""Migrations and system checks: what is installed where, and what is missing."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
from django.core import checks
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.loader import MigrationLoader
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings, tag

import pgq
from pgq.cli.change import cancel
from pgq.django.schema import InstallPgq, conninfo
from pgq.schema.install import installed_version
from pgq.version import driver_version
from shop.framework import task_backends

ROOT = Path(__file__).parents[4]
BACKEND = "pgq.django.backend.PgqBackend"


def migrate(*arguments: str, database: str = "other", **options: object) -> str:
    """Run migrate on a database, and return what it prints."""
    out = StringIO()
    call_command("migrate", *arguments, database=database, stdout=out, skip_checks=True, interactive=False, **options)
    return out.getvalue()


def raw(alias: str = "other") -> psycopg.Connection[Any]:
    """Return the psycopg.Connection behind one of Django's."""
    connections[alias].ensure_connection()
    conn: psycopg.Connection[Any] = connections[alias].connection
    return conn


@tag("slow")
class Migrate(TransactionTestCase):
    """The database "other" has pgq and nothing else."""

    databases = {"default", "other", "lite"}

    def tearDown(self) -> None:
        """Leave pgq installed, and no jobs."""
        migrate("pgq")
        raw().execute("TRUNCATE pgq_waiting")

    def test_backwards_removes_and_forwards_installs(self) -> None:
        """As a transaction of its own."""
        migrate("pgq", "zero")
        self.assertIsNone(installed_version(raw(), None))
        plan = migrate("pgq", plan=True)
        self.assertIn(f"Install pgq {driver_version()}, or upgrade to it", plan)
        migrate("pgq")
        self.assertEqual(installed_version(raw(), None), driver_version())

    def test_jobs_that_wait_keep_pgq_there(self) -> None:
        """Nothing is lost."""
        pgq.Queue(raw()).enqueue("k")
        with self.assertRaises(pgq.JobsRemain):
            migrate("pgq", "zero")

    def test_a_release_before_is_upgraded(self) -> None:
        """It may have been installed by any means; its jobs stay."""
        migrate("pgq", "zero")
        script = (ROOT / "sql/released/pgq--0.2.0.sql").read_text().splitlines()
        kept = [line for line in script if not line.startswith(("\\echo", "SELECT pg_extension_config_dump("))]
        head = "BEGIN; SELECT set_config('search_path', format('%I, pg_temp', current_schema()), true);"
        raw().execute("\n".join([head, *kept, "COMMIT;"]).encode())
        raw().execute("SELECT pgq_enqueue('k')")
        warnings = checks.run_checks(databases=["other"])
        self.assertEqual([warning.id for warning in warnings], ["pgq.W002"])
        migrate("pgq")
        self.assertEqual(installed_version(raw(), None), driver_version())
        self.assertEqual(raw().execute("SELECT count(*)::integer FROM pgq_waiting").fetchone(), (1,))

    def test_the_version_in_place_is_left_alone(self) -> None:
        """It may have been installed by the command."""
        migrate("pgq", "zero", fake=True)
        migrate("pgq")

    @override_settings(NO_PGQ_IN=["other"])
    def test_a_router_keeps_pgq_out(self) -> None:
        """As the tables of any app."""
        pgq.uninstall(raw())
        migrate("pgq", "zero", fake=True)
        migrate("pgq")
        self.assertIsNone(installed_version(raw(), None))
        with override_settings(NO_PGQ_IN=[]):
            migrate("pgq", "zero", fake=True)
            migrate("pgq")

    def test_a_database_that_is_not_postgresql_gets_none(self) -> None:
        """All other apps are migrated there."""
        migrate("pgq", database="lite")
        migrate("pgq", "zero", database="lite")

    def test_a_missing_pgq_is_a_warning(self) -> None:
        """An error would keep migrate from installing it."""
        migrate("pgq", "zero")
        (warning,) = checks.run_checks(databases=["other"])
        self.assertEqual((warning.id, warning.level), ("pgq.W001", checks.WARNING))
        self.assertIn("--database other", warning.hint)


class Models(TestCase):
    """The migrations and the models agree."""

    databases = {"default", "other", "lite"}

    def test_no_migration_is_missing(self) -> None:
        """Of the app, as makemigrations sees it."""
        call_command("makemigrations", "pgq", check=True, dry_run=True, verbosity=0)

    def test_the_newest_migration_is_that_of_this_version(self) -> None:
        """A release that changes the SQL comes with a migration, so that migrate upgrades."""
        loader = MigrationLoader(connection)
        (newest,) = loader.graph.leaf_nodes("pgq")
        operations = loader.get_migration(*newest).operations
        self.assertIn(driver_version(), [one.version for one in operations if isinstance(one, InstallPgq)])


class Checks(TestCase):
    """What the system checks say."""

    databases = {"default", "other"}

    def ids(self) -> list[str]:
        """Return the ids of what the checks without a database find."""
        return [found.id or "" for found in checks.run_checks()]

    def test_nothing_is_wrong(self) -> None:
        """With this project."""
        self.assertEqual([*checks.run_checks(), *checks.run_checks(databases=["default", "other", "lite"])], [])

    @override_settings(INSTALLED_APPS=["django.contrib.contenttypes"])
    def test_the_app_is_missing(self) -> None:
        """The backend needs its models."""
        self.assertEqual([found.id for found in task_backends["default"].check()], ["pgq.E001"])

    def test_the_database_is_not_postgresql_or_not_there(self) -> None:
        """Nor do misspelt options pass."""
        for options, expected in (
            ({"database": "lite"}, ["pgq.E002"]),
            ({"database": "nowhere"}, ["pgq.E002"]),
            ({"max_retrys": 1}, ["pgq.E003"]),
        ):
            with (
                self.subTest(options),
                override_settings(TASKS={"default": {"BACKEND": BACKEND, "OPTIONS": options}}),
            ):
                self.assertEqual(self.ids(), expected)

    def test_jobs_of_kinds_that_nothing_handles(self) -> None:
        """Tasks and handlers are known."""
        queue = pgq.Queue(raw("default"))
        for kind in ("shop.tasks.add", "plain", "shop.tasks.renamed"):
            queue.enqueue(kind)
        (warning,) = checks.run_checks(databases=["default"])
        self.assertEqual(warning.id, "pgq.W003")
        self.assertIn('"shop.tasks.renamed" wait in queue "default"', warning.msg)
        options = warning.hint.partition("cancel the jobs: pgq cancel ")[2].split()
        self.assertEqual(cancel.make_context("cancel", options).params["kind"], "shop.tasks.renamed")


class Connections(SimpleTestCase):
    """How a worker connects."""

    def test_the_role_that_django_assumes(self) -> None:
        """The worker's sessions assume it, too."""
        settings = connections["default"].settings_dict
        before = settings["OPTIONS"]
        self.addCleanup(settings.__setitem__, "OPTIONS", before)
        settings["OPTIONS"] = {"assume_role": "a role", "options": "-c work_mem=4MB", "application_name": "x"}
        params = psycopg.conninfo.conninfo_to_dict(conninfo("default"))
        self.assertEqual(params["options"], r"-c work_mem=4MB -c role=a\ role")
        self.assertEqual((params["application_name"], params["dbname"]), ("x", settings["NAME"]))
