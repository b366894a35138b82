"""How often one of two rules wins, and what that can settle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import bdtrik, betainc
from scipy.stats import binom, binomtest

from decoding.evaluation.bootstrap import COVERAGE, Bootstrap, Estimate, estimate
from decoding.evaluation.study.tied_wins import interval
from solvers.errors import InputError

LARGEST = 10**6
"""Where so many prompts are too few, `prompts_needed` names no number."""
PUBLISHED = 5e-4
"""Published win rates are rounded by at most this much: to a tenth of a percent."""
SCANNED = 1024
"""So many numbers of prompts are tried at once."""


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """The first rule's wins over the second.

    Parameters
    ----------
    prompts, comparisons
        How many prompts were judged, and how many comparisons of two texts in all; of a published figure, one a prompt.
    won, tied
        Prompts on which the first wins more than half of the comparisons, and exactly half.
    majority
        (won + tied / 2) / prompts with an exact interval: the paper's win rate.
    pairwise
        Mean over prompts of the fraction of comparisons won, ties half, with a bootstrap interval over prompts;
        None where only the majority is known.
    p_value
        Exact two-sided sign test of the prompts won against those lost.
    prompts_needed
        How many prompts would settle a true win rate as large as this one, at 5 % with power 80 %; None where a million
        would not: for one half and next to it.
    """

    prompts: int
    comparisons: int
    won: int
    tied: int
    majority: Estimate
    pairwise: Estimate | None
    p_value: float
    prompts_needed: int | None


def from_preferences(prompt: np.ndarray, preference: np.ndarray, bootstrap: Bootstrap) -> WinRate:
    """Win rate of the first of two texts, from a pairwise judge's answers.

    Prompts without a comparison count nowhere.

    Parameters
    ----------
    prompt
        `[comparisons]`, integers: the prompt of each comparison, below the bootstrap's number of prompts.
    preference
        `[comparisons]`: 1 where the first wins, 0 where the second does, 1/2 for a tie, or between.
    bootstrap
        Over all prompts.

    Raises
    ------
    InputError
        No comparisons, not one preference to each prompt, or values outside their range.
    """
    prompt, preference = np.asarray(prompt), np.asarray(preference, dtype=float)
    prompts = bootstrap.prompts
    if prompt.ndim != 1 or prompt.shape != preference.shape:
        raise InputError(
            "preference: expected one for each entry of prompt, [comparisons]; "
            f"got shapes {prompt.shape} and {preference.shape}; repeat the prompt for each of its comparisons"
        )
    if len(prompt) == 0:
        raise _nothing_judged()
    if not np.issubdtype(prompt.dtype, np.integer) or prompt.min() < 0 or prompt.max() >= prompts:
        raise InputError(
            f"prompt: expected integers from 0 to {prompts - 1}; got {prompt.dtype} from {prompt.min()} to "
            f"{prompt.max()}; number the prompts as the bootstrap does"
        )
    if not ((preference >= 0) & (preference <= 1)).all():
        raise InputError(
            f"preference: expected numbers from 0 to 1; got {preference.min()} to {preference.max()}; "
            "leave out what was not judged"
        )
    points = np.bincount(prompt, weights=preference, minlength=prompts)
    counts = np.bincount(prompt, minlength=prompts)
    return _by_prompt(points, counts, points / np.maximum(counts, 1), bootstrap)


def from_scores(first: Sequence[np.ndarray], second: Sequence[np.ndarray], bootstrap: Bootstrap) -> WinRate:
    """Win rate of the first rule's texts over the second's, from scores of single texts.

    The majority and `comparisons` set text i against text i. `pairwise` sets every text of the first against every
    one of the second on the same prompts: they are drawn independently, so it has the same mean and less variance.
    Prompts without two scored texts at the same place count nowhere.

    Parameters
    ----------
    first, second
        One array `[texts]` to each prompt: the scores of its texts, more is better; nan for one not judged. A text
        without a counterpart at its place in the other array is one whose counterpart was not judged.
    bootstrap
        Over the prompts.

    Raises
    ------
    InputError
        Not one array to each prompt, or nothing to compare.
    """
    prompts = bootstrap.prompts
    if not len(first) == len(second) == prompts:
        raise InputError(
            f"scores: expected one array to each of {prompts} prompts; got {len(first)} and {len(second)}; "
            "use an empty array for a prompt without texts"
        )
    points, counts, fractions = np.zeros(prompts), np.zeros(prompts, dtype=int), np.zeros(prompts)
    for number, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
        both = min(len(ours), len(theirs))
        paired = _preferences(ours[:both], theirs[:both])
        points[number], counts[number] = paired.sum(), len(paired)
        if len(paired):
            fractions[number] = _preferences(*np.meshgrid(ours, theirs)).mean()
    return _by_prompt(points, counts, fractions, bootstrap)


def from_counts(win_rate: float, prompts: int) -> WinRate:
    """Win rate from a published figure, taken as prompts won out of prompts, without ties.

    Parameters
    ----------
    win_rate
        Fraction of the prompts, 0 to 1, rounded to a tenth of a percent or finer.
    prompts
        How many, at least 1.

    Raises
    ------
    InputError
        No number of prompts has this win rate.
    """
    if prompts < 1 or not 0 <= win_rate <= 1:
        raise InputError(
            "win_rate: expected a fraction from 0 to 1 of at least one prompt; "
            f"got {win_rate} of {prompts}; divide a percentage by 100"
        )
    won = round(win_rate * prompts)
    if abs(won / prompts - win_rate) > PUBLISHED + 1e-9:
        raise InputError(
            f"win_rate: expected a whole number of prompts, to a tenth of a percent; got {win_rate} of {prompts}; "
            f"nearest is {won / prompts:.4f}"
        )
    return _win_rate(won=won, tied=0, prompts=prompts, comparisons=prompts, pairwise=None)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order.

    adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)), p_(1) <= ... <= p_(m)

    Raises
    ------
    InputError
        A value outside 0 to 1.
    """
    values = np.asarray(p_values, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"p_values: expected numbers from 0 to 1; got {list(p_values)}; leave out undefined ones")
    order = np.argsort(values)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted.tolist()


