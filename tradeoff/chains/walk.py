"""Follow a text through a chain: what a rule in every state costs, step by step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from solvers.chain_program import ChainProblem
from tradeoff.outcome.token import Outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """KL of a text by the chain rule and its expected rejections, along the prefixes it really has.

    Parameters
    ----------
    step_kl, step_rejections
        What every step adds, `[T]`; nats. Infinite where a text that occurs leaves the target's support.
    state_laws
        Law of the state before each step and after the last, `[T + 1, states]`.
    """

    step_kl: np.ndarray
    step_rejections: np.ndarray
    state_laws: np.ndarray


def walked(problem: ChainProblem, outcome_at: Callable[[int], Outcome]) -> Walk:
    """Follow the output law of `outcome_at(step)`, rules in every state `[states, tokens]`, from the prompt on."""
    kl, rejections, laws = [], [], [problem.initial]
    for step in range(problem.horizon):
        outcome, law = outcome_at(step), laws[-1]
        occurs = law > 0  # 0 times infinity is a text that does not occur
        kl.append(float(law[occurs] @ outcome.kl[occurs]))
        rejections.append(float(law @ outcome.rejection))
        laws.append(problem.arrived(law[:, None] * outcome.output_law))
    return Walk(step_kl=np.array(kl), step_rejections=np.array(rejections), state_laws=np.stack(laws))
