"""The cheapest prices along a drafted block, from positions of one's own, when speed is counted in target calls."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from solvers.arrays import Array, mass, normalised, positive_part, to_numpy
from solvers.call_program import CallPrices, call_prices
from solvers.closed_form import ratio_clip_at_price
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError
from solvers.printing import lines, number
from tradeoff.problem import validated
from tradeoff.rules.parts import at_least
from tradeoff.rules.places import PricedPlaces

DEAREST = 600.0
"""Nats per call; beyond, a price changes the laws by less than float64 tells."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CallSchedule:
    """Prices along the block that minimise nats per token + nats_per_call * target calls per token.

    Parameters
    ----------
    nats_per_call
        What a target call may cost.
    solution
        The prices and what they lead to, on positions drawn independently from those given.
    """

    nats_per_call: float
    solution: CallPrices

    @property
    def prices(self) -> tuple[float, ...]:
        """Nats per rejection at places 1 .. k."""
        return tuple(self.solution.prices.tolist())

    @property
    def rule(self) -> PricedPlaces:
        """The rule that judges by these prices."""
        return PricedPlaces(prices=self.prices)

    @property
    def nats_per_token(self) -> float:
        """Mean KL given away per emitted token."""
        return self.solution.nats_per_token

    @property
    def tokens_per_call(self) -> float:
        """Mean tokens of a round, the bonus token included."""
        return self.solution.tokens_per_call

    @property
    def gap(self) -> float:
        """Nats per token that any schedule could still save, at most: 0 but for rounding."""
        return self.solution.cost - self.solution.bound

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "nats_per_call": self.nats_per_call,
            "prices": list(self.prices),
            "nats_per_token": self.nats_per_token,
            "tokens_per_call": self.tokens_per_call,
            "cost": self.solution.cost,
            "bound": self.solution.bound,
        }

    def __repr__(self) -> str:
        return lines(
            f"CallSchedule: {number(self.tokens_per_call)} tokens a call at {number(self.nats_per_token)} nats a token",
            f"prices {', '.join(map(number, self.prices))} nats a rejection; a call is worth {self.nats_per_call:g}",
            f"proved to within {number(self.gap)} nats a token; .rule to decode with it, .to_dict()",
        )


def call_schedule(
    draft: Array, target: Array, *, draft_length: int, nats_per_call: float, weights: Any = None
) -> CallSchedule:
    """Find the cheapest price for every place of a block, from calibration positions (docs/theory.md T14).

    Parameters
    ----------
    draft, target
        Laws at positions, `[n, vocab]`; every place of a block is taken to meet them alike, independently.
    draft_length
        k >= 1.
    nats_per_call
        KL that one target call less may cost, >= 0; 0 is lossless.
    weights
        Of the positions, `[n]`, not negative; None for equal ones.

    Raises
    ------
    InputError
        Laws or numbers of another form.
    """
    problem = validated(draft, target)
    p, q = to_numpy(problem.draft), to_numpy(problem.target)
    if p.ndim != 2:
        raise InputError(f"laws: expected [positions, vocab]; got shape {p.shape}; stack the positions on one axis")
    if isinstance(draft_length, bool) or not isinstance(draft_length, int) or draft_length < 1:
        raise InputError(f"draft_length: expected a whole number >= 1; got {draft_length!r}")
    at_least("nats_per_call", nats_per_call, 0.0, "0 is lossless")
    if nats_per_call > DEAREST:
        raise InputError(f"nats_per_call: expected at most {DEAREST:g}; got {nats_per_call}; it changes nothing there")
    share = _shares(weights, p.shape[0])

    @cache
    def place(price: float) -> tuple[float, float]:
        clip = ratio_clip_at_price(p, q, price)
        law = np.clip(p, clip.floor[:, None] * q, clip.ceiling[:, None] * q)
        law = normalised(law, q)
        rejection = mass(positive_part(p - law))
        return float(share @ DIVERGENCES["kl"].value(law, q)), float(share @ rejection)

    solution = call_prices(lambda index, price: place(price), draft_length, float(nats_per_call))
    return CallSchedule(nats_per_call=float(nats_per_call), solution=solution)


def _shares(weights: Any, count: int) -> np.ndarray:
    if weights is None:
        return np.full(count, 1.0 / count)
    given = np.asarray(to_numpy(weights) if hasattr(weights, "shape") else weights, dtype=np.float64)
    if given.shape != (count,) or not np.all(np.isfinite(given) & (given >= 0)) or not given.sum() > 0:
        raise InputError(
            f"weights: expected {count} finite numbers >= 0, not all 0, one per position; got shape {given.shape}"
        )
    return given / given.sum()
