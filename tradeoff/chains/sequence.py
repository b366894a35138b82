"""The front of whole texts: least KL of the text at every number of expected rejections, with its policies.

Position by position, the best rule at a price is a ratio clip against the target (`solve_pareto`). Over a text, what is
emitted now decides what will be rejected later, and the best policy looks ahead: its rule in every state is a ratio
clip against the target tilted by the cost of what follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from solvers.arrays import ROUNDING, normalised, positive_part, safe_divide
from solvers.chain_program import LARGEST_PRICE, ChainProblem, rule_at, solve_chain
from solvers.errors import InputError
from solvers.printing import counted, html_table, lines, number, svg_curve
from solvers.roots import monotone_root
from tradeoff.chains.chain import MarkovChain, paired
from tradeoff.chains.rejections import rejection_lower_bound
from tradeoff.chains.sequence_alternatives import SequenceAlternatives, sequence_alternatives_at
from tradeoff.chains.sequence_point import SequencePoint
from tradeoff.chains.walk import walked
from tradeoff.outcome.token import outcome_of
from tradeoff.problem import checked_numbers

if TYPE_CHECKING:
    from solvers.convex_chain_program import ChainProgram, ChainProgramSolution

SequenceSolver = Literal["dynamic_programme", "cvxpy"]

PRICES = tuple(np.linspace(0.0, 8.0, 17).tolist())
"""The grid of a front whose prices were not chosen: lossless to ratios that differ e^8 = 3000 times in a state."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceFront:
    """Least KL of the text as a function of its expected rejections.

    Parameters
    ----------
    draft, target
        The chains.
    horizon
        Tokens of the text.
    solver
        As given to `solve_sequence_pareto`.
    points
        The solved grid, one point to a price, in the order of the prices.
    """

    draft: MarkovChain
    target: MarkovChain
    horizon: int
    solver: SequenceSolver
    points: tuple[SequencePoint, ...]
    _problem: ChainProblem
    _program: "ChainProgram | None"

    @property
    def price(self) -> np.ndarray:
        """Nats per expected rejection, `[points]`."""
        return np.array([point.price for point in self.points])

    @property
    def divergence(self) -> np.ndarray:
        """KL of the text, nats per text, `[points]`."""
        return np.array([point.divergence for point in self.points])

    @property
    def rejection(self) -> np.ndarray:
        """Expected number of rejections per text, `[points]`."""
        return np.array([point.rejection for point in self.points])

    @cached_property
    def lossless_rejection(self) -> float:
        """Expected number of rejections per text of lossless decoding, the right end of the front (Theorem 1)."""
        return rejection_lower_bound(self.draft, self.target, horizon=self.horizon)

    def at(self, *, rejection: Any = None, price: Any = None) -> SequencePoint:
        """Solve one point of the front, given one of two numbers: exact, not interpolated.

        Parameters
        ----------
        rejection
            "What is the least KL of the text at this expected number of rejections per text?" At least 0; from
            `lossless_rejection` on the answer is lossless decoding.
        price
            "What if a rejection costs this many nats?" At least 0, which is lossless; prices above
            `solvers.chain_program.LARGEST_PRICE`, infinity among them, count as that price, which leads to the least
            expected rejections of finite KL.

        Raises
        ------
        InputError
            Not exactly one of the two is given, it is out of its range, or no policy of finite KL rejects so little.
        SolverError
            `solver="cvxpy"` did not converge.

        Notes
        -----
        Rejections are a continuous function of the price, since the best text law at a price is unique: every number
        of rejections has a price, and no mixture of policies is ever needed. Where the front has a kink, a range of
        prices leads to the same policy, and one of them is returned. docs/theory.md T9.
        """
        if (rejection is None) == (price is None):
            raise InputError("at: expected exactly one of rejection= and price=")
        if price is not None:
            return _at_price(self._problem, self._program, _number(price, "price"))
        return self._at_rejection(_number(rejection, "rejection"))

    def alternatives(self, *, rejection: float) -> SequenceAlternatives:
        """What rules that do not look ahead give away at the same expected rejections.

        Parameters
        ----------
        rejection
            Expected number of rejections per text, as in `at`.

        Raises
        ------
        InputError, SolverError
            As in `at`.
        """
        point = self.at(rejection=rejection)
        return sequence_alternatives_at(self._problem, point.rejection, point.divergence)

    def to_dict(self) -> dict[str, list]:
        """The grid as columns, one entry per point: `pandas.DataFrame(front.to_dict())`."""
        return {name: getattr(self, name).tolist() for name in ("rejection", "divergence", "price")}

    def __repr__(self) -> str:
        chain = f"{counted(self.target.states, 'state')}, {counted(self.horizon, 'token')}"
        least, most = self.points[int(np.argmin(self.rejection))], self.points[int(np.argmax(self.rejection))]
        return lines(
            f"{type(self).__name__} ({chain}): least KL of the text at every expected number of rejections",
            f"from {number(least.divergence)} nats at {number(least.rejection)} rejections to "
            f"{number(most.divergence)} at {number(most.rejection)}; lossless at {number(self.lossless_rejection)}",
            f"{counted(len(self.points), 'point')} by {self.solver}; .at(rejection= or price=), .alternatives("
            "rejection=), .to_dict()",
        )

    def _repr_html_(self) -> str:
        rows = [[number(each) for each in (p.rejection, p.divergence, p.price)] for p in self.points]
        table = html_table(["rejections", "KL of the text, nats", "price"], rows, caption=repr(self).splitlines()[0])
        return svg_curve(self.rejection, self.divergence) + table

    def _at_rejection(self, wanted: float) -> SequencePoint:
        if wanted >= self.lossless_rejection:
            return _at_price(self._problem, self._program, 0.0)
        if self._program is not None:
            return _convex_point(self._problem, self._program.at_rejections(wanted))
        cheapest = _at_price(self._problem, None, LARGEST_PRICE)
        if wanted < cheapest.rejection - ROUNDING:
            raise InputError(
                f"rejection: expected at least {cheapest.rejection:.6g}, the fewest that keep the text on the "
                f"target's support; got {wanted:.6g}"
            )
        if wanted <= cheapest.rejection + ROUNDING:
            return cheapest

        def saved(price: np.ndarray) -> np.ndarray:
            return np.asarray(wanted - _at_price(self._problem, None, float(price)).rejection)

        start = np.asarray(1.0)
        price = monotone_root(
            saved,
            low=np.asarray(0.0),
            high=np.asarray(LARGEST_PRICE),
            known=(start, saved(start)),
            slope=self.lossless_rejection / 4,
            step=1e-9,
        ).value
        return _at_price(self._problem, None, float(price))


