"""What a sampler is tried on, what it should do there, and how likely its counts are if it does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.divergences import total_variation
from solvers.errors import InputError
from tradeoff.outcome.token import Outcome, evaluate
from tradeoff.rule import Rule

LARGEST_VOCABULARY = 1000
"""Every pair (drafted, emitted) is a cell of the table: 8 MB at 1000 tokens, and too few draws in each long before."""

SMALL_CELL = 5.0
"""Cells expected less often than this are one cell: each alone would add noise and no evidence."""

ROUNDING_UNITS = 8
"""Laws this near, in units of their type's last place, are one law rounded twice: softmaxes stray by about two."""

RANDOM_PAIRS = 4
RANDOM_VOCABULARY = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """One pair of laws to try a sampler on.

    Parameters
    ----------
    name
        What the report calls it.
    draft, target
        The claimed laws `[vocab]`, in the floating type in which the sampler gets them.
    sampled_draft
        The law `[vocab]` the drafted tokens come from, within the support of `draft`; None: `draft`.
    """

    name: str
    draft: np.ndarray
    target: np.ndarray
    sampled_draft: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """What a sampler that follows the rule does in one setting.

    Parameters
    ----------
    setting
        The laws.
    drafted
        Law of the drafted token, `[vocab]`.
    emitted
        Law of the emitted token for every drafted one, `[vocab, vocab]`, rows summing to 1.
    possible
        Whether a token may be emitted at all for a drafted one, `[vocab, vocab]`.
    possible_at_one
        The same where acceptance is one rounding away from certain: next to a uniform of 1.
    rounding
        The laws differ by their rounding alone, so whether a token is ever rejected is a matter of arithmetic. Any
        token of the target is then a right replacement, and frequencies say nothing.
    """

    setting: Setting
    drafted: np.ndarray
    emitted: np.ndarray
    possible: np.ndarray
    possible_at_one: np.ndarray
    rounding: bool


def expected_of(rule: Rule, setting: Setting) -> Expected:
    """Evaluate a rule exactly in one setting."""
    outcome = evaluate(rule, setting.draft, setting.target, sampled_draft=setting.sampled_draft)
    emitted = emitted_law(outcome)
    unit = max(np.finfo(np.result_type(law, np.float16)).eps for law in (setting.draft, setting.target))
    alike = bool(total_variation(outcome.draft, outcome.target) <= ROUNDING_UNITS * unit)
    rounding = alike and not np.array_equal(setting.draft, setting.target)
    possible, known = emitted > 0, outcome.target > 0
    return Expected(
        setting=setting,
        drafted=outcome.sampled_draft,
        emitted=emitted,
        possible=possible | known if rounding else possible,
        # b = 1 of equal laws may be one unit less in another order of operations, which is no error
        possible_at_one=possible | known if alike else possible,
        rounding=rounding,
    )


def emitted_law(outcome: Outcome) -> np.ndarray:
    """Law of the emitted token y for every drafted x, `[vocab, vocab]`: b(x) 1{y = x} + (1 - b(x)) P(y | x)."""
    acceptance = outcome.acceptance[:, None]
    replaced = np.stack([outcome.residual_after(np.asarray(token)) for token in range(len(acceptance))])
    law = acceptance * np.eye(len(acceptance)) + (1.0 - acceptance) * replaced
    # a user's residual sums to 1 within a tolerance; a test of ten thousand draws must not see that
    return law / law.sum(axis=1, keepdims=True)


def conditional_p_value(counts: np.ndarray, law: np.ndarray, stream: np.random.Generator) -> float | None:
    """P-value of emitted tokens given the drafted ones: exactly uniform if they follow the law, however few they are.

    Row x of the counts is split cell by cell: given the cells before it, a count is binomial. Its distribution
    function, with the jump at the count filled in at random, is uniform, so its normal quantile z is a standard
    normal, and sum z^2 is chi-square. Pearson's statistic is the same for large counts, but not in the tail: at an
    expected 5 a count that it calls 1e-6 has probability 7e-5.

    Parameters
    ----------
    counts, law
        `[drafted, emitted]`; rows of the law sum to 1.
    stream
        Fills in the jumps.

    Returns
    -------
    float or None
        None if the law leaves nothing to chance.
    """
    from scipy.stats import binom, chi2, norm  # half a second, on use

    trials = counts.sum(axis=1, keepdims=True)
    large = trials * law >= SMALL_CELL
    pooled = (
        np.append(np.where(large, 0, each).sum(1, keepdims=True), np.where(large, each, 0), 1) for each in (counts, law)
    )
    # what is left for a cell and those after it. The rare ones come first, where rounding cannot swallow their share;
    # only exact zeros follow a last cell, so its own is exactly 1
    (own, left), (mass, rest) = ((each, each[:, ::-1].cumsum(axis=1)[:, ::-1]) for each in pooled)
    free = (mass > 0) & (mass < rest) & (trials > 0)
    if not free.any():
        return None
    number, chance, own = left[free], mass[free] / rest[free], own[free]
    jump, filled = binom.pmf(own, number, chance), stream.random(len(own))
    below, above = (
        binom.cdf(own - 1, number, chance) + filled * jump,
        binom.sf(own, number, chance) + (1 - filled) * jump,
    )
    # the smaller tail keeps its digits; both can reach 0 only if the count is impossible in float64
    score = norm.isf(np.minimum(below, above))
    return float(chi2.sf((score**2).sum(), len(score)))


