"""The bias-rejection problems as convex programs in cvxpy: the independent check of every closed form.

Everything is written in masses, a = b p (accepted) and r = R P (residual), which turns the bilinear choice
of (b, P) into a convex program. Laws `[vocab]` or `[rows, vocab]`, numpy, float64.

Rows are weighted by scaling their masses: w y f(w x / (w y)) = w (y f(x / y)), so one program serves one pair
of laws and a batch that shares a budget.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import cvxpy as cp
import numpy as np
from scipy import sparse

from solvers.divergences import Divergence, divergence_named
from solvers.errors import InputError, SolverError, Status

SOLVER = cp.CLARABEL
"""Interior point with linear, second-order, exponential and power cones, hence every divergence of the table.
HIGHS solves the linear programs only, and is 2e-4 off at 50000 tokens; SCS breaks constraints by 1e-3; OSQP stops
at its limit from 10000 tokens on."""

LINEAR = ({"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10},)
"""Settings for linear programs. Less regularisation, as below, costs them accuracy (9e-6 against 3e-10)."""

_TIGHT = {
    "tol_gap_abs": 1e-9,
    "tol_gap_rel": 1e-9,
    "tol_feas": 1e-9,
    "min_terminate_step_length": 1e-10,
    # the defaults, spelt out: solving again changes only the settings that are named
    "min_switch_step_length": 0.1,
    "max_iter": 200,
}
CURVED = (
    {**_TIGHT, "static_regularization_constant": 1e-12},
    {**_TIGHT, "static_regularization_constant": 1e-10},
    {**_TIGHT, "static_regularization_constant": 1e-12, "min_switch_step_length": 1e-4, "max_iter": 500},
)
"""Settings for all other cones, tried in turn until one reaches its tolerance. On 191 pairs of 2 to 60 tokens with
masses down to 1e-12, three problems each, the curved divergences of the table and alpha of order 0.5, 1.5, 2 and -1,
two optima of 5658 are off by more than 1e-6 (relative to 1 + value). The first settings need 20 to 40 iterations; they
fail on one or two problems in a hundred, and on some KL problems from 2000 tokens on, where the second or third succeed
(several hundred short steps, 3 s at 5000 tokens)."""

_STATUSES = {
    cp.OPTIMAL: Status.OPTIMAL,
    cp.OPTIMAL_INACCURATE: Status.INACCURATE,
    cp.INFEASIBLE: Status.INFEASIBLE,
    cp.INFEASIBLE_INACCURATE: Status.INFEASIBLE,
    cp.UNBOUNDED: Status.UNBOUNDED,
    cp.UNBOUNDED_INACCURATE: Status.UNBOUNDED,
    cp.USER_LIMIT: Status.LIMIT,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgramSolution:
    """An optimum as the solver found it.

    Parameters
    ----------
    value
        Divergence of the output law a + r; over several rows the weighted mean.
    rejection
        sum r; over several rows the weighted mean.
    accepted, residual
        Masses a and r, in the shape of the laws.
    price
        Slope -d value / d rejection of the front there, in divergence per rejection: the dual value of the budget,
        or the price that was given; `nan` where there is no budget.
    status
        `Status.OPTIMAL` or `Status.INACCURATE`.
    solver
        Name and version.
    """

    value: float
    rejection: float
    accepted: np.ndarray
    residual: np.ndarray
    price: float
    status: Status
    solver: str


def solve_residual(
    draft: np.ndarray, target: np.ndarray, acceptance: np.ndarray, divergence: str | Divergence = "tv"
) -> ProgramSolution:
    """Find the least divergence over residual laws for a FIXED acceptance: Theorem 4's problem, and T3's.

    minimise D(a + r, q)   over r >= 0 with sum r = 1 - sum a, where a = b p.

    Parameters
    ----------
    draft, target
        Laws p and q, `[vocab]` or `[rows, vocab]`; rows are independent and weigh the same.
    acceptance
        b in [0, 1], in the shape of the laws.
    divergence
        A name of `solvers.divergences.DIVERGENCES`, "alpha=<order>", or a row of that table.

    Raises
    ------
    InputError
        A divergence without a convex program.
    SolverError
        The solver did not reach an optimum, or a divergence that is infinite off the target's support meets
        accepted mass there.
    """
    laws = ProgramLaws(draft, target, divergence)
    accepted = laws.flat(acceptance * draft)
    left_out = float((acceptance * draft)[~laws.known].sum())
    if left_out > 0:
        raise SolverError(solver_name(), Status.INFEASIBLE, f"accepted mass {left_out:.3g} off the target's support")
    residual = cp.Variable(accepted.shape[0], nonneg=True)
    wanted = np.maximum(laws.weights - laws.row_sums @ accepted, 0.0)
    least = laws.divergence(accepted + residual)
    sums: Any = laws.row_sums @ residual == wanted
    status = run_solver(cp.Problem(cp.Minimize(least), [sums]), least)
    return laws.solution(accepted, residual.value, math.nan, status)


class JointProgram:
    """The least divergence over acceptance AND residual: Theorem 5's problem and T1's, over rows T4 (c)'s.

    minimise D(a + r, q)   over 0 <= a <= p, r >= 0, sum a + sum r = 1, with a budget on sum r.

    The three questions share one program, and the number in each is a parameter: asking the same question again
    solves again without building again. That takes 0.3 to 0.7 of the time at 100 tokens (3 ms against 8 in TV) and 0.6
    to 1 from 1000 tokens on, where the solver's own work rules. The parameter does not slow the first build down
    (0.04 s for KL at 10 000 tokens either way), so no size builds with constants.

    Parameters
    ----------
    draft, target
        Laws p and q, `[vocab]` or `[rows, vocab]`. Rows share one budget: the means over rows of D and of sum r
        enter the program.
    divergence
        A name of `solvers.divergences.DIVERGENCES`, "alpha=<order>", or a row of that table.
    weights
        Of the rows in those means, `[rows]`, positive; equal by default. Only their ratios count.

    Raises
    ------
    InputError
        A divergence without a convex program; weights that are not positive.
    """

    def __init__(
        self,
        draft: np.ndarray,
        target: np.ndarray,
        divergence: str | Divergence = "tv",
        *,
        weights: np.ndarray | Sequence[float] | None = None,
    ) -> None:
        self._laws = laws = ProgramLaws(draft, target, divergence, weights)
        self._accepted, self._residual = (cp.Variable(laws.draft.shape[0], nonneg=True) for _ in range(2))
        output = self._accepted + self._residual
        self._divergence = laws.divergence(output)
        self._rejection = cp.sum(self._residual) / laws.weights.shape[0]
        self._feasible: list[Any] = [self._accepted <= laws.draft, laws.row_sums @ output == laws.weights]
        self._questions: dict[str, tuple[cp.Problem, Any, cp.Parameter]] = {}

    def at_rejection(self, rejection: float) -> ProgramSolution:
        """Find the least mean divergence with mean rejection at most `rejection`.

        Parameters
        ----------
        rejection
            The budget R in [0, 1], a probability.

        Raises
        ------
        InputError
            A budget that is negative or not finite.
        SolverError
            The solver did not reach an optimum, or no law within the budget has a finite divergence.
        """
        status, dual = self._ask("rejection", rejection)
        return self._solution(dual, status)

    def at_price(self, price: float) -> ProgramSolution:
        """Find the least mean divergence + price * mean rejection.

        Parameters
        ----------
        price
            Divergence per rejection, finite and not negative.

        Raises
        ------
        InputError
            A price that is negative or not finite.
        SolverError
            The solver did not reach an optimum.
        """
        status, _ = self._ask("price", price)
        return self._solution(float(price), status)

    def at_divergence(self, limit: float) -> ProgramSolution:
        """Find the least mean rejection with mean divergence at most `limit`; the price is 1 / its dual value.

        Parameters
        ----------
        limit
            The most divergence, finite and not negative. Zero leaves no interior: the rejection is right, the status
            may be `Status.INACCURATE` and the price is only near the slope at the lossless end.

        Raises
        ------
        InputError
            A limit that is negative or not finite.
        SolverError
            The solver did not reach an optimum.
        """
        status, dual = self._ask("divergence", limit)
        return self._solution(1.0 / dual if dual > 0 else math.inf, status)

    def _solution(self, price: float, status: Status) -> ProgramSolution:
        return self._laws.solution(self._accepted.value, self._residual.value, price, status)

    def _ask(self, question: str, number: float) -> tuple[Status, float]:
        """Solve one question; the dual value is that of its budget, nan at a price."""
        if not 0 <= number < math.inf:
            raise InputError(f"at_{question}: expected a finite number, not negative; got {number}")
        if question not in self._questions:
            parameter = cp.Parameter(nonneg=True)
            self._questions[question] = (*self._problem(question, parameter), parameter)
        problem, budget, parameter = self._questions[question]
        parameter.value = float(number)
        status = run_solver(problem, self._divergence)
        return status, math.nan if budget is None else float(np.asarray(budget.dual_value).item())

    def _problem(self, question: str, number: cp.Parameter) -> tuple[cp.Problem, Any]:
        if question == "price":
            return cp.Problem(cp.Minimize(self._divergence + number * self._rejection), self._feasible), None
        least, limited = self._divergence, self._rejection
        if question == "divergence":
            least, limited = limited, least
        budget: Any = limited <= number
        return cp.Problem(cp.Minimize(least), [*self._feasible, budget]), budget


class ProgramLaws:
    """Rows of two laws as one vector of the tokens that may have output mass, scaled by the rows' weights."""

    def __init__(
        self,
        draft: np.ndarray,
        target: np.ndarray,
        divergence: str | Divergence,
        weights: np.ndarray | Sequence[float] | None = None,
    ) -> None:
        self.measure = divergence_named(divergence)
        self.program = self.measure.program
        if self.program is None:
            raise InputError(
                f"solver='cvxpy': {self.measure.name} has no convex program for cvxpy; use solver='closed_form'"
            )
        # a divergence that is infinite off the target's support forbids output there
        leaks = math.isfinite(self.measure.slope_at_infinity)
        self.known = (target > 0) | ((draft > 0) & leaks)
        rows = np.atleast_2d(self.known)
        # mean 1: masses of order one whatever the number of rows
        self.weights = _normalised_weights(weights, rows.shape[0])
        self.law = target
        self.draft, self.target = self.flat(draft), self.flat(target)
        row_of = np.nonzero(rows)[0]
        self.row_sums = sparse.csr_array(
            (np.ones(row_of.shape[0]), (row_of, np.arange(row_of.shape[0]))), shape=(rows.shape[0], row_of.shape[0])
        )

    def flat(self, masses: np.ndarray) -> np.ndarray:
        """Weighted masses of the tokens that may have output mass."""
        return (np.atleast_2d(masses) * self.weights[:, None])[np.atleast_2d(self.known)]

    def divergence(self, output: Any) -> Any:
        """Mean divergence over rows as a convex expression of the flat output masses."""
        support = self.target > 0
        assert self.program is not None  # the constructor refuses
        total = self.program(cp, output[support], self.target[support])
        if not support.all():
            total = total + self.measure.slope_at_infinity * cp.sum(output[~support])
        return total / self.weights.shape[0]

    def solution(self, accepted: Any, residual: Any, price: float, status: Status) -> ProgramSolution:
        """What the solver found, in the shape of the laws; the values are those of the masses handed back."""
        masses = [self._restored(values) for values in (accepted, residual)]
        value = np.atleast_1d(self.measure.value(masses[0] + masses[1], self.law))
        rejection = np.atleast_1d(masses[1].sum(axis=-1))
        numbers = [float((self.weights * rows).mean()) for rows in (value, rejection)]
        if not np.isfinite(numbers).all():
            raise SolverError(solver_name(), Status.FAILED, "its masses are not numbers")
        return ProgramSolution(
            value=numbers[0],
            rejection=numbers[1],
            accepted=masses[0],
            residual=masses[1],
            price=price,
            status=status,
            solver=solver_name(),
        )

    def _restored(self, values: Any) -> np.ndarray:
        masses = np.zeros(np.atleast_2d(self.known).shape)
        masses[np.atleast_2d(self.known)] = np.maximum(np.asarray(values, dtype=np.float64), 0.0)
        return (masses / self.weights[:, None]).reshape(self.known.shape)


