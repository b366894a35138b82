"""`solve_pareto()`: from laws to the exact front between rejection and divergence, and to any point on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from array_api_compat import array_namespace

from solvers.arrays import Array, in_pieces, like, mass, positive_part, to_numpy
from solvers.divergences import Divergence, divergence_named
from solvers.errors import InputError
from solvers.printing import counted, html_table, lines, quantity, sized, spread, svg_curve
from solvers.sorted_front import SortedFront
from tradeoff.fronts.alternatives import Alternatives, alternatives_at
from tradeoff.fronts.point import ParetoPoint
from tradeoff.fronts.questions import Answer, ClosedForm, Convex, FrontSolver, Question, grid_of
from tradeoff.outcome.token import evaluate
from tradeoff.problem import Problem, checked_numbers, validated
from tradeoff.rule import AnyRule
from tradeoff.rules.registry import as_rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tradeoff.fronts.plotting import Rules

Solver = Literal["closed_form", "cvxpy"]
Budget = Literal["each", "mean"]


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
    _solver: FrontSolver

    def at(self, *, rejection: Any = None, divergence: Any = None, price: Any = None) -> ParetoPoint:
        """Solve one point of the front, given one of three numbers: exact, not interpolated.

        Parameters
        ----------
        rejection
            "What is the least divergence at this rejection?" R in [0, 1]; from `total_variation` on the answer is
            lossless decoding.
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
            Not exactly one of the three is given, or it is out of its range.
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
        return self._point(self._solver.answer(question, wanted), question, wanted)

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
        """The grid as columns, one entry per position and point: `pandas.DataFrame(front.to_dict())`.

        Positions that share a budget have one curve, and no column that numbers them.
        """
        columns = {name: to_numpy(getattr(self, name)) for name in ("rejection", "divergence", "price")}
        points = columns["rejection"].shape[0]
        columns = {name: values.reshape(points, -1).T for name, values in columns.items()}
        position = np.repeat(np.arange(columns["rejection"].shape[0]), points)
        numbered = {"position": position.tolist()} if self.weights is None else {}
        return numbered | {name: values.ravel().tolist() for name, values in columns.items()}

    def plot(self, ax: "Axes | None" = None, *, rules: "Rules | None" = None) -> "Axes":
        """Draw the front with the unattainable region shaded, and rules where they are; returns the axes.

        Parameters
        ----------
        ax
            Where to draw; None for a figure of its own.
        rules
            Rules or specs by name, or specs that name themselves.
        """
        from tradeoff.fronts.plotting import draw_front  # matplotlib loads on use

        return draw_front(self, ax, rules)

    def place(self, rule: AnyRule | str) -> tuple[Array, Array]:
        """Rejection and divergence of a rule on these laws, `[...]`: where it is drawn.

        Raises
        ------
        InputError
            What is no rule of one token at a time, or one whose acceptance or residual is not one.
        """
        rule = as_rule(rule, kind="token", taken_by="plot")
        outcome = evaluate(rule, self.problem.draft, self.problem.target)
        return outcome.rejection, self.measure.value(outcome.output_law, outcome.target)

    def __repr__(self) -> str:
        shared = ", one budget together" if self.weights is not None else ""
        ends = self.divergence[0, ...], self.divergence[-1, ...]
        return lines(
            f"{type(self).__name__} ({sized(self.problem.draft.shape)}{shared}): "
            f"least {quantity(self.measure.label, 'in').removesuffix(' in')} at every rejection",
            f"from {spread(ends[0])} at rejection {spread(self.rejection[0, ...])} to {spread(ends[1])} at "
            f"{spread(self.rejection[-1, ...])}; lossless from {spread(self.total_variation)} on",
            f"{counted(self.rejection.shape[0], 'point')} by {self.solver}; .at(rejection= or divergence= or price=), "
            ".plot(), .to_dict()",
        )

    def _repr_html_(self) -> str:
        points, alone = self.rejection.shape[0], self.rejection[0, ...].ndim == 0
        kept = sorted({round(each * (points - 1) / 4) for each in range(5)})
        columns = (self.rejection, self.divergence, self.price)
        rows = [[spread(column[place, ...]) for column in columns] for place in kept]
        caption = repr(self).splitlines()[0]
        table = html_table(["rejection", self.measure.label, "price"], rows, caption=caption)
        return (svg_curve(self.rejection, self.divergence) if alone else "") + table

    def _point(self, answer: Answer, question: Question, wanted: Array) -> ParetoPoint:
        draft, target = self.problem.draft, self.problem.target
        effect = in_pieces(self._effect, draft, target, answer.acceptance, answer.residual)
        acceptance, residual, output, rejection, divergence = effect
        xp = array_namespace(draft)
        budget = wanted
        if question != "rejection":
            budget = rejection if self.weights is None else xp.sum(self.weights * rejection)
        return ParetoPoint(
            draft=draft,
            target=target,
            measure=self.measure,
            question=question,
            asked=wanted,
            budget=budget,
            weights=self.weights,
            rejection=rejection,
            divergence=divergence,
            acceptance=acceptance,
            residual=residual,
            output_law=output,
            floor=answer.floor,
            ceiling=answer.ceiling,
            price=answer.price,
            solved_by=answer.solved_by,
        )

    def _effect(self, draft: Array, target: Array, acceptance: Array, residual: Array) -> tuple[Array, ...]:
        """Acceptance, residual and output law as they are given back, rejection and divergence."""
        accepted = acceptance * draft
        rejection = positive_part(mass(draft - accepted))  # nothing where all is accepted, not a rounding of 1 - sum
        output = accepted + array_namespace(draft).expand_dims(rejection, axis=-1) * residual
        laws = (self.problem.restored(each) for each in (acceptance, residual, output))
        return (*laws, rejection, self.measure.value(output, target))


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
    solved: FrontSolver
    if solver == "cvxpy":
        solved = Convex.of(problem, rows, shares)
    else:
        solved = ClosedForm(problem=problem, rows=rows, weights=shares)
    columns = solved.grid(grid)
    return ParetoFront(
        problem=problem,
        measure=measure,
        solver=solver,
        budget=budget,
        weights=shares,
        total_variation=end,
        rejection=like(columns.rejection, problem.draft),
        divergence=like(columns.divergence, problem.draft),
        price=like(columns.price, problem.draft),
        _sorted=rows,
        _solver=solved,
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