def worst_cell(counts: np.ndarray, law: np.ndarray) -> str:
    """The drafted and emitted token whose count is farthest from what was expected, in standard deviations."""
    wanted = counts.sum(axis=1, keepdims=True) * law
    # Freeman and Tukey's deviate: about normal down to the smallest counts, where (o - e) / sqrt(e) explodes
    deviate = np.abs(np.sqrt(counts) + np.sqrt(counts + 1) - np.sqrt(4 * wanted + 1))
    x, y = np.unravel_index(np.argmax(deviate), counts.shape)
    return f"drafted {x}, emitted {y}: {counts[x, y]} times, expected {wanted[x, y]:.1f}"


def settings_for(seed: int, pairs: Mapping[str, tuple[Any, Any]] | None) -> list[Setting]:
    """Every setting of a check: the fixed ones, then the caller's pairs, or random ones if there are none.

    Raises
    ------
    InputError
        Pairs that are not a mapping of names to two laws `[vocab]`.
    """
    return [*_fixed(), *(_random(seed) if pairs is None else _own(pairs))]


def _law(*weights: float) -> np.ndarray:
    return np.array(weights) / sum(weights)


def _float16(*parts: int) -> np.ndarray:
    """A law in multiples of 1/1024, which half precision holds exactly: the exact law is then the same in any type."""
    return np.array(parts, dtype=np.float16) / np.float16(1024)


def _fixed() -> list[Setting]:
    """Settings with a history of wrong samplers.

    Token 0 is what a sampler emits by mistake, from an argmax over zeros or a search that starts too early, so most
    targets give it nothing. No two positive masses of a law are equal: rules may break ties as they like.
    """
    equal, half, mild = _law(0, 4, 3, 1, 2), _float16(0, 640, 256, 128), _law(5, 1, 4, 2, 3)
    pairs = {
        "equal laws": (equal, equal.copy()),
        "equal laws up to rounding": (equal, equal * (1 + 1e-15 * np.array([1, 1, -1, 1, -1]))),
        # one unit in the last place less at every token, as half-precision softmaxes have it: no residual is left
        "zero residual": (half, np.nextafter(half, np.float16(0))),
        "equal one-hot laws": (_law(0, 0, 1, 0), _law(0, 0, 1, 0)),
        "one-hot laws apart": (_law(0, 1, 0, 0), _law(0, 0, 0, 1)),
        "one-hot draft": (_law(0, 0, 1, 0), _law(4, 3, 2, 1)),
        "one-hot target": (_law(4, 3, 1, 2), _law(0, 0, 1, 0)),
        "disjoint supports": (_law(2, 0, 3, 0, 0), _law(0, 4, 0, 1, 2)),
        "masked target": (_law(3, 1, 4, 2, 2.5), _law(0, 3, 2, 5, 0)),
        "masked draft": (_law(0, 3, 2, 5, 0), _law(3, 1, 4, 2, 2.5)),
        "masks in both laws": (_law(1, 0, 2, 4, 0, 3), _law(0, 2, 5, 1, 0, 4)),
        "float16 laws": (_float16(384, 320, 160, 96, 40, 24), _float16(0, 88, 8, 512, 416, 0)),
    }
    return [
        *(Setting(name=name, draft=draft, target=target) for name, (draft, target) in pairs.items()),
        Setting(
            name="draft claimed but not sampled", draft=mild, target=_law(2, 3, 1, 6, 4), sampled_draft=_law(*mild**3)
        ),
    ]


def _random(seed: int) -> list[Setting]:
    laws = np.random.default_rng(seed).dirichlet(np.full(RANDOM_VOCABULARY, 0.6), size=(RANDOM_PAIRS, 2))
    return [Setting(name=f"random laws {i + 1}", draft=pair[0], target=pair[1]) for i, pair in enumerate(laws)]


def _own(pairs: Mapping[str, tuple[Any, Any]]) -> list[Setting]:
    if not isinstance(pairs, Mapping):
        raise InputError(f"pairs: expected a mapping of names to (draft, target); got {type(pairs).__name__}")
    return [_checked(str(name), pair) for name, pair in pairs.items()]


def _checked(name: str, pair: Any) -> Setting:
    try:
        draft, target = (law.astype(float) if law.dtype.kind in "iu" else law for law in map(np.asarray, pair))
    except (TypeError, ValueError):
        raise InputError(f"pairs[{name!r}]: expected two laws, (draft, target); got {pair!r}") from None
    for law in (draft, target):
        if law.ndim != 1 or not 1 <= len(law) <= LARGEST_VOCABULARY:
            raise InputError(
                f"pairs[{name!r}]: expected laws [vocab] of at most {LARGEST_VOCABULARY} tokens; got shape "
                f"{law.shape}; cut them to their largest masses and normalise"
            )
    return Setting(name=name, draft=draft, target=target)
