"""From one rule's knob to another's: equal mean rejection, or equal mean divergence, on the user's own positions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from solvers.arrays import Array, to_numpy
from solvers.divergences import divergence_named
from solvers.errors import InputError
from solvers.printing import lines, number
from tradeoff.outcome.positions import Positions, rejections
from tradeoff.rule import Rule
from tradeoff.rules.info import Family
from tradeoff.rules.registry import as_rule, family_from

SCAN = 9
"""Dials tried when both ends of a knob are on one side: not every rule's rejection falls all the way."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value of a knob and what it reaches.

    Parameters
    ----------
    value
        Of the knob.
    wanted, reached
        Of the quantity that was to be met.
    """

    value: float
    wanted: float
    reached: float

    @property
    def error(self) -> float:
        """Reached minus wanted; a rule that accepts sets of tokens moves in steps and may not do better."""
        return self.reached - self.wanted


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A rule converted to another that does the same on average.

    Parameters
    ----------
    rule
        The converted rule.
    knob
        The name of the parameter that was set.
    match
        What was matched, "rejection" or a divergence.
    setting
        The knob's value, and the mean that was wanted and reached.
    """

    rule: Rule
    knob: str
    match: str
    setting: Setting

    @property
    def value(self) -> float:
        """The knob's value."""
        return self.setting.value

    @property
    def reached(self) -> float:
        """The converted rule's mean."""
        return self.setting.reached

    @property
    def error(self) -> float:
        """The converted rule's mean less the original's."""
        return self.setting.error

    def __repr__(self) -> str:
        return lines(
            f"{type(self).__name__}: {self.knob} {number(self.value)} in {self.rule!r}",
            f"mean {self.match} {number(self.reached)} where {number(self.setting.wanted)} was wanted, "
            f"error {number(self.error)}",
        )


def convert(
    rule: Rule | str,
    *,
    to: str | type,
    at: "Positions | tuple[Array, Array]",
    match: str = "rejection",
    normalise: bool = False,
) -> Conversion:
    """Find the knob of another rule that has the same effect on average.

    mean over positions of R (or D) of `to`(knob) = that mean of `rule`

    Parameters
    ----------
    rule
        Any `Rule`, or its spec.
    to
        Another, by its spec without the knob: "lenience", "cascade:variant=tok3", "decoding_uno:residual=draft". Or
        the class of a rule that tells its `knob`, as every class of `tradeoff.rules` does.
    at
        Positions, or a pair (draft, target) of laws `[..., vocab]`. The result depends on them.
    match
        "rejection": the rules reject equally often, hence are nearly equally fast. A divergence of `solve_pareto`: they
        are equally far from the target.
    normalise
        Accept rows of any positive sum and divide by it.

    Returns
    -------
    Conversion
        The rule, its knob's value and the error that is left.

    Raises
    ------
    InputError
        What is no rule of one token at a time, a rule without a knob, laws that are not laws, a mean the other rule
        cannot reach.
    """
    if not isinstance(at, Positions) and not (isinstance(at, tuple | list) and len(at) == 2):
        raise InputError(f"at: expected Positions or a pair (draft, target) of laws; got {type(at).__name__}")
    positions = at if isinstance(at, Positions) else Positions.of(*at, normalise=normalise)
    if not (isinstance(match, str) and match == "rejection"):
        divergence_named(match)
    rule, family = as_rule(rule, kind="token", taken_by="convert"), family_from(to)
    setting = set_knob(family, lambda each: mean(each, positions, match), mean(rule, positions, match))
    return Conversion(rule=family.at(setting.value), knob=family.knob.name, match=match, setting=setting)


def mean(rule: Rule, positions: Positions, match: str) -> float:
    """Mean rejection, or mean of a divergence, over positions."""
    if match == "rejection":
        return float(rejections(rule, positions).mean())
    values = [to_numpy(chunk.outcome(rule).divergence_in(match)) for chunk in positions.chunks()]
    return float(np.concatenate(values).mean())


def set_knob(
    family: Family,
    measured: Callable[[Rule], float],
    wanted: float,
    *,
    known: tuple[tuple[float, float], ...] = (),
) -> Setting:
    """Solve for the knob at which a measured mean is what is wanted.

    Where the mean jumps over it, as it does for rules that accept sets of tokens, the nearer side of the jump that was
    met on the way is the answer.

    Parameters
    ----------
    family
        The rule without its knob.
    measured
        From a rule to a number.
    wanted
        That number.
    known
        (dial, number) pairs that were measured before: a bracket among them saves time.

    Raises
    ------
    InputError
        A number that no dial tried reaches.
    """
    knob, seen = family.knob, dict(known)

    def excess(dial: float) -> float:
        if dial not in seen:
            seen[dial] = measured(family.at(knob.value(dial)))
        return seen[dial] - wanted

    bracket = _bracket(excess, [0.0, *sorted(dial for dial in seen if 0 < dial < 1), 1.0])
    if bracket is None:
        bracket = _bracket(excess, np.linspace(0.0, 1.0, SCAN).tolist())
    if bracket is None:
        finite = [number for number in seen.values() if np.isfinite(number)]
        raise InputError(
            f"{family.spec}: expected a mean its {knob.name} can reach, from {min(finite, default=np.nan):.4g} to "
            f"{max(finite, default=np.nan):.4g} here; got {wanted:.4g}"
        )
    if excess(bracket[0]) != 0 and excess(bracket[1]) != 0:
        from scipy.optimize import brentq  # scipy loads on use

        # the answer is the best dial seen, which this fills: at a jump there is no root to return
        brentq(excess, *bracket, xtol=1e-11)
    dial = min(seen, key=lambda each: abs(seen[each] - wanted))
    return Setting(value=knob.value(dial), wanted=wanted, reached=seen[dial])


def _bracket(excess: Callable[[float], float], dials: list[float]) -> tuple[float, float] | None:
    """First two neighbours, from the strict end, between which the sign changes."""
    for low, high in zip(dials, dials[1:], strict=False):
        if np.isfinite([excess(low), excess(high)]).all() and excess(low) * excess(high) <= 0:
            return low, high
    return None
