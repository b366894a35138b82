"""Intervals by resampling prompts, which are what a statement about other texts has to generalise over."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval: of a bootstrap over prompts, if nothing else is said."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Multinomial weights over prompts, the same for every statistic, so that differences are paired."""

    def __init__(self, prompts: int, seed: int) -> None:
        generator = np.random.default_rng(np.random.SeedSequence([seed, 3]))
        self.prompts = prompts
        self._weights = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES)

    def ratio(self, numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, np.ndarray]:
        """Ratio of sums over prompts and its resamples."""
        totals = self._weights @ denominator
        resampled = np.divide(self._sums(numerator), totals, out=np.full(len(totals), np.nan), where=totals != 0)
        total = denominator.sum()
        return float(numerator.sum() / total) if total else float("nan"), resampled

    def over_least(
        self, *, rule: np.ndarray, rejection: np.ndarray, least: np.ndarray, split: np.ndarray, price: float
    ) -> Estimate:
        """Divergence of a rule over the least of any rule that rejects as often, with its interval.

        The two reject equally often on all prompts together, not on a resample of them: the front's slope, minus the
        price, takes the least divergence to the rule's own rejection there. No rule is below that line (T4), so no
        resample of the ratio is below 1; where the line itself is below zero it bounds nothing, and the ratio is
        infinite.

        Parameters
        ----------
        rule, rejection
            The rule's divergence and rejection, summed over each prompt's positions, `[prompts]`.
        least, split
            The same of the best rule, whose mean rejection is equal.
        price
            Of a rejection, at which the best rule trades.
        """
        value, resampled = self.ratio(rule, least + price * (split - rejection))
        return estimate(value, np.where(resampled < 0, np.inf, resampled))

    def _sums(self, column: np.ndarray) -> np.ndarray:
        """Resampled sums, `[resamples]`; a prompt that a resample leaves out adds 0 though its own sum be infinite."""
        finite = np.isfinite(column)
        sums = self._weights @ np.where(finite, column, 0.0)
        drawn = self._weights[:, ~finite] > 0
        for place, value in zip(drawn.T, column[~finite], strict=True):
            sums[place] += value
        return sums


def estimate(value: float, resampled: np.ndarray) -> Estimate:
    """Percentile interval of resamples, `[resamples]`; undefined ones are left out."""
    tail = (1 - COVERAGE) / 2
    known = resampled[~np.isnan(resampled)]
    with np.errstate(invalid="ignore"):  # between two infinite resamples
        low, high = np.nan_to_num(np.quantile(known, [tail, 1 - tail]), nan=np.inf) if len(known) else (np.nan, np.nan)
    return Estimate(value=value, low=float(low), high=float(high))
