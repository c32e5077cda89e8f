"""The commands about the SQL itself: install, upgrade, uninstall."""

from __future__ import annotations

import click

from pgq import install as installation
from pgq import upgrade as upgrading
from pgq.cli.support import Target

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
            click.echo(f"pgq {upgrading.wanted()} is up to date")


@click.command()
@click.option("--force", is_flag=True, help="Even if jobs wait or run: they are lost.")
@target
def uninstall(at: Target, force: bool) -> None:
    """Remove pgq's tables and functions from the database."""
    with at.connection() as conn:
        click.echo(f"pgq {installation.uninstall(conn, schema=at.schema, force=force)} removed")
