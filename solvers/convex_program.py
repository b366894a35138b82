"""The bias-rejection problems as convex programs in cvxpy: the independent check of every closed form.

Everything is written in masses, a = b p (accepted) and r = R P (residual), which turns the bilinear choice
of (b, P) into a convex program. Single laws `[vocab]`, numpy, float64.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np

from solvers.errors import InputError, SolverError

SOLVER = cp.CLARABEL  # interior point with exponential cones: the most accurate of the free ones on both cones
LINEAR = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
# On 150 pairs with masses down to 1e-12 the defaults miss the least KL by more than 1e-6 (relative) 38 times,
# these settings once; on linear programs the small regularisation costs accuracy (9e-6 against 3e-10).
EXPONENTIAL = {
    "tol_gap_abs": 1e-9,
    "tol_gap_rel": 1e-9,
    "tol_feas": 1e-9,
    "max_iter": 500,
    "static_regularization_constant": 1e-12,
    "min_terminate_step_length": 1e-10,
    "min_switch_step_length": 1e-4,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgramSolution:
    """An optimum as the solver found it.

    Parameters
    ----------
    value
        Optimal divergence.
    accepted, residual
        Masses a and r, `[vocab]`.
    price
        Dual value of the rejection budget, -d value / d rejection; `nan` where there is no budget.
    status
        The solver's own word, "optimal" or "optimal_inaccurate".
    """

    value: float
    accepted: np.ndarray
    residual: np.ndarray
    price: float
    status: str


def solve_residual(draft: np.ndarray, target: np.ndarray, acceptance: np.ndarray) -> ProgramSolution:
    """Find the least TV bias over residual laws for a FIXED acceptance: Theorem 4's problem.

    minimise (1/2) || a + r - q ||_1   over r >= 0 with sum r = 1 - sum a, where a = b p.

    Raises
    ------
    SolverError
        The solver did not reach an optimum.
    """
    accepted = acceptance * draft
    residual = cp.Variable(draft.shape[0], nonneg=True)
    objective = cp.norm1(accepted + residual - target) / 2
    problem = cp.Problem(cp.Minimize(objective), [cp.sum(residual) == 1 - accepted.sum()])
    status = _solve(problem, LINEAR)
    return ProgramSolution(
        value=_number(problem.value),
        accepted=accepted,
        residual=np.maximum(np.asarray(residual.value), 0.0),
        price=float("nan"),
        status=status,
    )


def solve_joint(draft: np.ndarray, target: np.ndarray, rejection: float, divergence: str = "tv") -> ProgramSolution:
    """Find the least divergence over acceptance AND residual at a rejection budget: Theorem 5's problem.

    minimise D(a + r, q)   over 0 <= a <= p, r >= 0, sum a + sum r = 1, sum r <= R.

    Parameters
    ----------
    draft, target
        Laws p and q, `[vocab]`.
    rejection
        The budget R in [0, 1].
    divergence
        "tv" or "kl" (KL(output, target), nats).

    Raises
    ------
    InputError
        Another divergence.
    SolverError
        The solver did not reach an optimum, or no law within the budget has a finite divergence.
    """
    if divergence not in ("tv", "kl"):
        raise InputError(f"solver='cvxpy': expected divergence 'tv' or 'kl'; got {divergence!r}; use 'closed_form'")
    known = (draft > 0) | (target > 0)
    p, q = draft[known], target[known]
    accepted, residual = cp.Variable(p.shape[0], nonneg=True), cp.Variable(p.shape[0], nonneg=True)
    output = accepted + residual
    budget: Any = cp.sum(residual) <= rejection
    constraints = [accepted <= p, cp.sum(output) == 1, budget]
    if divergence == "tv":
        settings, objective = LINEAR, cp.norm1(output - q) / 2
    else:
        support = q > 0
        settings = EXPONENTIAL
        # sum (t log t - t + 1) q equals the KL between laws, and stays non-negative at solver accuracy
        objective = cp.sum(cp.kl_div(output[support], q[support]))
        if not support.all():
            constraints.append(output[~support] == 0)
    problem = cp.Problem(cp.Minimize(objective), constraints)
    status = _solve(problem, settings)
    return ProgramSolution(
        value=_number(problem.value),
        accepted=_scatter(accepted.value, known),
        residual=_scatter(residual.value, known),
        price=_number(budget.dual_value),
        status=status,
    )


def _solve(problem: cp.Problem, settings: dict[str, float]) -> str:
    try:
        with warnings.catch_warnings():
            # an inaccurate optimum is reported in `status` and judged by the certificate, not by a warning
            warnings.filterwarnings("ignore", message="Solution may be inaccurate")
            problem.solve(solver=SOLVER, **settings)
    except cp.SolverError as error:
        raise SolverError(f"{SOLVER} failed ({error}); use solver='closed_form', which has no limit") from error
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise SolverError(
            f"{SOLVER} says {problem.status}: no law within this rejection budget has a finite divergence; "
            "raise the budget above the draft's mass off the target's support, or use divergence='tv'"
        )
    return problem.status


def _number(value: Any) -> float:
    return float(np.asarray(value).item())


def _scatter(values: Any, known: np.ndarray) -> np.ndarray:
    masses = np.zeros(known.shape[0])
    masses[known] = np.maximum(np.asarray(values), 0.0)
    return masses
