"""`tradeoff front`."""

from pathlib import Path
from typing import Annotated

import typer

from decoding.cli.terminal import numbers, one_line_errors, screen
from solvers.errors import InputError


def show_front(
    laws: Annotated[
        Path,
        typer.Argument(
            metavar="LAWS.npz", help="Arrays draft and target, [..., vocab], or draft_logits and target_logits."
        ),
    ],
    divergence: Annotated[
        str, typer.Option(help="tv, kl, reverse_kl, chi2, reverse_chi2, hellinger, js, alpha=<order>, ...")
    ] = "tv,kl",
    rejection: Annotated[str | None, typer.Option(help="Find the least divergence at these rejections.")] = None,
    at_divergence: Annotated[
        str | None, typer.Option(help="Find the least rejection within these divergences.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(help="Find the best trade if one rejection costs this much divergence.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="each: one for every position; mean: one for all together, the default if there are several."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the softmax, if the file has logits; by default 1.")
    ] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide every law by its sum.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(help='Write the grid and the answers, with proofs; infinity is "inf", undefined is null.'),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write a figure with one panel per divergence.")] = None,
) -> None:
    """Solve the exact front between rejection and divergence for laws in a file.

    Give --rejection, --at-divergence or --price, with one number or several: 0.1,0.2. Without any of the three, the
    table shows nine points from the draft itself to lossless decoding.
    """
    with one_line_errors("interrupted"):
        question, wanted = _question(rejection=rejection, divergence=at_divergence, price=price)
        from decoding.evaluation.front.law_file import read_laws
        from decoding.evaluation.front.report import (
            answers,
            as_dict,
            check_outputs,
            draw,
            print_front,
            solve,
            write_json,
        )

        check_outputs([laws], [each for each in (json, png) if each is not None])

        grid = question is None or json is not None or png is not None
        names = divergence.split(",")
        fronts = solve(*read_laws(laws, temperature), names, budget, normalise=normalise, grid=grid)
        found = [answers(each, question, wanted) for each in fronts]
        for each, points in zip(fronts, found, strict=True):
            print_front(each, points, question, screen())
        if json is not None:
            write_json(as_dict(laws, fronts, found), json)
        if png is not None:
            draw(fronts, png)


def _question(**options: str | None) -> tuple[str | None, tuple[float, ...]]:
    """The one question that was asked, if any, and its numbers."""
    asked = {name: text for name, text in options.items() if text is not None}
    if len(asked) > 1:
        raise InputError("expected at most one of --rejection, --at-divergence and --price")
    for name, text in asked.items():
        wanted = numbers(text, name)
        if not wanted:
            raise InputError(f"{name}: expected at least one number; got {text!r}")
        return name, wanted
    return None, ()
