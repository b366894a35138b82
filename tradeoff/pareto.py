"""`solve_pareto()`: from laws to the exact front between rejection and divergence, and to any point on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from array_api_compat import array_namespace

from solvers.arrays import Array, in_pieces, like, mass, normalised, positive_part, safe_divide, to_numpy
from solvers.certificate import Certificate, certify
from solvers.closed_form import ratio_clip
from solvers.divergences import Divergence, divergence_named
from solvers.errors import InputError
from solvers.sorted_front import SortedFront
from tradeoff.alternatives import Alternatives, alternatives_at
from tradeoff.problem import Problem, checked_numbers, validated
from tradeoff.questions import (
    Question,
    closed_form_answer,
    closed_form_grid,
    convex_answer,
    convex_grid,
    convex_program,
    grid_of,
)
from tradeoff.rule import Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from solvers.convex_program import JointProgram, ProgramSolution

Solver = Literal["closed_form", "cvxpy"]
Budget = Literal["each", "mean"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ParetoPoint:
    """The best rule at one point of the front.

    minimise D(output, target) over acceptance b and residual law P with 1 - sum b draft <= budget.

    Parameters
    ----------
    draft, target
        The laws, `[..., vocab]`, float64.
    measure
        The divergence.
    budget
        The rejection that was asked for, or that the price or the divergence asked for leads to, `[...]`; a
        budget above TV(draft, target) is not spent, for at TV decoding is lossless. One number if the positions
        share it.
    weights
        `[...]`, of positions that share a budget; None if each has its own.
    rejection, divergence
        R and D at every position, `[...]`; nats where logarithms occur.
    acceptance
        b(x), the probability of accepting drafted token x, `[..., vocab]`.
    residual
        The law sampled after a rejection, `[..., vocab]`.
    output_law
        b draft + R residual, `[..., vocab]`.
    floor, ceiling
        Bounds of output / target, `[...]`: the law is clip(draft, floor target, ceiling target). The ceiling is
        infinite where the draft's mass off the target's support exceeds the rejection.
    price
        -d divergence / d rejection, what one more rejection would buy, `[...]`.
    solved_by
        "closed form", or the numerical solver, its version and how it ended.
    """

    draft: Array
    target: Array
    measure: Divergence
    budget: Array
    weights: Array | None
    rejection: Array
    divergence: Array
    acceptance: Array
    residual: Array
    output_law: Array
    floor: Array
    ceiling: Array
    price: Array
    solved_by: str

    @cached_property
    def certificate(self) -> Certificate:
        """Proof of optimality, recomputed from the laws, the rule and the two levels."""
        xp = array_namespace(self.draft)
        return certify(
            self.draft,
            self.target,
            acceptance=xp.astype(self.acceptance, xp.float64, copy=False),
            residual=xp.astype(self.residual, xp.float64, copy=False),
            budget=self.budget,
            floor=self.floor,
            ceiling=self.ceiling,
            divergence=self.measure,
            weights=self.weights,
        )

    @property
    def mean_rejection(self) -> float:
        """Rejection over all positions, by their weights."""
        return self._mean(self.rejection)

    @property
    def mean_divergence(self) -> float:
        """Divergence over all positions, by their weights."""
        return self._mean(self.divergence)

    def _mean(self, values: Array) -> float:
        xp = array_namespace(values)
        return float(xp.mean(values) if self.weights is None else xp.sum(self.weights * values))


@dataclass(frozen=True, kw_only=True, eq=False)
class ParetoFront:
    """Least divergence as a function of rejection.

    For one pair of laws, for each of a batch, or for all positions of a batch together.

    Parameters
    ----------
    problem
        The validated laws.
    measure
        The divergence.
    solver, budget
        As given to `solve_pareto`.
    weights
        Of the positions, `[...]`, summing to 1; None with `budget="each"`.
    total_variation
        The rejection of lossless decoding, the right end of the front: TV(draft, target), `[...]`, or its mean.
    rejection, divergence, price
        The solved grid, `[points, ...]`, or `[points]` if positions share the budget; the price is -d divergence /
        d rejection.
    """

    problem: Problem
    measure: Divergence
    solver: Solver
    budget: Budget
    weights: Array | None
    total_variation: Array
    rejection: Array
    divergence: Array
    price: Array
    _sorted: SortedFront
    _program: "JointProgram | None"

    def at(self, *, rejection: Any = None, divergence: Any = None, price: Any = None) -> ParetoPoint:
        """Solve the front at one of three questions: exact, not interpolated.

        Parameters
        ----------
        rejection
            "What is the least divergence at this rejection?" R in [0, 1]; above `total_variation` there is nothing
            left to buy and the answer is lossless.
        divergence
            "How little can I reject within this divergence?" At least 0; from the draft's own divergence on the
            answer is the draft, nothing rejected.
        price
            "What if a rejection costs this much divergence?" At least 0; minimises divergence + price * rejection.
            0 is lossless.

        Each is a number or an array that broadcasts to `[...]`; with `budget="mean"`, a number about the mean.

        Raises
        ------
        InputError
            None or several of the three, or one out of its range.
        SolverError
            `solver="cvxpy"` did not converge.
        """
        asked = {"rejection": rejection, "divergence": divergence, "price": price}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise InputError(
                "at: expected exactly one of rejection=, divergence= and price=; "
                f"got {' and '.join(given) if given else 'none'}"
            )
        question: Question = given[0]  # type: ignore[assignment]
        wanted = checked_numbers(
            asked[question], question, self.total_variation, most=1.0 if question == "rejection" else float("inf")
        )
        if self._program is not None:
            return self._point_of(convex_answer(self._program, question, float(wanted)), question, wanted)
        rows = closed_form_answer(self._sorted, question, to_numpy(wanted), self.weights)
        return self._point_at(rows, question, wanted)

    def alternatives(self, *, rejection: float) -> Alternatives:
        """What simpler ways to spend a mean rejection give away: equal budgets, a common ceiling.

        Parameters
        ----------
        rejection
            The mean rejection, between 0 and the mean TV.

        Raises
        ------
        InputError
            The front is not one of `budget="mean"`, or the rejection is out of its range.
        """
        if self.weights is None:
            raise InputError("alternatives: expected a front of solve_pareto(..., budget='mean'); got budget='each'")
        wanted = float(checked_numbers(rejection, "rejection", self.total_variation, most=1.0))
        return alternatives_at(self.problem, self._sorted, to_numpy(self.weights), wanted)

    def to_dict(self) -> dict[str, list]:
        """The grid as columns, one entry per position and point: `pandas.DataFrame(front.to_dict())`."""
        columns = {name: to_numpy(getattr(self, name)) for name in ("rejection", "divergence", "price")}
        points = columns["rejection"].shape[0]
        columns = {name: values.reshape(points, -1).T for name, values in columns.items()}
        position = np.repeat(np.arange(columns["rejection"].shape[0]), points)
        return {"position": position.tolist()} | {name: values.ravel().tolist() for name, values in columns.items()}

    def plot(self, ax: "Axes | None" = None, *, rules: Mapping[str, Rule] | None = None) -> "Axes":
        """Draw the front with the unattainable region shaded, and rules, by name, where they are; returns the axes."""
        from tradeoff.plotting import draw_front  # matplotlib loads on use

        return draw_front(self, ax, rules or {})

    def _point_at(self, rows: np.ndarray, question: str, wanted: Array) -> ParetoPoint:
        floor, ceiling = self._levels(rows)
        budget = wanted if question == "rejection" else None
        price = self._shaped(self._sorted.price(rows))

        def effect(draft: Array, target: Array, floor: Array, ceiling: Array) -> tuple[Array, ...]:
            rule = ratio_clip(draft, target, floor, ceiling)
            return self._effect(draft, target, rule.acceptance, rule.residual)

        found = in_pieces(effect, self.problem.draft, self.problem.target, floor, ceiling)
        return self._point(found, (floor, ceiling, price), budget, "closed form")

    def _point_of(self, solution: "ProgramSolution", question: str, wanted: Array) -> ParetoPoint:
        draft, target = self.problem.draft, self.problem.target
        accepted = like(solution.accepted, draft)
        acceptance = array_namespace(draft).clip(safe_divide(accepted, draft, 1.0), 0.0, 1.0)
        residual = normalised(like(solution.residual, draft), target)
        # the levels only have to prove the answer: those of the rejection it reached
        reached = np.clip(to_numpy(1.0 - mass(acceptance * draft)).reshape(-1, 1), 0.0, self._sorted.total_variation)
        floor, ceiling = self._levels(reached)
        price = like(np.asarray(max(solution.price, 0.0)), draft) + 0.0 * floor
        solved_by = f"{solution.solver}: {solution.status.meaning}"
        budget = wanted if question == "rejection" else None
        found = in_pieces(self._effect, draft, target, acceptance, residual)
        return self._point(found, (floor, ceiling, price), budget, solved_by)

    def _effect(self, draft: Array, target: Array, acceptance: Array, residual: Array) -> tuple[Array, ...]:
        """Acceptance, residual and output law as they are given back, rejection and divergence."""
        accepted = acceptance * draft
        rejection = positive_part(mass(draft - accepted))  # nothing where all is accepted, not a rounding of 1 - sum
        output = accepted + array_namespace(draft).expand_dims(rejection, axis=-1) * residual
        laws = (self.problem.restored(each) for each in (acceptance, residual, output))
        return (*laws, rejection, self.measure.value(output, target))

    def _point(
        self,
        effect: tuple[Array, ...],
        multipliers: tuple[Array, Array, Array],
        budget: Array | None,
        solved_by: str,
    ) -> ParetoPoint:
        draft, target = self.problem.draft, self.problem.target
        acceptance, residual, output, rejection, divergence = effect
        xp = array_namespace(draft)
        if budget is None:
            budget = rejection if self.weights is None else xp.sum(self.weights * rejection)
        return ParetoPoint(
            draft=draft,
            target=target,
            measure=self.measure,
            budget=budget,
            weights=self.weights,
            rejection=rejection,
            divergence=divergence,
            acceptance=acceptance,
            residual=residual,
            output_law=output,
            floor=multipliers[0],
            ceiling=multipliers[1],
            price=multipliers[2],
            solved_by=solved_by,
        )

    def _levels(self, rows: np.ndarray) -> tuple[Array, Array]:
        floor, ceiling = self._sorted.levels(rows)
        return self._shaped(floor), self._shaped(ceiling)

    def _shaped(self, rows: np.ndarray) -> Array:
        """From `[rows, 1]` on the host to `[...]` where the laws are."""
        return like(rows.reshape(tuple(self.problem.draft.shape[:-1])), self.problem.draft)


def solve_pareto(
    draft: Array,
    target: Array,
    *,
    divergence: str | Divergence = "tv",
    rejection: Any = None,
    budget: Budget = "each",
    weights: Any = None,
    solver: Solver = "closed_form",
    normalise: bool = False,
) -> ParetoFront:
    """Find the least divergence to the target at every rejection probability.

    minimise D(a + r, target) over 0 <= a <= draft, r >= 0, sum a + sum r = 1, sum r <= R
    (a = acceptance times draft, r = R times residual). One law, clip(draft, c target, C target), solves it
    for every f-divergence at once. With `budget="mean"` the positions of a batch share R and the objective is their
    mean divergence: the best split charges one common price per rejection everywhere.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, of any array-API library, any floating type; results come back as the same kind, laws
        in the same floating type but float32 at least, row quantities in float64. Gradients are not tracked.
    divergence
        "tv", "kl" (output to target), "reverse_kl" (target to output), "chi2", "reverse_chi2", "hellinger", "js",
        "alpha=<order>", or your own from `f_divergence`.
    rejection
        The grid: one R in [0, 1] or a sequence; "breakpoints" for the exact piecewise structure, rejections
        between which both levels are straight lines. By default 33 equal steps from 0 to TV.
    budget
        "each": every position has its own budget. "mean": all positions of the batch share one.
    weights
        How often each position occurs, `[...]`; only with `budget="mean"`, by default all equal.
    solver
        "closed_form" (exact, batched), or "cvxpy" (the convex program itself; one pair of laws, or `[rows, vocab]`
        with `budget="mean"`).
    normalise
        Accept rows of any positive sum and divide by it.

    Returns
    -------
    ParetoFront
        Query it with `.at(rejection=)`, `.at(divergence=)` or `.at(price=)`.

    Raises
    ------
    InputError
        Arguments that cannot be used.
    SolverError
        `solver="cvxpy"` did not converge.

    Notes
    -----
    Yin et al., NeurIPS 2024, Theorem 5 (TV); the law for all f-divergences is mentored decoding (Tran-Thien
    2023; Tran-Thien and Nock, arXiv 2609.30474). docs/theory.md T1, T2, T4.
    """
    problem = validated(draft, target, normalise=normalise)
    measure = divergence_named(divergence)
    _check_choice("solver", solver, ("closed_form", "cvxpy"))
    _check_choice("budget", budget, ("each", "mean"))
    shares = _checked_weights(problem, budget, weights)
    xp, vocab = array_namespace(problem.draft), problem.draft.shape[-1]
    rows = SortedFront(xp.reshape(problem.draft, (-1, vocab)), xp.reshape(problem.target, (-1, vocab)), measure)
    widest = like(rows.total_variation.reshape(tuple(problem.draft.shape[:-1])), problem.draft)
    end = widest if shares is None else xp.sum(shares * widest)
    grid = grid_of(rejection, rows, end, budget)
    program = convex_program(problem, measure, shares) if solver == "cvxpy" else None
    columns = closed_form_grid(rows, grid, shares) if program is None else convex_grid(program, grid)
    return ParetoFront(
        problem=problem,
        measure=measure,
        solver=solver,
        budget=budget,
        weights=shares,
        total_variation=end,
        rejection=like(columns[0], problem.draft),
        divergence=like(columns[1], problem.draft),
        price=like(columns[2], problem.draft),
        _sorted=rows,
        _program=program,
    )


def _check_choice(name: str, choice: str, choices: tuple[str, ...]) -> None:
    if not isinstance(choice, str) or choice not in choices:
        raise InputError(f"{name}: expected {' or '.join(map(repr, choices))}; got {choice!r}")


def _checked_weights(problem: Problem, budget: Budget, weights: Any) -> Array | None:
    if budget == "each":
        if weights is not None:
            raise InputError("weights: expected only with budget='mean', where positions share a budget")
        return None
    like_rows = mass(problem.draft)
    shares = checked_numbers(1.0 if weights is None else weights, "weights", like_rows)
    total = float(array_namespace(shares).sum(shares))
    if not 0 < total < float("inf"):
        raise InputError(f"weights: expected a positive, finite sum; got {total:g}")
    return shares / total