def _normalised_weights(weights: np.ndarray | Sequence[float] | None, rows: int) -> np.ndarray:
    given = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != (rows,) or not ((given > 0) & np.isfinite(given)).all():
        raise InputError(f"weights: expected {rows} positive numbers, one per row; got {weights}; leave other rows out")
    return given / given.mean()


def solver_name() -> str:
    """Name of the numerical solver, with its version."""
    return f"{SOLVER} {version('clarabel')}"


def run_solver(problem: cp.Problem, divergence: Any) -> Status:
    """Solve with the first settings that reach an optimum to full tolerance, else with the best of them."""
    inaccurate = None
    status, detail = Status.FAILED, ""
    for settings in LINEAR if divergence.is_pwl() else CURVED:
        status, detail = _attempt(problem, settings)
        if status in (Status.OPTIMAL, Status.INFEASIBLE):
            break
        if status is Status.INACCURATE:
            inaccurate = settings
    if status in (Status.OPTIMAL, Status.INACCURATE):
        return status
    if inaccurate is None:
        raise SolverError(solver_name(), status, detail)
    status, _ = _attempt(problem, inaccurate)  # the variables hold what the last attempt left
    return status


def _attempt(problem: cp.Problem, settings: dict[str, float]) -> tuple[Status, str]:
    try:
        # an inaccurate optimum is reported in `status`, and cvxpy evaluates logarithms at rounding-level negatives
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=SOLVER, **settings)
    except cp.SolverError as error:
        return Status.FAILED, str(error)
    return _STATUSES.get(problem.status, Status.FAILED), ""
