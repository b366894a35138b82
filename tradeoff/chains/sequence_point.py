"""One point of the front of whole texts: the best policy, what it costs step by step, and its proof."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from solvers.certificate import Certificate
from solvers.chain_program import ChainProblem, bellman_bound
from solvers.errors import InputError
from solvers.printing import counted, lines, number
from tradeoff.chains.chain import MarkovChain
from tradeoff.chains.walk import walked
from tradeoff.outcome.token import Outcome, outcome_of


@dataclass(frozen=True, kw_only=True, eq=False)
class SequencePoint:
    """The best policy at one point of the front of whole texts.

    minimise KL(text, target's text) + price * expected rejections over all policies.

    Parameters
    ----------
    problem
        The two chains as arrays.
    price
        Nats per expected rejection.
    step_divergence, step_rejection
        What every step adds to the divergence of the text (KL, nats) and to its expected rejections, `[T]`.
    state_laws
        Law of the state before each step and after the last under this policy, `[T + 1, states]`.
    values
        Least KL + price * rejections of the rest of the text, by step and state, `[T + 1, states]`.
    floor
        Least ratio c of output to tilted target, by step and state, `[T, states]`: multipliers that prove the point.
    solved_by
        "dynamic programme", or the numerical solver, its version and how it ended.
    """

    problem: ChainProblem
    price: float
    step_divergence: np.ndarray
    step_rejection: np.ndarray
    state_laws: np.ndarray
    values: np.ndarray
    floor: np.ndarray
    solved_by: str
    _rule: "Callable[[int], tuple[np.ndarray, np.ndarray]]"

    @property
    def divergence(self) -> float:
        """KL(text, target's text), nats per text, given the prompt."""
        return float(self.step_divergence.sum())

    @property
    def rejection(self) -> float:
        """Expected number of rejections per text: a number, not a probability."""
        return float(self.step_rejection.sum())

    @property
    def objective(self) -> float:
        """Divergence + price * rejection, nats per text."""
        return self.divergence + self.price * self.rejection

    def to_dict(self) -> dict[str, list]:
        """One entry per step, as columns: `pandas.DataFrame(point.to_dict())`."""
        steps = list(range(self.problem.horizon))
        return {
            "step": steps,
            "rejection": self.step_rejection.tolist(),
            "divergence": self.step_divergence.tolist(),
        }

    def __repr__(self) -> str:
        return lines(
            f"{type(self).__name__} ({counted(self.problem.horizon, 'token')}): KL(text, target's text) "
            f"{number(self.divergence)} nats at {number(self.rejection)} expected rejections",
            f"price {number(self.price)} nats per rejection; solved by {self.solved_by}; .policy(step), .certificate",
        )

    def policy(self, step: int) -> Outcome:
        """The rule of a step in every state, with its acceptance, residual and output law `[states, tokens]`.

        It is made when asked for, from row quantities: a policy of T laws is never held in memory.

        Raises
        ------
        InputError
            A step outside 0 .. T - 1.
        """
        if not 0 <= step < self.problem.horizon:
            raise InputError(f"step: expected 0 to {self.problem.horizon - 1}; got {step}")
        draft, target = self.problem.laws(step)
        return outcome_of(draft, target, *self._rule(step), target)

    def output_chain(self) -> MarkovChain:
        """The law of the text that the policy writes: a chain that changes with time, `[T, states, tokens]`."""
        laws = np.stack([self.policy(step).output_law for step in range(self.problem.horizon)])
        return MarkovChain(transitions=laws, initial=self.problem.initial)

    @cached_property
    def certificate(self) -> Certificate:
        """Proof that no policy with as few expected rejections has less KL than `bound`, looking ahead or not.

        The value is that of the rules `policy` hands out, followed from the prompt on; the bound comes from a Bellman
        inequality in which nothing is solved for (`solvers.chain_program.bellman_bound`).
        """
        broken = []

        def checked(step: int) -> Outcome:  # one step's laws at a time
            outcome = self.policy(step)
            broken.append(_broken(outcome.acceptance, outcome.residual))
            return outcome

        walk = walked(self.problem, checked)
        rejections = float(walk.step_rejections.sum())
        bound = 0.0  # what no price proves
        if 0 <= self.price < np.inf:
            bound = bellman_bound(self.problem, self.floor, self.price) - self.price * rejections
        return Certificate(
            value=np.asarray(walk.step_kl.sum()),
            bound=np.asarray(max(bound, 0.0)),
            price=np.asarray(self.price),
            infeasibility=np.asarray(max(broken)),
            unique=np.asarray(True),
        )


def _broken(acceptance: np.ndarray, residual: Any) -> float:
    """By how much a rule is none; infinite where it is not even numbers."""
    if not (np.isfinite(acceptance).all() and np.isfinite(residual).all()):
        return float("inf")
    worst = max(-acceptance.min(), acceptance.max() - 1.0, -residual.min(), np.abs(residual.sum(axis=-1) - 1.0).max())
    return max(float(worst), 0.0)
