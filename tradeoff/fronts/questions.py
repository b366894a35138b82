"""The three questions a front answers, put to the sorted closed form or to the convex program."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from array_api_compat import array_namespace

from solvers.arrays import Array, in_pieces, like, mass, normalised, safe_divide, to_numpy
from solvers.closed_form import ratio_clip
from solvers.collection import split_divergence, split_rejection
from solvers.errors import InputError
from solvers.sorted_front import SortedFront
from tradeoff.problem import Problem, checked_numbers

if TYPE_CHECKING:
    from solvers.convex_program import JointProgram

Question = Literal["rejection", "divergence", "price"]

GRID = 33
"""Points of a front whose rejections were not chosen: enough for a smooth curve, and R = TV/2 is one of them."""


class Answer(NamedTuple):
    """A rule, and the levels and the price that prove it."""

    acceptance: Array  # [..., vocab]
    residual: Array  # [..., vocab]
    floor: Array  # [...]
    ceiling: Array  # [...]
    price: Array  # [...]
    solved_by: str


class Grid(NamedTuple):
    """The front at several rejections, `[points, ...]`, or `[points]` if the rows share them; on the host."""

    rejection: np.ndarray
    divergence: np.ndarray
    price: np.ndarray


class FrontSolver(Protocol):
    """What solves a front."""

    def answer(self, question: Question, wanted: Array) -> Answer:
        """The best rule at one point."""
        ...

    def grid(self, rejection: np.ndarray) -> Grid:
        """Least divergence and price at several rejections."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedForm:
    """The sorted closed form: exact, all rows at once.

    Parameters
    ----------
    problem
        The validated laws.
    rows
        The same, sorted, one row to a position.
    weights
        Of the positions, `[...]`, if they share a budget.
    """

    problem: Problem
    rows: SortedFront
    weights: Array | None

    def answer(self, question: Question, wanted: Array) -> Answer:
        """The ratio clip at the rejection that every row gets."""
        rejection = self._rejection(question, to_numpy(wanted))
        floor, ceiling = levels_at(self.problem, self.rows, rejection)
        acceptance, residual = in_pieces(_clipped, self.problem.draft, self.problem.target, floor, ceiling)
        price = shaped(self.problem, self.rows.price(rejection))
        return Answer(acceptance, residual, floor, ceiling, price, "closed form")

    def grid(self, rejection: np.ndarray) -> Grid:
        """Every row at its own rejections, or the best split of every mean."""
        rows = self.rows
        if self.weights is None:
            wanted = rejection.reshape(rejection.shape[0], -1).T
            divergence, price = (
                each.T.reshape(rejection.shape) for each in (rows.least_divergence(wanted), rows.price(wanted))
            )
            return Grid(rejection, divergence, price)
        shares = to_numpy(self.weights).reshape(-1, 1)
        split = [split_rejection(rows, shares, float(mean)) for mean in rejection]
        means = [float((shares * rows.least_divergence(each)).sum()) for each in split]
        # a row that rejects nothing is not worth the common price, so the dearest row has it
        prices = [float(rows.price(each).max()) for each in split]
        return Grid(rejection, np.array(means), np.array(prices))

    def _rejection(self, question: Question, wanted: np.ndarray) -> np.ndarray:
        """Rejection of every row, `[rows, 1]`; `wanted` has one number per row, or one that the rows share."""
        rows, widest = self.rows, self.rows.total_variation
        if question == "price":
            return rows.rejection_at_price(wanted.reshape(-1, 1) + np.zeros_like(widest))
        if self.weights is not None:
            split = split_rejection if question == "rejection" else split_divergence
            return split(rows, to_numpy(self.weights).reshape(-1, 1), float(wanted))
        if question == "rejection":
            return np.minimum(wanted.reshape(-1, 1), widest)
        return rows.rejection_at_divergence(wanted.reshape(-1, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Convex:
    """The convex program in cvxpy: one pair of laws, or positions that share a budget.

    Parameters
    ----------
    problem, rows
        As in `ClosedForm`; the levels only prove what the program answers.
    program
        The program.
    """

    problem: Problem
    rows: SortedFront
    program: "JointProgram"

    @classmethod
    def of(cls, problem: Problem, rows: SortedFront, weights: Array | None) -> "Convex":
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
            return cls(problem=problem, rows=rows, program=JointProgram(draft, target, rows.divergence))
        draft, target = (each.reshape(-1, draft.shape[-1]) for each in (draft, target))
        program = JointProgram(draft, target, rows.divergence, weights=to_numpy(weights).reshape(-1))
        return cls(problem=problem, rows=rows, program=program)

    def answer(self, question: Question, wanted: Array) -> Answer:
        """The program's own answer, cleaned to be a rule."""
        draft, target = self.problem.draft, self.problem.target
        ask = {
            "rejection": self.program.at_rejection,
            "divergence": self.program.at_divergence,
            "price": self.program.at_price,
        }[question]
        solution = ask(float(wanted))
        accepted = like(solution.accepted, draft)
        acceptance = array_namespace(draft).clip(safe_divide(accepted, draft, 1.0), 0.0, 1.0)
        residual = normalised(like(solution.residual, draft), target)
        # the levels only have to prove the answer: those of the rejection it reached
        reached = np.clip(to_numpy(1.0 - mass(acceptance * draft)).reshape(-1, 1), 0.0, self.rows.total_variation)
        floor, ceiling = levels_at(self.problem, self.rows, reached)
        price = like(np.asarray(max(solution.price, 0.0)), draft) + 0.0 * floor
        return Answer(acceptance, residual, floor, ceiling, price, f"{solution.solver}: {solution.status.meaning}")

    def grid(self, rejection: np.ndarray) -> Grid:
        """One program after the other, `[points]`."""
        solutions = [self.program.at_rejection(float(each)) for each in rejection]
        return Grid(
            np.array([solution.rejection for solution in solutions]),
            np.array([solution.value for solution in solutions]),
            np.array([max(solution.price, 0.0) for solution in solutions]),
        )


def _clipped(draft: Array, target: Array, floor: Array, ceiling: Array) -> tuple[Array, Array]:
    rule = ratio_clip(draft, target, floor, ceiling)
    return rule.acceptance, rule.residual


def levels_at(problem: Problem, rows: SortedFront, rejection: np.ndarray) -> tuple[Array, Array]:
    """Floor and ceiling at rejections `[rows, 1]`, `[...]` where the laws are."""
    floor, ceiling = rows.levels(rejection)
    return shaped(problem, floor), shaped(problem, ceiling)


def shaped(problem: Problem, rows: np.ndarray) -> Array:
    """From `[rows, 1]` on the host to `[...]` where the laws are."""
    return like(rows.reshape(tuple(problem.draft.shape[:-1])), problem.draft)


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
