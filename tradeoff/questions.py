"""The three questions a front answers, put to the sorted closed form or to the convex program."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from solvers.arrays import Array, to_numpy
from solvers.collection import split_divergence, split_rejection
from solvers.divergences import Divergence
from solvers.errors import InputError
from solvers.sorted_front import SortedFront
from tradeoff.problem import Problem, checked_numbers

if TYPE_CHECKING:
    from solvers.convex_program import JointProgram, ProgramSolution

Question = Literal["rejection", "divergence", "price"]

GRID = 33
"""Points of a front whose rejections were not chosen: enough for a smooth curve, and R = TV/2 is one of them."""


def closed_form_answer(rows: SortedFront, question: Question, wanted: np.ndarray, weights: Array | None) -> np.ndarray:
    """Rejection of every row, `[rows, 1]`; `wanted` has one number per row, or one that the rows share."""
    widest = rows.total_variation
    if question == "price":
        return rows.rejection_at_price(wanted.reshape(-1, 1) + np.zeros_like(widest))
    if weights is not None:
        split = split_rejection if question == "rejection" else split_divergence
        return split(rows, to_numpy(weights).reshape(-1, 1), float(wanted))
    if question == "rejection":
        return np.minimum(wanted.reshape(-1, 1), widest)
    return rows.rejection_at_divergence(wanted.reshape(-1, 1))


def closed_form_grid(
    rows: SortedFront, rejection: np.ndarray, weights: Array | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rejection, divergence and price at every point of a grid, `[points, ...]`; `[points]` if the rows share it."""
    if weights is None:
        wanted = rejection.reshape(rejection.shape[0], -1).T
        divergence, price = (
            each.T.reshape(rejection.shape) for each in (rows.least_divergence(wanted), rows.price(wanted))
        )
        return rejection, divergence, price
    shares = to_numpy(weights).reshape(-1, 1)
    split = [split_rejection(rows, shares, float(mean)) for mean in rejection]
    means = [float((shares * rows.least_divergence(each)).sum()) for each in split]
    # a row that rejects nothing is not worth the common price, so the dearest row has it
    prices = [float(rows.price(each).max()) for each in split]
    return rejection, np.array(means), np.array(prices)


def convex_program(problem: Problem, divergence: Divergence, weights: Array | None) -> "JointProgram":
    """Pose the problem in cvxpy.

    Raises
    ------
    InputError
        More laws than the program takes at once.
    """
    from solvers.convex_program import JointProgram  # cvxpy loads on use

    draft, target = to_numpy(problem.draft), to_numpy(problem.target)
    if weights is None and draft.ndim > 1:
        raise InputError(
            f"solver='cvxpy': expected one pair of laws [vocab]; got shape {draft.shape}; solve row by row, or "
            "use budget='mean' or solver='closed_form'"
        )
    if weights is None:
        return JointProgram(draft, target, divergence)
    vocab = draft.shape[-1]
    return JointProgram(
        draft.reshape(-1, vocab), target.reshape(-1, vocab), divergence, weights=to_numpy(weights).reshape(-1)
    )


def convex_answer(program: "JointProgram", question: Question, wanted: float) -> "ProgramSolution":
    """Solve the program for one question."""
    if question == "rejection":
        return program.at_rejection(wanted)
    return program.at_price(wanted) if question == "price" else program.at_divergence(wanted)


def convex_grid(program: "JointProgram", rejection: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rejection, divergence and price at every point of a grid, `[points]`."""
    solutions = [program.at_rejection(float(each)) for each in rejection]
    return (
        np.array([solution.rejection for solution in solutions]),
        np.array([solution.value for solution in solutions]),
        np.array([max(solution.price, 0.0) for solution in solutions]),
    )


def grid_of(rejection: Any, rows: SortedFront, end: Array, budget: str) -> np.ndarray:
    """The rejections to solve at, `[points, ...]`, none beyond the end of its front."""
    ends = to_numpy(end)
    if rejection is None:
        return np.linspace(0.0, 1.0, GRID).reshape(-1, *(1,) * ends.ndim) * ends
    if isinstance(rejection, str):
        if rejection != "breakpoints" or budget == "mean":
            raise InputError(
                f"rejection: expected numbers, or 'breakpoints' with budget='each'; got {rejection!r} with {budget!r}"
            )
        points = rows.breakpoints().T
        return np.unique(points) if ends.ndim == 0 else points.reshape(-1, *ends.shape)
    wanted = list(rejection) if isinstance(rejection, Sequence) or getattr(rejection, "ndim", 0) else [rejection]
    if not wanted:
        raise InputError("rejection: expected at least one value; got none; leave it out for the whole front")
    numbers = [to_numpy(checked_numbers(each, "rejection", end, most=1.0)) for each in wanted]
    return np.minimum(np.stack(numbers), ends)
