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
