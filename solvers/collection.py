"""One budget for a collection of positions: a common price spends it best (docs/theory.md T4 (c))."""

from collections.abc import Callable

import numpy as np

from solvers.arrays import ROUNDING
from solvers.roots import monotone_root
from solvers.sorted_front import SortedFront

LOWEST_LOG_PRICE, HIGHEST_LOG_PRICE = -45.0, 700.0
"""Below e^-45 a price moves no divergence by more than rounding; above e^700 it overflows."""


def split_rejection(front: SortedFront, weights: np.ndarray, mean: float) -> np.ndarray:
    """Rejections of the rows that minimise the mean divergence at a mean rejection.

    minimise sum w_i D_i(R_i) over sum w_i R_i <= mean.

    Parameters
    ----------
    front
        The rows.
    weights
        `[rows, 1]`, summing to 1.
    mean
        At least 0; from the mean TV on every row is lossless.

    Returns
    -------
    numpy.ndarray
        `[rows, 1]`.
    """

    def shortfall(rejection: np.ndarray) -> float:
        return mean - float((weights * rejection).sum())

    if shortfall(front.total_variation) >= 0:
        return front.total_variation
    if front.is_straight():
        return front.total_variation * (mean / float((weights * front.total_variation).sum()))
    rejection = _at_common_price(front, shortfall)
    spent = mean - shortfall(rejection)
    # less than the drafts' leak: every price asks for more, no divergence is finite, all shares are alike
    return rejection * min(1.0, mean / spent) if spent > 0 else rejection


def split_divergence(front: SortedFront, weights: np.ndarray, mean: float) -> np.ndarray:
    """Rejections of the rows that minimise the mean rejection at a mean divergence.

    minimise sum w_i R_i over sum w_i D_i(R_i) <= mean.

    Parameters
    ----------
    front, weights
        As in `split_rejection`.
    mean
        At least 0; from the drafts' own mean divergence on nothing is rejected.

    Returns
    -------
    numpy.ndarray
        `[rows, 1]`.
    """

    def excess(rejection: np.ndarray) -> float:
        return float((weights * front.least_divergence(rejection)).sum()) - mean

    at_draft = excess(np.zeros_like(front.total_variation))
    if mean <= 0:  # not by its price: a front is flat where it ends
        return front.free_rejection
    if at_draft <= 0 or np.isinf(mean):
        return np.zeros_like(front.total_variation)
    if front.is_straight():
        return front.total_variation * (at_draft / (at_draft + mean))
    return _at_common_price(front, excess)


def _at_common_price(front: SortedFront, balance: Callable[[np.ndarray], float]) -> np.ndarray:
    """Find the price at which a balance that rises with it is zero.

    At a price where some front is straight (in TV, everywhere) rows may reject anything between two rates, and the
    balance jumps; both sides are then optimal, and so is the mixture of them that makes the balance zero.
    """

    def rejections(log_price: np.ndarray) -> np.ndarray:
        return front.rejection_at_price(np.full_like(front.total_variation, np.exp(log_price)))

    root = monotone_root(
        lambda log_price: np.asarray(balance(rejections(log_price))),
        low=np.asarray(LOWEST_LOG_PRICE),
        high=np.asarray(HIGHEST_LOG_PRICE),
        known=(np.asarray(0.0), np.asarray(balance(rejections(np.asarray(0.0))))),
        slope=0.1,
        step=1e-13,
    )
    at_root = rejections(root.value)
    if abs(balance(at_root)) <= ROUNDING:
        return at_root
    cheap, dear = rejections(root.low), rejections(root.high)
    at_cheap, at_dear = balance(cheap), balance(dear)
    if not at_dear > 0:
        return dear
    if not np.isfinite(at_dear) or at_cheap >= 0:
        return cheap
    return dear + at_dear / (at_dear - at_cheap) * (cheap - dear)
