"""Fronts as people and programs read them: answers to questions, a table, JSON, a figure."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from decoding.evaluation.files.kept import as_json, check_writable, make_folder, replace_file
from decoding.evaluation.files.pictures import write_png
from decoding.evaluation.sheets import Sheet, print_sheet
from solvers.arrays import ROUNDING
from solvers.certificate import Certificate
from solvers.errors import InputError
from tradeoff.fronts.alternatives import Alternatives
from tradeoff.fronts.pareto import ParetoFront, ParetoPoint, solve_pareto

TABLE_ROWS = 8
"""Steps between the rows of a table for which nothing was asked."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """One point of a front and what was asked for; without the laws, of which a long file has gigabytes.

    Parameters
    ----------
    asked
        The rejection, divergence or price; None for a point of the default grid.
    rejection, divergence, price, floor, ceiling
        Of every position, `[...]`, as in `ParetoPoint`.
    mean_rejection, mean_divergence
        Over the positions.
    certificate
        Proof that nothing is better.
    alternatives
        What simpler ways to spend the same mean rejection give away; None unless positions share a budget.
    """

    asked: float | None
    rejection: np.ndarray
    divergence: np.ndarray
    price: np.ndarray
    floor: np.ndarray
    ceiling: np.ndarray
    mean_rejection: float
    mean_divergence: float
    certificate: Certificate
    alternatives: Alternatives | None


def solve(
    draft: np.ndarray,
    target: np.ndarray,
    names: Sequence[str],
    budget: str | None,
    *,
    normalise: bool,
    grid: bool = True,
) -> list[ParetoFront]:
    """Solve one front to a divergence.

    Parameters
    ----------
    draft, target
        `[vocab]` or `[positions, vocab]`.
    names
        Of divergences; blanks and repetitions are left out.
    budget
        "each" or "mean"; None is "mean" for several positions, what a decoder that meets all of them gives away.
    normalise
        Accept rows of any positive sum.
    grid
        Whether the whole front is wanted; questions can be put to it without.

    Raises
    ------
    InputError
        No divergence or an unknown one, a mean over one position, arrays that are not laws.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not wanted:
        raise InputError("divergence: expected at least one name, such as tv,kl; got none")
    if budget == "mean" and draft.ndim == 1:
        raise InputError("budget: expected several positions to share a mean; got one; leave --budget out")
    chosen: Any = budget or ("each" if draft.ndim == 1 else "mean")
    at = None if grid else 0.0
    return [
        solve_pareto(draft, target, divergence=name, rejection=at, budget=chosen, normalise=normalise)
        for name in wanted
    ]