def solve_sequence_pareto(
    draft: MarkovChain,
    target: MarkovChain,
    horizon: int | None = None,
    price: Any = None,
    *,
    solver: SequenceSolver = "dynamic_programme",
) -> SequenceFront:
    """Find the least KL of the whole text at every number of expected rejections, over policies that may look ahead.

    minimise KL(text, target's text) + price * expected rejections, exactly, by a dynamic programme whose steps are
    ratio clips against a tilted target. A policy may depend on the whole text so far; the best one depends on the state
    and the step. As in the paper one drafted token is judged per step, and there are no bonus tokens.

    Parameters
    ----------
    draft, target
        Chains of one order over the same tokens, with the same law of the prompt.
    horizon
        Tokens T of the text; by default as many as the chains have laws for.
    price
        The grid: one price or several, nats per rejection, as in `SequenceFront.at`; by default 17 from 0 to 8.
    solver
        "dynamic_programme" (exact; seconds for 1000 states, 1000 tokens, 100 steps), or "cvxpy" (one convex program
        over occupation masses, for small chains).

    Returns
    -------
    SequenceFront
        Query it with `.at(rejection=)` or `.at(price=)`.

    Raises
    ------
    InputError
        Arguments that cannot be used.
    SolverError
        `solver="cvxpy"` did not converge.

    Notes
    -----
    The problem Yin et al., arXiv 2411.00841, leave open in Remark 6. docs/theory.md T9.
    """
    pair = paired(draft, target, horizon)
    if solver not in ("dynamic_programme", "cvxpy"):
        raise InputError(f"solver: expected 'dynamic_programme' or 'cvxpy'; got {solver!r}")
    wanted = PRICES if price is None else price
    prices = list(wanted) if isinstance(wanted, Sequence) or getattr(wanted, "ndim", 0) else [wanted]
    if not prices:
        raise InputError("price: expected at least one value; got none; leave it out for the whole front")
    prices = [_number(each, "price") for each in prices]
    problem = ChainProblem(
        draft=draft.transitions,
        target=target.transitions,
        successors=target.successors,
        initial=pair.initial,
        horizon=pair.horizon,
    )
    program = None
    if solver == "cvxpy":
        from solvers.convex_chain_program import ChainProgram  # cvxpy loads on use

        program = ChainProgram(problem)
    return SequenceFront(
        draft=draft,
        target=target,
        horizon=pair.horizon,
        solver=solver,
        points=tuple(_at_price(problem, program, each) for each in prices),
        _problem=problem,
        _program=program,
    )


def _number(value: Any, name: str) -> float:
    return float(checked_numbers(value, name, np.zeros(())))


def _at_price(problem: ChainProblem, program: "ChainProgram | None", price: float) -> SequencePoint:
    price = min(price, LARGEST_PRICE)
    if program is not None:
        return _convex_point(problem, program.at_price(price))
    solution = solve_chain(problem, price)

    def rule(step: int) -> tuple[np.ndarray, np.ndarray]:
        clip = rule_at(problem, solution, step)
        return clip.acceptance, clip.residual

    return SequencePoint(
        problem=problem,
        price=price,
        step_divergence=np.sum(solution.state_laws[:-1] * solution.kl, axis=-1),
        step_rejection=np.sum(solution.state_laws[:-1] * solution.rejection, axis=-1),
        state_laws=solution.state_laws,
        values=solution.values,
        floor=solution.floor,
        solved_by="dynamic programme",
        _rule=rule,
    )


def _convex_point(problem: ChainProblem, solution: "ChainProgramSolution") -> SequencePoint:
    rule = partial(_rule_of_masses, problem, solution.masses)
    walk = walked(problem, lambda step: outcome_of(*problem.laws(step), *rule(step), problem.laws(step)[1]))
    price = min(max(solution.price, 0.0), LARGEST_PRICE)
    # the multipliers only have to prove the answer
    multipliers = solve_chain(problem, price)
    return SequencePoint(
        problem=problem,
        price=price,
        step_divergence=walk.step_kl,
        step_rejection=walk.step_rejections,
        state_laws=walk.state_laws,
        values=multipliers.values,
        floor=multipliers.floor,
        solved_by=f"{solution.solver}: {solution.status.meaning}",
        _rule=rule,
    )


def _rule_of_masses(problem: ChainProblem, masses: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Acceptance and residual of a step from occupation masses; lossless in a state that no text gets to."""
    draft, target = problem.laws(step)
    law = normalised(masses[step], target)
    acceptance = safe_divide(np.minimum(law, draft), draft, 1.0)
    return acceptance, normalised(positive_part(law - draft), target)
