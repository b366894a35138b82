"""`solve_pareto()`: from two laws to the exact front between rejection and divergence, and to any point on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from array_api_compat import array_namespace, is_numpy_array

from solvers.arrays import Array, mass, normalised, safe_divide
from solvers.certificate import dual_bound
from solvers.closed_form import ratio_clip_at_price, ratio_clip_at_rejection
from solvers.divergences import Divergence, divergence_named, total_variation
from solvers.errors import InputError
from tradeoff.problem import Problem, checked_rejection, validated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Solver = Literal["closed_form", "cvxpy"]

GRID = 33
"""Points of a front whose rejections were not chosen: enough for a smooth curve, and R = TV/2 is one of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParetoPoint:
    """The best rule at one rejection probability.

    minimise D(output, target) over acceptance b and residual law P with 1 - sum b draft <= rejection.

    Parameters
    ----------
    rejection, divergence
        R and the least divergence at R, `[...]`; nats for the two KLs.
    acceptance
        b(x), the probability of accepting drafted token x, `[..., vocab]`.
    residual
        The law sampled after a rejection, `[..., vocab]`.
    output_law
        b draft + R residual, `[..., vocab]`.
    floor, ceiling
        Bounds of output / target, `[...]`: the closed form's law is clip(draft, floor target, ceiling target).
        The ceiling is infinite where the draft's mass off the target's support exceeds the rejection.
    price
        -d divergence / d rejection, what one more rejection would buy, `[...]`.
    lower_bound
        The certificate: no law at this rejection has a smaller divergence, `[...]`.
    """

    rejection: Array
    divergence: Array
    acceptance: Array
    residual: Array
    output_law: Array
    floor: Array
    ceiling: Array
    price: Array
    lower_bound: Array

    @property
    def optimality_gap(self) -> Array:
        """Divergence minus its certified lower bound, `[...]`; zero up to rounding at the optimum."""
        xp = array_namespace(self.divergence)
        finite = xp.isfinite(self.divergence)
        gap = xp.where(finite, self.divergence, xp.zeros_like(self.divergence)) - xp.where(
            finite, self.lower_bound, xp.zeros_like(self.lower_bound)
        )
        unproven = ~finite & (self.lower_bound < xp.inf)
        return xp.where(unproven, xp.zeros_like(gap) + xp.inf, gap)