def answers(front: ParetoFront, question: str | None, wanted: Sequence[float]) -> list[Answer]:
    """Put questions to a front.

    Parameters
    ----------
    front
        As solved with its default grid.
    question
        "rejection", "divergence" or "price"; None for every fourth point of the grid.
    wanted
        The numbers asked for.

    Raises
    ------
    InputError
        A number out of its range.
    """
    if question is None:
        step = max(1, (front.rejection.shape[0] - 1) // TABLE_ROWS)
        return [_answer(front, None, front.at(rejection=each)) for each in front.rejection[::step]]
    return [_answer(front, each, front.at(**{question: each})) for each in wanted]


def _answer(front: ParetoFront, asked: float | None, point: ParetoPoint) -> Answer:
    shared = front.weights is not None
    return Answer(
        asked=asked,
        rejection=point.rejection,
        divergence=point.divergence,
        price=point.price,
        floor=point.floor,
        ceiling=point.ceiling,
        mean_rejection=point.mean_rejection,
        mean_divergence=point.mean_divergence,
        certificate=point.certificate,
        alternatives=front.alternatives(rejection=min(point.mean_rejection, 1.0)) if shared else None,
    )


def print_front(front: ParetoFront, found: Sequence[Answer], question: str | None, screen: Console) -> None:
    """Print a front as a table, and a line for every budget that buys nothing."""
    together, positions = front.weights is not None, _positions(front)
    unit = front.measure.label.rpartition("), ")[2] if "), " in front.measure.label else ""
    unit = f", {unit}" if unit else ""
    columns: dict[str, Callable[[Answer], str]] = {
        "mean rejection" if positions > 1 else "rejection": lambda each: _number(each.mean_rejection),
        f"{'mean ' if positions > 1 else ''}divergence{unit}": lambda each: _number(each.mean_divergence),
    }
    if positions > 1 and not together:
        columns[f"median\ndivergence{unit}"] = lambda each: _number(_median(each.divergence))
    of = "median " if positions > 1 else ""
    columns |= {
        f"{'' if together else of}price{unit}\nper rejection": lambda each: _number(_price(front, each)),
        f"{of}floor": lambda each: _number(_median(each.floor)),
        f"{of}ceiling": lambda each: _number(_median(each.ceiling)),
    }
    if together:
        columns["equal budgets\ntimes the least"] = lambda each: _gain(each.alternatives, "equal_budgets")
        columns["common ceiling\ntimes the least"] = lambda each: _gain(each.alternatives, "common_ceiling")
    columns |= {
        "gap": lambda each: f"{float(np.max(each.certificate.gap)):.0e}",
        "proved": lambda each: "yes" if each.certificate.holds() else "no",
    }
    rows = tuple(tuple(cell(each) for cell in columns.values()) for each in found)
    notes = (_caption(front), *_remarks(front, found, question))
    print_sheet(Sheet(title=_title(front), columns=tuple(columns), rows=rows, notes=notes), screen)


def _title(front: ParetoFront) -> str:
    positions = _positions(front)
    if positions == 1:
        return f"Least {front.measure.label}"
    shared = "one mean budget" if front.weights is not None else "each its own budget"
    return f"Least {front.measure.label}: {positions} positions, {shared}"


def _caption(front: ParetoFront) -> str:
    lossless = _number(float(np.mean(front.total_variation)))
    own = "" if front.total_variation.ndim == 0 else ", on average; every position from its own TV"
    text = (
        f"Best output law: clip(draft, floor target, ceiling target). Lossless from rejection {lossless} on{own}. Gap: "
        "at most so much above the least. Proved: feasible, and the gap is rounding."
    )
    if front.weights is not None:
        text += (
            " Times the least: the divergence of the same mean rejection spent as equal budgets, or at one ceiling "
            "for all positions, with the best laws."
        )
    return text


def _remarks(front: ParetoFront, found: Sequence[Answer], question: str | None) -> list[str]:
    """One line for every budget that buys nothing."""
    if question not in ("rejection", "divergence"):
        return []
    end = np.asarray(front.total_variation)
    if question == "divergence":
        draft = front.at(rejection=0.0)
        end = np.asarray(draft.divergence if front.weights is None else draft.mean_divergence)
    lines = []
    for each in found:
        asked = each.asked or 0.0
        nothing = asked > end + ROUNDING if question == "rejection" else asked >= end
        where = "" if nothing.size == 1 else f" at {nothing.sum()} of {nothing.size} positions"
        mean = " mean" if front.weights is not None else ""
        limit = f" {_number(float(end))}" if nothing.size == 1 else ""
        if nothing.any() and question == "rejection":
            lines.append(f"rejection {asked:g}: above the{mean} TV(draft, target){limit}{where}: lossless already")
        elif nothing.any():
            lines.append(f"divergence {asked:g}: not below the draft's own{mean}{limit}{where}: the draft itself")
    return lines


def _positions(front: ParetoFront) -> int:
    return int(np.prod(front.problem.draft.shape[:-1]))


def _price(front: ParetoFront, answer: Answer) -> float:
    """The common price is that of the dearest position; positions with their own budgets have a median one."""
    return _median(answer.price) if front.weights is None else float(answer.price.max())


def _median(values: np.ndarray) -> float:
    """The middle one, the lower of two: halves of infinities have no mean."""
    return float(np.quantile(values, 0.5, method="lower"))


def _number(value: float) -> str:
    return "0" if abs(value) < ROUNDING else f"{value:.4g}"


def _gain(alternatives: Alternatives | None, name: str) -> str:
    value = None if alternatives is None else _gains(alternatives)[name]
    return "" if value is None else f"{value:.3g}"


def _gains(alternatives: Alternatives) -> dict[str, float | None]:
    """How many times the least; None where the least is infinite, or zero but for rounding."""
    if not ROUNDING < alternatives.common_price < math.inf:
        return dict.fromkeys(alternatives.gain)
    return dict(alternatives.gain)


def as_dict(path: Path, fronts: Sequence[ParetoFront], found: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """Everything the table shows and the whole grid, as plain numbers.

    Numbers about a position are lists over the positions, in the file's order, if it holds several. Infinity is the
    string "inf", for JSON has no literal for it; an undefined multiple is null.
    """
    first = fronts[0]
    return {
        "file": str(path),
        "positions": _positions(first),
        "vocab": int(first.problem.draft.shape[-1]),
        "budget": first.budget,
        "fronts": [_front_dict(front, each) for front, each in zip(fronts, found, strict=True)],
    }


def _front_dict(front: ParetoFront, found: Sequence[Answer]) -> dict[str, Any]:
    return {
        "divergence": front.measure.name,
        "label": front.measure.label,
        "total_variation": as_json(front.total_variation),
        "grid": {name: as_json(getattr(front, name)) for name in ("rejection", "divergence", "price")},
        "points": [_point_dict(each) for each in found],
    }


def _point_dict(answer: Answer) -> dict[str, Any]:
    certificate = answer.certificate
    names = ("rejection", "divergence", "price", "floor", "ceiling", "mean_rejection", "mean_divergence")
    proof = ("value", "bound", "gap", "price", "infeasibility", "unique")
    written: dict[str, Any] = {"asked": as_json(answer.asked)}
    written |= {name: as_json(getattr(answer, name)) for name in names}
    written["certificate"] = {name: as_json(getattr(certificate, name)) for name in proof}
    written["certificate"]["proved"] = certificate.holds()
    if answer.alternatives is not None:
        kinds = ("common_price", "equal_budgets", "common_ceiling")
        written["alternatives"] = {name: as_json(getattr(answer.alternatives, name)) for name in kinds}
        written["alternatives"]["times_the_least"] = as_json(_gains(answer.alternatives))
    return written


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write strict JSON; the folder is made if it is not there.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    make_folder(path.parent)
    replace_file(path, lambda file: file.write(json.dumps(document, allow_nan=False, indent=1).encode() + b"\n"))


def draw(fronts: Sequence[ParetoFront], path: Path) -> None:
    """Draw the fronts, one panel to a divergence; the folder is made if it is not there.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    import matplotlib.pyplot as plt  # loads on use: most calls want the table only

    from tradeoff.fronts.plotting import plot_fronts

    figure = plot_fronts(fronts)
    try:
        make_folder(path.parent)
        write_png(figure, path)
    finally:
        plt.close(figure)


def check_outputs(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Check, before anything is solved, that files can be written and replace neither an input nor each other.

    Raises
    ------
    InputError
        They cannot, or do.
    """
    taken = [os.path.realpath(each) for each in inputs]
    for path in outputs:
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(f"{path}: expected a file of its own for every output; got one twice; choose another name")
        taken.append(place)
        check_writable(path)