def prompts_needed(rate: float, *, level: float = 0.05, power: float = 0.8) -> int | None:
    """Least number of prompts from which on the exact two-sided sign test settles a true win rate.

    With this number of prompts n, and with any larger, the test rejects with probability `power` or more; with one
    less it does not. The power goes up and down with n, for the losses that the test allows are whole numbers. With one
    loss less than the binomial law's continuation to real numbers allows, it is never higher, and grows with n. Where
    that meets the power the search begins; exact probabilities decide below.

    Parameters
    ----------
    rate
        Probability that the first wins a prompt, 0 to 1, without ties.
    level
        The test's level, above 0.
    power
        Above the level and below 1.

    Returns
    -------
    int or None
        None for a rate of one half, or so close to it that `LARGEST` prompts are too few.

    Raises
    ------
    InputError
        A value outside its range.
    """
    _check_test(level, power)
    if not 0 <= rate <= 1:
        raise InputError(f"rate: expected a probability from 0 to 1; got {rate}; divide a percentage by 100")
    rate = max(rate, 1 - rate)
    if _power(LARGEST, rate, level) < power:
        return None
    return _last_failing(_enough(rate, level, power) - 1, rate, level, power) + 1


def detectable(prompts: int, *, level: float = 0.05, power: float = 0.8) -> float | None:
    """Least true win rate above one half that the exact two-sided sign test settles with so many prompts.

    Parameters
    ----------
    prompts
        How many, none of them tied.
    level
        The test's level, above 0.
    power
        Probability of rejecting, above the level and below 1.

    Returns
    -------
    float or None
        None where the test never rejects: with fewer than 6 prompts at 5 %.

    Raises
    ------
    InputError
        A value outside its range.
    """
    _check_test(level, power)
    if prompts < 0:
        raise InputError(f"prompts: expected a whole number >= 0; got {prompts}; count the prompts that are not tied")
    if _losses_allowed(prompts, level) < 0:
        return None
    # the region of rejection is symmetric, so the power grows with the rate: from at most the level, to 1
    return float(root_scalar(lambda rate: _power(prompts, rate, level) - power, bracket=(0.5, 1.0)).root)


