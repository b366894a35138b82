"""What rules that do not look ahead give away over a text, at the same expected rejections as the best policy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from solvers.arrays import ROUNDING
from solvers.chain_program import LARGEST_PRICE, ChainProblem
from solvers.printing import lines, number
from solvers.roots import monotone_root
from tradeoff.chains.walk import Walk, walked
from tradeoff.outcome.token import apply_rule
from tradeoff.rule import Rule
from tradeoff.rules.optimal import CommonPrice, RatioClip
from tradeoff.rules.yin import DecodingOPT

RULES: dict[str, tuple[Callable[[float], Rule], float, float]] = {
    "common_price": (lambda knob: CommonPrice(price=knob), 0.01, LARGEST_PRICE),
    "common_ceiling": (lambda knob: RatioClip(ceiling=math.exp(knob)), 0.01, 700.0),
    "epsilon": (lambda knob: DecodingOPT(epsilon=knob), 0.001, 1.0),
}
"""Each rule as a function of its knob, 0 being lossless, with the ends of the knobs that are tried."""

KNOBS = 33
"""Knobs tried for every rule. A rule that rejects less now may be led to where it rejects more, so that the rejections
over a text need not fall as the knob rises, and bisection from the ends of the range could miss a knob."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceAlternatives:
    """KL of the text under four ways to spend the same expected rejections; each visits its own prefixes.

    Parameters
    ----------
    rejection
        Expected number of rejections per text that each of them spends.
    optimum
        KL of the best policy, nats; the others follow one rule, with one knob, at every step.
    common_price
        `CommonPrice`: the best rule at every step, were it the last.
    common_ceiling
        `RatioClip(ceiling=)`.
    epsilon
        `DecodingOPT`, the paper's. Infinite where it leaves the target's support.
    rules
        The rules with the knobs found, by name. Rejections need not fall as a knob rises; where several knobs fit, this
        is the smallest. A rule that cannot reject as little has the knob that comes nearest, and its KL counts as
        infinite.
    """

    rejection: float
    optimum: float
    common_price: float
    common_ceiling: float
    epsilon: float
    rules: dict[str, Rule]

    @property
    def gain(self) -> dict[str, float]:
        """How many times the optimum each of the others gives away; 1 where both are lossless."""
        values = {name: getattr(self, name) for name in self.rules}
        if self.optimum <= ROUNDING:
            return {name: 1.0 if value <= ROUNDING else math.inf for name, value in values.items()}
        return {name: value / self.optimum for name, value in values.items()}

    def to_dict(self) -> dict[str, list]:
        """One entry per way to spend the rejections, as columns: `pandas.DataFrame(ways.to_dict())`."""
        gain = {"optimum": 1.0} | self.gain
        divergence = [getattr(self, way) for way in gain]
        return {"way": list(gain), "divergence": divergence, "gain": list(gain.values())}

    def __repr__(self) -> str:
        others = (f"{way} {number(getattr(self, way))} ({number(gain)} times)" for way, gain in self.gain.items())
        return lines(
            f"{type(self).__name__} at {number(self.rejection)} expected rejections, by KL of the text in nats:",
            f"{number(self.optimum)} (the optimum), {', '.join(others)}",
        )


def sequence_alternatives_at(problem: ChainProblem, rejections: float, optimum: float) -> SequenceAlternatives:
    """Find every rule's knob at which a text has so many expected rejections; `optimum` is the best policy's KL."""
    found = {name: _at_rejections(problem, *each, rejections) for name, each in RULES.items()}
    return SequenceAlternatives(
        rejection=rejections,
        optimum=optimum,
        rules={name: rule for name, (rule, _) in found.items()},
        **{name: kl for name, (_, kl) in found.items()},
    )


def _at_rejections(
    problem: ChainProblem, make: Callable[[float], Rule], first: float, last: float, rejections: float
) -> tuple[Rule, float]:
    """The rule with the smallest knob that leads to so many rejections, and the KL of its text."""

    def saved(knob: float | np.ndarray) -> np.ndarray:
        return np.asarray(rejections - _followed(problem, make(float(knob))).step_rejections.sum())

    knobs = np.concatenate([[0.0], np.geomspace(first, last, KNOBS)])
    savings = np.array([saved(knob) for knob in knobs])
    enough = np.flatnonzero(savings >= -ROUNDING)
    if enough.size == 0:
        return make(float(knobs[np.argmax(savings)])), math.inf
    end = int(enough[0])
    knob = knobs[end]
    if savings[end] > ROUNDING and end > 0:
        (low, high), (before, after) = knobs[end - 1 : end + 1], savings[end - 1 : end + 1]
        knob = monotone_root(
            saved,
            low=low,
            high=high,
            known=(low, before),
            slope=(after - before) / (high - low),
            step=1e-10 * high,
        ).value
    rule = make(float(knob))
    return rule, float(_followed(problem, rule).step_kl.sum())


def _followed(problem: ChainProblem, rule: Rule) -> Walk:
    if problem.draft.ndim == problem.target.ndim == 2:
        outcome = apply_rule(rule, *problem.laws(0))
        return walked(problem, lambda step: outcome)
    return walked(problem, lambda step: apply_rule(rule, *problem.laws(step)))
