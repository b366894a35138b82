"""An exact interval for wins where ties count half."""

from functools import cache

import numpy as np
from scipy.optimize import root_scalar

TIES = np.linspace(0, 1, 65) ** 2
"""Probabilities of a tie that are tried, as fractions of the largest possible; 2001 move an end by less than 1e-5."""


def interval(won: int, tied: int, prompts: int, coverage: float) -> tuple[float, float]:
    """Exact interval for P(win) + P(tie) / 2 from independent prompts.

    With S = wins + ties / 2 the lower end is the least r for which some probability t of a tie gives

    P(S >= observed; r, t) >= (1 - coverage) / 2,    each prompt's P(win, tie, loss) = (r - t/2, t, 1 - r - t/2),

    and the upper end the same for losses: the test inverted, unconditional in t, as Barnard's test is. Without ties
    it is Clopper and Pearson's interval.

    Parameters
    ----------
    won, tied, prompts
        Counts; the rest was lost.
    coverage
        Least probability that the interval holds the truth, whatever it is.
    """
    tail = (1 - coverage) / 2
    return _low(2 * won + tied, prompts, tail), 1 - _low(2 * (prompts - won) - tied, prompts, tail)


@cache
def _low(twice: int, prompts: int, tail: float) -> float:
    if twice == 0:
        return 0.0
    found = root_scalar(lambda rate: _largest_tail(rate, twice, prompts) - tail, bracket=(0.0, 1.0), xtol=1e-7)
    return float(found.root)


def _largest_tail(rate: float, twice: int, prompts: int) -> float:
    """Largest P(2 S >= twice) over the probability of a tie."""
    ties = TIES * 2 * min(rate, 1 - rate)
    points = np.exp(2j * np.pi * np.arange(prompts + 1) / (2 * prompts + 1))
    # the generating function of 2 S at the roots of unity; its inverse transform is the law of 2 S
    transform = (1 - rate - ties / 2)[:, None] + ties[:, None] * points + (rate - ties / 2)[:, None] * points**2
    law = np.fft.irfft(np.conj(transform) ** prompts, n=2 * prompts + 1, axis=-1)
    return float(law[:, twice:].sum(axis=-1).max())