def _nothing_judged() -> InputError:
    return InputError("comparisons: expected at least one; got none; judge two texts of the same prompt")


def _preferences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 where the first is better, 1/2 where they are equal; pairs that were not judged are left out."""
    known = ~(np.isnan(first) | np.isnan(second))
    return ((first > second) + (first == second) / 2)[known]


def _by_prompt(points: np.ndarray, counts: np.ndarray, fractions: np.ndarray, bootstrap: Bootstrap) -> WinRate:
    """Win rate from every prompt's sum of preferences, comparisons and fraction won, `[prompts]`."""
    judged = counts > 0
    if not judged.any():
        raise _nothing_judged()
    return _win_rate(
        won=int((2 * points > counts).sum()),
        tied=int((2 * points == counts)[judged].sum()),
        prompts=int(judged.sum()),
        comparisons=int(counts.sum()),
        pairwise=estimate(*bootstrap.ratio(fractions, judged.astype(float))),
    )


def _win_rate(*, won: int, tied: int, prompts: int, comparisons: int, pairwise: Estimate | None) -> WinRate:
    value = (won + tied / 2) / prompts
    low, high = interval(won, tied, prompts, COVERAGE)
    decided = prompts - tied
    return WinRate(
        prompts=prompts,
        comparisons=comparisons,
        won=won,
        tied=tied,
        majority=Estimate(value=value, low=low, high=high),
        pairwise=pairwise,
        p_value=float(binomtest(won, decided).pvalue) if decided else 1.0,
        prompts_needed=prompts_needed(value),
    )


def _check_test(level: float, power: float) -> None:
    if not 0 < level < power < 1:
        raise InputError(
            f"power: expected 0 < level < power < 1; got level {level} and power {power}; for example 0.05 and 0.8"
        )


def _losses_allowed(prompts: np.ndarray | int, level: float) -> np.ndarray:
    """The most prompts lost with which the sign test rejects in favour of the first; -1 where it never does."""
    count = binom.ppf(level / 2, prompts, 0.5)
    return count - (binom.cdf(count, prompts, 0.5) > level / 2)


def _power(prompts: np.ndarray | int, rate: float, level: float) -> np.ndarray:
    """Probability that the sign test rejects."""
    losses = _losses_allowed(prompts, level)
    return binom.sf(prompts - losses - 1, prompts, rate) + binom.cdf(losses, prompts, rate)


def _enough(rate: float, level: float, power: float) -> int:
    """A number of prompts near the least from which on the power is high enough, and not below it."""

    def bound(prompts: float) -> float:
        losses = bdtrik(level / 2, prompts, 0.5) - 1  # the losses allowed, a whole number, are more
        return betainc(prompts - losses, losses + 1, rate) if losses > -1 else 0.0

    return math.ceil(root_scalar(lambda each: bound(each) - power, bracket=(1.0, 2.0 * LARGEST)).root) + SCANNED


def _last_failing(last: int, rate: float, level: float, power: float) -> int:
    """The largest number of prompts, `last` or fewer, with less than this power; 0 prompts have none."""
    while True:
        numbers = np.arange(max(last + 1 - SCANNED, 0), last + 1)
        failing = numbers[_power(numbers, rate, level) < power]
        if len(failing):
            return int(failing[-1])
        last = int(numbers[0]) - 1