@dataclass(frozen=True, kw_only=True, eq=False)
class ParetoFront:
    """Least divergence as a function of rejection, for one pair of laws or a batch of them.

    Parameters
    ----------
    problem
        The validated laws.
    divergence_name, solver
        As given to `solve_pareto`.
    total_variation
        TV(draft, target), the rejection of lossless decoding and the right end of the front, `[...]`.
    rejection, divergence
        The solved grid, `[points, ...]`.
    """

    problem: Problem
    divergence_name: str
    solver: Solver
    total_variation: Array
    rejection: Array
    divergence: Array

    def at(self, *, rejection: Any) -> ParetoPoint:
        """Solve the front at a rejection probability: exact, not interpolated.

        Parameters
        ----------
        rejection
            R between 0 and TV(draft, target), a number or an array that broadcasts to `[...]`.

        Raises
        ------
        InputError
            R outside that range.
        SolverError
            `solver="cvxpy"` did not converge.
        """
        wanted = checked_rejection(rejection, self.total_variation)
        return _solve_point(self.problem, wanted, divergence_named(self.divergence_name), self.solver)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the front, one line per pair of laws, with the unattainable region shaded; returns the axes."""
        from tradeoff.plotting import draw_front  # matplotlib loads on use

        return draw_front(self, ax)


def solve_pareto(
    draft: Array,
    target: Array,
    *,
    divergence: str = "tv",
    rejection: Any = None,
    solver: Solver = "closed_form",
) -> ParetoFront:
    """Find the least divergence to the target at every rejection probability.

    minimise D(a + r, target) over 0 <= a <= draft, r >= 0, sum a + sum r = 1, sum r <= R
    (a = acceptance times draft, r = R times residual). One law, clip(draft, c target, C target), solves it
    for every f-divergence at once.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, numpy or torch, any floating type; results come back as the same kind, laws in
        the same floating type, row quantities in float64.
    divergence
        "tv", "kl" (output to target), "reverse_kl" (target to output), "chi2" or "hellinger".
    rejection
        The grid: one R or a sequence, each between 0 and the least TV of the batch. By default 33 equal
        steps from 0 to each row's own TV.
    solver
        "closed_form" (exact, batched), or "cvxpy" (the convex program itself; one pair of laws, TV and KL).

    Returns
    -------
    ParetoFront
        Query it with `.at(rejection=r)`.

    Raises
    ------
    InputError
        Laws, rejection, divergence or solver that cannot be used.
    SolverError
        `solver="cvxpy"` did not converge.

    Notes
    -----
    Yin et al., NeurIPS 2024, Theorem 5 (TV); the law for all f-divergences is mentored decoding (Tran-Thien
    2023; Tran-Thien and Nock, arXiv 2609.30474). docs/theory.md T1, T2.
    """
    problem = validated(draft, target)
    measure = divergence_named(divergence)
    if solver not in ("closed_form", "cvxpy"):
        raise InputError(f"solver: expected 'closed_form' or 'cvxpy'; got {solver!r}")
    xp = array_namespace(problem.draft)
    widest = total_variation(problem.draft, problem.target)
    if rejection is None:
        grid = [widest * (step / (GRID - 1)) for step in range(GRID)]
    else:
        wanted = list(rejection) if isinstance(rejection, Sequence) or getattr(rejection, "ndim", 0) else [rejection]
        grid = [checked_rejection(each, widest) for each in wanted]
        if not grid:
            raise InputError("rejection: expected at least one value; got none; leave it out for the whole front")
    points = [_solve_point(problem, each, measure, solver) for each in grid]
    return ParetoFront(
        problem=problem,
        divergence_name=divergence,
        solver=solver,
        total_variation=widest,
        rejection=xp.stack([xp.asarray(point.rejection) for point in points]),
        divergence=xp.stack([xp.asarray(point.divergence) for point in points]),
    )


def _solve_point(problem: Problem, rejection: Array, measure: Divergence, solver: Solver) -> ParetoPoint:
    draft, target = problem.draft, problem.target
    xp = array_namespace(draft)
    if solver == "cvxpy":
        acceptance, residual, floor, ceiling, price = _solve_program(problem, rejection, measure)
    else:
        acceptance, residual, floor, ceiling = ratio_clip_at_rejection(draft, target, rejection)
        price = measure.derivative(ceiling) - measure.derivative(floor)
    accepted = acceptance * draft
    reached = 1.0 - mass(accepted)
    reached = xp.where(reached > 0, reached, xp.zeros_like(reached))
    output = accepted + xp.expand_dims(reached, axis=-1) * residual
    return ParetoPoint(
        rejection=reached,
        divergence=measure.value(output, target),
        acceptance=problem.restored(acceptance),
        residual=problem.restored(residual),
        output_law=problem.restored(output),
        floor=floor,
        ceiling=ceiling,
        price=price,
        lower_bound=dual_bound(draft, target, reached, floor=floor, ceiling=ceiling, divergence=measure),
    )


def _solve_program(problem: Problem, rejection: Array, measure: Divergence) -> tuple[Array, ...]:
    from solvers.convex_program import solve_joint  # cvxpy loads on use

    draft, target = problem.draft, problem.target
    xp = array_namespace(draft)
    if draft.ndim != 1:
        raise InputError(
            f"solver='cvxpy': expected one pair of laws [vocab]; got shape {tuple(draft.shape)}; "
            "solve row by row, or use solver='closed_form'"
        )
    as_numpy = (lambda law: law) if is_numpy_array(draft) else (lambda law: law.cpu().numpy())
    solution = solve_joint(as_numpy(draft), as_numpy(target), float(rejection), measure.name)

    def back(values: Array) -> Array:
        return xp.asarray(values, dtype=xp.float64, device=draft.device)

    accepted, residual = back(solution.accepted), normalised(back(solution.residual), target)
    acceptance = xp.minimum(safe_divide(accepted, draft, 1.0), xp.ones_like(draft))
    price = back(max(solution.price, 0.0))
    if measure.name == "kl":
        clip = ratio_clip_at_price(draft, target, price)
        return acceptance, residual, clip.floor, clip.ceiling, price
    # TV multipliers do not determine the bounds: report the range the solver's own law happens to have
    output = acceptance * draft + (1.0 - mass(acceptance * draft)) * residual
    ratio = output[target > 0] / target[target > 0]
    leak = mass(output[target <= 0]) > 0
    return acceptance, residual, xp.min(ratio), back(float("inf")) if bool(leak) else xp.max(ratio), price
