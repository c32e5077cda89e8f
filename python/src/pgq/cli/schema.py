"""The commands about the SQL itself: install, upgrade, uninstall, and who may use it."""

from __future__ import annotations

import click

from pgq.cli.support import Target
from pgq.schema import install as installation
from pgq.schema import upgrade as upgrading
from pgq.version import driver_version

target = click.make_pass_decorator(Target)


@click.command()
@click.option("--print", "print_", is_flag=True, help="Print the SQL instead of running it.")
@target
def install(at: Target, print_: bool) -> None:
    """Put pgq's tables and functions into the database."""
    if print_:
        click.echo(installation.script(), nl=False)
        return
    with at.connection() as conn:
        click.echo(f"pgq {installation.install(conn, schema=at.schema)} installed")


@click.command()
@target
def upgrade(at: Target) -> None:
    """
    Bring the SQL in the database up to this program's version.

    Workers and producers may go on meanwhile. Upgrade the SQL first, the drivers afterwards.
    """
    with at.connection() as conn:
        reached = None
        for reached in upgrading.upgrade(conn, schema=at.schema):
            click.echo(f"pgq {reached} reached")
        if reached is None:
            click.echo(f"pgq {driver_version()} is up to date")


@click.command()
@click.option("--force", is_flag=True, help="Even if jobs wait or run: they are lost.")
@target
def uninstall(at: Target, force: bool) -> None:
    """Remove pgq's tables and functions from the database."""
    with at.connection() as conn:
        click.echo(f"pgq {installation.uninstall(conn, schema=at.schema, force=force)} removed")


ROLE = click.argument("role")
PRIVILEGE = click.argument("privilege", type=click.Choice(["producer", "worker", "admin", "reader"]))
QUEUES = click.option("--queue", "queues", multiple=True, help="Only this queue; may be repeated.  [default: all]")


@click.command()
@ROLE
@PRIVILEGE
@QUEUES
@target
def grant(at: Target, role: str, privilege: str, queues: tuple[str, ...]) -> None:
    """Let a database role use pgq as PRIVILEGE."""
    with at.queue() as queue:
        queue.grant(role, privilege, queues or None)


@click.command()
@ROLE
@PRIVILEGE
@QUEUES
@target
def revoke(at: Target, role: str, privilege: str, queues: tuple[str, ...]) -> None:
    """Take back what a role was granted."""
    with at.queue() as queue:
        queue.revoke(role, privilege, queues or None)
