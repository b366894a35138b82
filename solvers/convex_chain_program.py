"""The sequence-level problem as one convex program in cvxpy: the independent check of the dynamic programme.

Its unknowns are occupation masses m_t(s, x): the probability that step t finds state s and emits token x. With
n_t(s) = sum_x m_t(s, x), the KL of the text sum_t m log(m / (n q)), jointly convex, and the expected rejections
sum_t [n p - m]_+ are convex in m, and the flow from step to step is linear (docs/theory.md T9). Nothing here looks
ahead, tilts or clips.
"""

import math
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from scipy import sparse

from solvers.arrays import mass, positive_part
from solvers.chain_program import ChainProblem
from solvers.convex_program import run_solver, solver_name
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError, SolverError, Status


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainProgramSolution:
    """An optimum as the solver found it.

    Parameters
    ----------
    kl, rejections
        KL of the text, nats, and its expected rejections, both of the masses handed back.
    masses
        m_t(s, x), `[horizon, states, tokens]`.
    price
        The price that was given, or the dual value of the budget.
    status
        `Status.OPTIMAL` or `Status.INACCURATE`.
    solver
        Name and version.
    """

    kl: float
    rejections: float
    masses: np.ndarray
    price: float
    status: Status
    solver: str


class ChainProgram:
    """Least KL of the text against its expected rejections, over occupation masses.

    The two questions share one program, and the number in each is a parameter, as in `JointProgram`.

    Parameters
    ----------
    problem
        The chain; horizon * states * tokens up to some ten thousand.
    """

    def __init__(self, problem: ChainProblem) -> None:
        self.problem = problem
        self._steps: list[_Step] = []
        reached: np.ndarray = problem.initial > 0
        before: Any = problem.initial[reached]
        for step in range(problem.horizon):
            self._steps.append(_Step(problem, *problem.laws(step), reached, before))
            reached, before = self._steps[-1].reached, self._steps[-1].after
        self._kl = sum(each.kl for each in self._steps)
        self._rejections = sum(each.rejections for each in self._steps)
        self._number = cp.Parameter(nonneg=True)
        flow = [each.flow for each in self._steps]
        self._budget: Any = self._rejections <= self._number
        self._at_price = cp.Problem(cp.Minimize(self._kl + self._number * self._rejections), flow)
        self._at_rejections = cp.Problem(cp.Minimize(self._kl), [*flow, self._budget])

    def at_price(self, price: float) -> ChainProgramSolution:
        """Find the least KL + price * expected rejections.

        Parameters
        ----------
        price
            Nats per rejection, finite and not negative.

        Raises
        ------
        InputError
            A price that is negative or not finite.
        SolverError
            The solver did not reach an optimum.
        """
        status = self._solved(self._at_price, price, "price")
        return self._solution(float(price), status)

    def at_rejections(self, rejections: float) -> ChainProgramSolution:
        """Find the least KL with at most so many expected rejections; the price is the dual value of that budget.

        Parameters
        ----------
        rejections
            The budget, at least 0.

        Raises
        ------
        InputError
            A budget that is negative or not finite.
        SolverError
            The solver did not reach an optimum, or no policy within the budget has a finite KL.
        """
        status = self._solved(self._at_rejections, rejections, "rejections")
        return self._solution(float(np.asarray(self._budget.dual_value).item()), status)

    def _solved(self, program: cp.Problem, number: float, question: str) -> Status:
        if not 0 <= number < math.inf:
            raise InputError(f"at_{question}: expected a finite number, not negative; got {number}")
        self._number.value = float(number)
        return run_solver(program, self._kl)

    def _solution(self, price: float, status: Status) -> ChainProgramSolution:
        masses = np.stack([each.restored() for each in self._steps])
        laws = [self.problem.laws(step) for step in range(self.problem.horizon)]
        occupied = mass(masses, keepdims=True)
        kl = sum(
            DIVERGENCES["kl"].value(each, here * law[1]).sum()
            for each, here, law in zip(masses, occupied, laws, strict=True)
        )
        rejections = sum(
            positive_part(here * law[0] - each).sum() for each, here, law in zip(masses, occupied, laws, strict=True)
        )
        if not math.isfinite(kl + rejections):
            raise SolverError(solver_name(), Status.FAILED, "its masses are not numbers")
        return ChainProgramSolution(
            kl=float(kl),
            rejections=float(rejections),
            masses=masses,
            price=price,
            status=status,
            solver=solver_name(),
        )


class _Step:
    """One step of the program: variables only where the target has mass and a text can get to."""

    def __init__(
        self, problem: ChainProblem, draft: np.ndarray, target: np.ndarray, reached: np.ndarray, before: Any
    ) -> None:
        self.known = (target > 0) & reached[:, None]
        p, q = draft[self.known], target[self.known]
        self.masses = cp.Variable(q.shape[0], nonneg=True)
        row = (np.cumsum(reached) - 1)[np.nonzero(self.known)[0]]
        next_state = problem.successors[self.known]
        self.reached = np.bincount(next_state, minlength=reached.shape[0]) > 0
        sums = _indicator(row, int(reached.sum()))
        occupied = sums.T @ before
        self.flow: Any = sums @ self.masses == before
        self.after = _indicator((np.cumsum(self.reached) - 1)[next_state], int(self.reached.sum())) @ self.masses
        # entries of a cone of like size, as in solvers.divergences: q is split evenly between the two
        scale = np.sqrt(q)
        self.kl = cp.sum(
            cp.multiply(scale, cp.kl_div(cp.multiply(1 / scale, self.masses), cp.multiply(scale, occupied)))
        )
        off_support = mass(np.where(target > 0, 0.0, draft))[reached]
        self.rejections = cp.sum(cp.pos(cp.multiply(p, occupied) - self.masses)) + off_support @ before

    def restored(self) -> np.ndarray:
        """What the solver found, `[states, tokens]`."""
        masses = np.zeros(self.known.shape)
        masses[self.known] = np.maximum(np.asarray(self.masses.value, dtype=np.float64), 0.0)
        return masses


def _indicator(group: np.ndarray, groups: int) -> sparse.csr_array:
    """Matrix that sums entries by group, `[groups, entries]`."""
    return sparse.csr_array(
        (np.ones(group.shape[0]), (group, np.arange(group.shape[0]))), shape=(groups, group.shape[0])
    )
