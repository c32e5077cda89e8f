"""Where a worker connects is resolved once: options, environment, service file and paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgq import Worker
from pgq.cli.target import Target
from pgq.worker.server import Server


def resolved(conninfo: str) -> dict[str, object]:
    """Return the options of a connection string as a server resolves them."""
    return dict(conninfo_to_dict(Server.resolve(conninfo).conninfo))


def test_options_come_from_the_string_then_the_service_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is libpq's own order; what none of them names has libpq's default."""
    monkeypatch.chdir(tmp_path)
    Path("services").write_text("[here]\ndbname=of_service\nuser=of_service\nsslmode=require\n")
    for name, value in {"PGSERVICEFILE": "services", "PGDATABASE": "of_environment", "PGUSER": "of_environment",
                        "PGPORT": "7", "PGOPTIONS": "-c work_mem=1MB", "PGPASSWORD": "secret"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    options = resolved("service=here user=given")
    assert [options[name] for name in ("user", "dbname", "sslmode", "port", "options", "password")] == [
        "given", "of_service", "require", "7", "-c work_mem=1MB", "secret",
    ]  # fmt: skip
    assert options["target_session_attrs"] == "any"
    assert "service" not in options
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert resolved("")["sslmode"] == "disable"


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password file is one of them, be it given or not; what is no path stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of/worker")
    monkeypatch.delenv("PGPASSFILE", raising=False)
    options = resolved("sslcert=cert sslrootcert=system sslkey=engine:key")
    assert [options[name] for name in ("sslcert", "sslrootcert", "sslkey")] == [
        f"{tmp_path}/cert", "system", "engine:key",
    ]  # fmt: skip
    assert os.path.isabs(str(options["passfile"]))
    monkeypatch.setenv("PGPASSFILE", "passwords")
    assert resolved("")["passfile"] == f"{tmp_path}/passwords"


def test_what_has_no_value_gets_none_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty value is one: with an empty require_auth a password is refused."""
    for name in ("PGREQUIREAUTH", "PGPASSWORD", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    server = Server.resolve("")
    assert (
        not {"require_auth", "password", "service", "sslcert", "connect_timeout"}
        & conninfo_to_dict(server.conninfo).keys()
    )
    for name in ("PGREQUIREAUTH", "PGPASSWORD", "PGSERVICE"):
        monkeypatch.setenv(name, "nonsense")
    with server.restored_environment():
        assert not {"PGREQUIREAUTH", "PGPASSWORD", "PGSERVICE"} & os.environ.keys()


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert "secret" not in repr(Server.resolve(""))
    assert "secret" not in repr(Worker("password=secret"))
    assert "secret" not in repr(Target(("password=secret",), None))


@pytest.mark.parametrize("conninfo", ["nonsense", "service=missing"])
def test_a_string_that_cannot_be_resolved_is_left_to_the_first_connection(conninfo: str) -> None:
    """It fails there, with the message of libpq."""
    assert Server.resolve(conninfo).conninfo == conninfo


def test_the_environment_of_the_start_is_back_while_libpq_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The change of a handler is back afterwards."""
    monkeypatch.setenv("PGTZ", "UTC")
    monkeypatch.delenv("PGDATESTYLE", raising=False)
    server = Server.resolve("")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "German")
    with server.restored_environment():
        assert os.environ["PGTZ"] == "UTC"
        assert "PGDATESTYLE" not in os.environ
    assert (os.environ["PGTZ"], os.environ["PGDATESTYLE"]) == ("Asia/Tokyo", "German")
