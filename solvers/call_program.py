"""The price of a rejection at every place of a drafted block, when speed is counted in target calls (T14).

Letters, as in docs/theory.md T14: k draft length, D_i(l) and R_i(l) mean KL and mean rejection at place i under price
l, mu nats per target call, g least nats + mu * calls per token, l_i the price at place i.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Place = Callable[[int, float], tuple[float, float]]
"""`(place from 0, price) -> (mean KL, mean rejection)` of the law that minimises KL + price * rejection there."""

MOST_ROUNDS = 1000
"""Policy iteration settles in a handful of steps. Should it not, the bound says what is missing."""

_SETTLED = 1e-15


@dataclass(frozen=True, kw_only=True, eq=False)
class CallPrices:
    """Prices along the block, and what they lead to.

    Parameters
    ----------
    prices
        l_1 .. l_k, nats per rejection, `[k]`.
    kl, rejection
        Mean KL and rejection at each place, if it is reached, `[k]`.
    nats_per_token, tokens_per_call
        Over whole rounds, bonus tokens included.
    cost
        nats_per_token + mu / tokens_per_call.
    bound
        A number no schedule, and no rule that sees the laws of the place alone, costs less than.
    """

    prices: np.ndarray
    kl: np.ndarray
    rejection: np.ndarray
    nats_per_token: float
    tokens_per_call: float
    cost: float
    bound: float


def call_prices(place: Place, draft_length: int, nats_per_call: float) -> CallPrices:
    """Minimise nats per token + nats per call * calls per token over schedules of prices, by policy iteration.

    Parameters
    ----------
    place
        Mean KL and rejection of a place at a price; asked at finite prices >= 0.
    draft_length
        k >= 0; rounds of a full block and its bonus token.
    nats_per_call
        mu, finite and not negative.
    """
    best, cost = measured(place, np.zeros(draft_length), nats_per_call), np.inf
    for _ in range(MOST_ROUNDS):
        if not best.cost < cost * (1.0 - _SETTLED):
            break
        cost = best.cost
        step = measured(place, improved(place, draft_length, cost)[0], nats_per_call)
        best = step if step.cost < best.cost else best
    return best


def improved(place: Place, draft_length: int, cost: float) -> tuple[np.ndarray, float]:
    """Best prices where a token is worth `cost`: l_k = g, l_i = g - D_{i+1} + (1 - R_{i+1}) l_{i+1}.

    Returns
    -------
    prices, worth
        l_1 .. l_k `[k]`, and l_0: the most of g * tokens - nats over all rounds.
    """
    prices, price = np.zeros(draft_length), cost
    for index in reversed(range(draft_length)):
        prices[index] = price
        kl, rejection = place(index, price)
        price = cost - kl + (1.0 - rejection) * price
    return prices, price


def measured(place: Place, prices: np.ndarray, nats_per_call: float) -> CallPrices:
    """What any prices `[k]` lead to, and the bound that they prove (T14, c)."""
    kl, rejection = np.zeros((2, len(prices)))
    for index, price in enumerate(prices):
        kl[index], rejection[index] = place(index, float(price))
    reached = np.append(1.0, np.cumprod(1.0 - rejection))
    tokens, nats = float(reached.sum()), float(reached[:-1] @ kl)
    cost = (nats + nats_per_call) / tokens
    # no round has cost * tokens - nats above l_0, so none has nats + mu below cost * tokens - slack; tokens >= 1
    slack = max(0.0, improved(place, len(prices), cost)[1] - nats_per_call)
    return CallPrices(
        prices=prices,
        kl=kl,
        rejection=rejection,
        nats_per_token=nats / tokens,
        tokens_per_call=tokens,
        cost=cost,
        bound=cost - slack,
    )
