"""The front of several drafts as a convex program in cvxpy: the check of `solvers.multi_draft`.

Variables are the output law alone; that some selection reaches it is a linear constraint for every set of tokens, of
which only those that matter are generated. Laws `[vocab]`, numpy, float64.
"""

from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np

from solvers.convex_program import ProgramLaws, run_solver, solver_name
from solvers.divergences import Divergence
from solvers.errors import SolverError, Status
from solvers.multi_draft import chance_gains, ranking

VIOLATION = 1e-9
"""Excess of a set that is worth another round: what the solver's own constraints are met to."""

MOST_ROUNDS = 50


@dataclass(frozen=True, kw_only=True, eq=False)
class DraftsSolution:
    """An optimum as the solver found it.

    Parameters
    ----------
    value
        Divergence of the output law.
    output
        The law, `[vocab]`.
    cuts
        Sets of tokens whose constraint was generated.
    status
        `Status.OPTIMAL` or `Status.INACCURATE`.
    solver
        Name and version.
    """

    value: float
    output: np.ndarray
    cuts: int
    status: Status
    solver: str


def solve_drafts(
    draft: np.ndarray,
    target: np.ndarray,
    *,
    drafts: int,
    rejection: float,
    divergence: str | Divergence,
    replacement: bool = True,
) -> DraftsSolution:
    """Find the least divergence at a probability of emitting none of the drafts.

    minimise D(output, target) over laws with output(S) >= Pr(all drafts in S) - R for every set S.

    The sets most violated by a law are the first tokens in the order of draft / output (docs/theory.md T10); all that
    are violated join the program, until none is.

    Parameters
    ----------
    draft, target
        Laws `[vocab]`.
    drafts, replacement
        How drafts are drawn.
    rejection
        R in [0, 1].
    divergence
        A name of `solvers.divergences.DIVERGENCES`, "alpha=<order>", or a row of that table.

    Raises
    ------
    InputError
        A divergence without a convex program.
    SolverError
        The solver did not reach an optimum, or some set is still violated after `MOST_ROUNDS` rounds.
    """
    laws = ProgramLaws(draft, target, divergence)
    masses = cp.Variable(laws.target.shape[0], nonneg=True)
    least = laws.divergence(masses)
    constraints: list[Any] = [cp.sum(masses) == 1]
    output, status, cuts = target, Status.OPTIMAL, 0
    for _ in range(MOST_ROUNDS):
        sets, needed = _violated(draft, output, drafts, rejection, replacement)
        if not needed.size:
            value = float(laws.measure.value(output, target))
            return DraftsSolution(value=value, output=output, cuts=cuts, status=status, solver=solver_name())
        cuts += needed.size
        constraints.append(sets[:, laws.known].astype(float) @ masses >= needed)
        status = run_solver(cp.Problem(cp.Minimize(least), constraints), least)
        output = np.zeros_like(target)
        output[laws.known] = np.maximum(np.asarray(masses.value), 0.0)
    raise SolverError(solver_name(), Status.FAILED, f"sets are still violated after {MOST_ROUNDS} rounds")


def _violated(
    draft: np.ndarray, output: np.ndarray, drafts: int, rejection: float, replacement: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sets `[n, vocab]` and the output mass `[n]` that each must have and has not."""
    order = ranking(draft, output)
    needed = np.cumsum(chance_gains(draft[order], drafts, replacement=replacement)) - rejection
    short = np.flatnonzero(needed - np.cumsum(output[order]) > VIOLATION)
    return np.argsort(order)[None, :] <= short[:, None], needed[short]
