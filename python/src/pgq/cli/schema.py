"""The commands that install, upgrade and remove the SQL, and grant its use."""

from __future__ import annotations

import click

from pgq.cli.completion import complete_queues
from pgq.cli.output import as_json, print_json, show_done
from pgq.cli.progress import Progress
from pgq.cli.target import Target, pass_target
from pgq.errors import AlreadyInstalled
from pgq.schema import install as installation
from pgq.schema.upgrade import steps_left, upgrade_steps
from pgq.version import driver_version


@click.command()
@click.option("--print", "print_", is_flag=True, help="Print the SQL instead of running it.")
@as_json
@pass_target
def install(target: Target, print_: bool, json_: bool) -> None:
    """
    Install the tables and functions of pgq.

    Nothing is done where this version is installed already.
    """
    if print_:
        click.echo(installation.script(), nl=False)
        return
    with target.connection() as conn:
        try:
            version = installation.install(conn, schema=target.schema)
            show_done(f"pgq {version} installed", {"version": version, "installed": True}, json_)
        except AlreadyInstalled as error:
            version = driver_version()
            if installation.installed_version(conn, target.schema) != version:
                raise
            show_done(f"{error}: nothing to do", {"version": version, "installed": False}, json_)


@click.command()
@as_json
@pass_target
def upgrade(target: Target, json_: bool) -> None:
    """
    Upgrade the SQL in the database to the version of this program.

    Upgrade the SQL first, the drivers afterwards. From 0.2.0 or older to 0.3.0, stop all workers and producers first.
    Each version on the way is one transaction: a step that fails has changed nothing.
    """

    def notice(message: str) -> None:
        click.echo(f"notice: {message}", err=True)

    reached: list[str] = []
    with target.connection() as conn, Progress("upgraded", steps_left(conn, target.schema), lines=False) as progress:
        for version in upgrade_steps(conn, schema=target.schema, notice=notice):
            progress.add(1)
            reached.append(version)
            progress.leave_line()
            if not json_:
                click.echo(f"pgq {version} reached")
    if json_:
        print_json({"version": driver_version(), "reached": reached})
    elif not reached:
        click.echo(f"pgq {driver_version()} is up to date")


@click.command()
@click.option("--force", is_flag=True, help="Remove pgq even while jobs wait or run; they are lost.")
@as_json
@pass_target
def uninstall(target: Target, force: bool, json_: bool) -> None:
    """
    Remove the tables and functions of pgq, and with them all jobs that have ended.

    While jobs wait or run, nothing is removed unless --force is given.
    """
    with target.connection() as conn:
        version = installation.uninstall(conn, schema=target.schema, force=force)
    show_done(f"pgq {version} removed", {"version": version}, json_)


ROLE = click.argument("role")
PRIVILEGE = click.argument("privilege", type=click.Choice(["producer", "worker", "admin", "reader"]))
QUEUES = click.option(
    "--queue",
    "queues",
    shell_complete=complete_queues,
    multiple=True,
    help="Only this queue; can be repeated.  [default: all]",
)


@click.command()
@ROLE
@PRIVILEGE
@QUEUES
@as_json
@pass_target
def grant(target: Target, role: str, privilege: str, queues: tuple[str, ...], json_: bool) -> None:
    """
    Grant PRIVILEGE to a database role.

    A producer enqueues and reads results; a worker claims jobs and ends them; an admin cancels, retries, configures and
    sees everything; a reader sees numbers and states. None includes another.
    """
    with target.queue() as queue:
        queue.grant(role, privilege, queues or None)
    if json_:
        print_json({"role": role, "privilege": privilege, "queues": list(queues) or None})


@click.command()
@ROLE
@PRIVILEGE
@QUEUES
@as_json
@pass_target
def revoke(target: Target, role: str, privilege: str, queues: tuple[str, ...], json_: bool) -> None:
    """
    Revoke PRIVILEGE from a database role.

    A worker that may no longer claim from its queues ends.
    """
    with target.queue() as queue:
        queue.revoke(role, privilege, queues or None)
    if json_:
        print_json({"role": role, "privilege": privilege, "queues": list(queues) or None})
