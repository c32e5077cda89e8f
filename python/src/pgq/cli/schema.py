"""The commands that install, upgrade and remove the SQL, and grant its use."""

from __future__ import annotations

import click

from pgq.cli.target import Target, pass_target
from pgq.errors import AlreadyInstalled
from pgq.schema import install as installation
from pgq.schema.upgrade import upgrade_steps
from pgq.version import driver_version


@click.command()
@click.option("--print", "print_", is_flag=True, help="Print the SQL instead of running it.")
@pass_target
def install(target: Target, print_: bool) -> None:
    """
    Install the tables and functions of pgq.

    Nothing is done where this version is installed already.
    """
    if print_:
        click.echo(installation.script(), nl=False)
        return
    with target.connection() as conn:
        try:
            click.echo(f"pgq {installation.install(conn, schema=target.schema)} installed")
        except AlreadyInstalled as error:
            if installation.installed_version(conn, target.schema) != driver_version():
                raise
            click.echo(f"{error}: nothing to do")


@click.command()
@pass_target
def upgrade(target: Target) -> None:
    """
    Upgrade the SQL in the database to the version of this program.

    Upgrade the SQL first, the drivers afterwards. From 0.2.0 or older to 0.3.0, stop all workers and producers first.
    """

    def notice(message: str) -> None:
        click.echo(f"notice: {message}", err=True)

    with target.connection() as conn:
        reached = None
        for reached in upgrade_steps(conn, schema=target.schema, notice=notice):
            click.echo(f"pgq {reached} reached")
        if reached is None:
            click.echo(f"pgq {driver_version()} is up to date")


@click.command()
@click.option("--force", is_flag=True, help="Remove pgq even while jobs wait or run; they are lost.")
@pass_target
def uninstall(target: Target, force: bool) -> None:
    """Remove the tables and functions of pgq."""
    with target.connection() as conn:
        click.echo(f"pgq {installation.uninstall(conn, schema=target.schema, force=force)} removed")


ROLE = click.argument("role")
PRIVILEGE = click.argument("privilege", type=click.Choice(["producer", "worker", "admin", "reader"]))
QUEUES = click.option("--queue", "queues", multiple=True, help="Only this queue; can be repeated.  [default: all]")


@click.command()
@ROLE
@PRIVILEGE
@QUEUES
@pass_target
def grant(target: Target, role: str, privilege: str, queues: tuple[str, ...]) -> None:
    """Grant PRIVILEGE to a database role."""
    with target.queue() as queue:
        queue.grant(role, privilege, queues or None)


@click.command()
@ROLE
@PRIVILEGE
@QUEUES
@pass_target
def revoke(target: Target, role: str, privilege: str, queues: tuple[str, ...]) -> None:
    """Revoke PRIVILEGE from a database role."""
    with target.queue() as queue:
        queue.revoke(role, privilege, queues or None)
