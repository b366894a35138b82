"""A price to every place of the drafted block: what a rejection costs depends on how much it throws away."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from solvers import closed_form
from tradeoff.rule import Block, Verdict
from tradeoff.rules.parts import check_prices, price_at


@dataclass(frozen=True, kw_only=True)
class PricedPlaces:
    """Tokens are judged in turn, place i of the block at its own price: clip(draft, c target, c e^price_i target).

    Equal prices are `CommonPrice` in KL. Prices that fall along the block are the cheapest way to few target calls:
    a rejection throws away what was drafted after it, so an early one costs more.

    Parameters
    ----------
    prices
        Nats per rejection at places 1 .. k, each >= 0; 0 is lossless, infinity rejects only what the target lacks. A
        longer block goes on at the last price.

    Notes
    -----
    docs/theory.md T14.
    """

    prices: tuple[float, ...]

    def __post_init__(self) -> None:
        given = self.prices if isinstance(self.prices, tuple) else ()
        check_prices("prices", given, "a tuple of one number >= 0 per place", self.prices)

    def initial_state(self) -> Hashable:
        """Return (): rounds are independent."""
        return ()

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the law of the first rejection, the residuals, and the target after the whole block."""
        count = len(block.drafted)
        prices = np.array([price_at(self.prices, place) for place in range(count)], dtype=np.float64)
        clip = closed_form.ratio_clip_at_price(block.draft[:count], block.target[:count], prices)
        kept = clip.acceptance[np.arange(count), np.array(block.drafted, dtype=np.intp)]
        reached = np.append(1.0, np.cumprod(kept))
        return Verdict(
            accepted=reached * np.append(1.0 - kept, 1.0),
            following=np.concatenate([clip.residual, block.target[count:]]),
        )
