"""The `tradeoff` command."""

from importlib.metadata import version
from typing import Annotated

import typer

from decoding.cli.compare import compare_rules
from decoding.cli.evaluate import evaluate_rules
from decoding.cli.front import show_front
from decoding.cli.output import open_streams
from decoding.cli.rule_map import map_rules
from decoding.cli.terminal import one_line_errors, screen

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("front")(show_front)
app.command("map")(map_rules)
app.command("compare")(compare_rules)
app.command("evaluate")(evaluate_rules)


def _show_version(wanted: bool) -> None:
    if wanted:
        with one_line_errors("interrupted"):
            screen().print(f"tradeoff {version('tradeoff')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How much quality a speculative decoder gives away, and the rule that gives away least."""


def main() -> None:
    """Entry point of the `tradeoff` command."""
    open_streams()
    app()
