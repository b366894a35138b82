"""Pairs of laws to test on: fixed extremes, seeded random pairs, a hypothesis strategy, and plain oracles."""

from collections.abc import Callable
from typing import Any

import array_api_strict
import numpy as np
import torch
from array_api_compat import array_namespace
from hypothesis import strategies as st
from scipy.optimize import root_scalar

from solvers.divergences import DIVERGENCES, Divergence, alpha_divergence, f_divergence


def _law(*weights: float) -> np.ndarray:
    array = np.asarray(weights, dtype=np.float64)
    return array / array.sum()


EXTREME_PAIRS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "one token": (_law(1), _law(1)),
    "equal": (_law(2, 3, 5), _law(2, 3, 5)),
    "equal one-hot": (_law(0, 1, 0), _law(0, 1, 0)),
    "one-hot apart": (_law(0, 1, 0), _law(1, 0, 0)),
    "one-hot draft": (_law(0, 1, 0, 0), _law(4, 3, 2, 1)),
    "one-hot target": (_law(4, 3, 2, 1), _law(0, 0, 1, 0)),
    "disjoint supports": (_law(1, 1, 0, 0), _law(0, 0, 3, 7)),
    "target zero where draft is not": (_law(1, 2, 3, 4), _law(0, 4, 3, 3)),
    "target is the masked draft": (_law(1, 2, 3, 1), _law(0, 2, 3, 0)),
    "draft zero where target is not": (_law(0, 4, 3, 3), _law(1, 2, 3, 4)),
    "zeros in common": (_law(1, 0, 2, 0, 1), _law(2, 0, 1, 0, 1)),
    "zeros on both sides": (_law(0, 0, 2, 3, 5), _law(3, 0, 0, 5, 2)),
    "near tie": (_law(1, 1 + 1e-13), _law(1 + 1e-13, 1)),
    "ratio ties": (_law(2, 2, 4, 1, 1, 2), _law(1, 1, 2, 2, 2, 4)),
    "mass 1e-12 in the draft": (_law(1, 1e-12, 1), _law(1, 1, 1)),
    "mass 1e-12 in the target": (_law(1, 1, 1), _law(1, 1e-12, 1)),
    "mass 1e-150 in the draft": (_law(1, 1e-150, 1), _law(2, 1, 1)),
    "mass 1e-150 in the target": (_law(2, 1, 1), _law(1, 1e-150, 1)),
    "reversed Zipf": (_law(*(1 / k for k in range(1, 31))), _law(*(1 / (31 - k) for k in range(1, 31)))),
}
"""Both laws float64 and summing to 1."""

SUBNORMAL_PAIRS: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "subnormal draft mass": (_law(1, 1e-320, 1), _law(2, 1, 1)),
    "subnormal target mass": (_law(2, 1, 1), _law(1, 1e-320, 1)),
}
"""Masses below 2.2e-308, whose reciprocal is beyond float64."""


BACKENDS: dict[str, Callable[[Any], Any]] = {
    "numpy": np.asarray,
    "array-api-strict": array_api_strict.asarray,
    "torch": torch.asarray,
}


def _steps(ratio: Any, *signed: float) -> Any:
    """Count the numbers that a ratio exceeds, less the negative ones that it falls short of."""
    xp = array_namespace(ratio)
    return sum(xp.astype(ratio > at, ratio.dtype) if at > 0 else -xp.astype(ratio < -at, ratio.dtype) for at in signed)


def _hinges(ratio: Any) -> Any:
    xp = array_namespace(ratio)
    zero = xp.zeros_like(ratio)
    return xp.maximum(ratio - 1.0, zero) + xp.maximum(ratio - 2.0, zero) + xp.maximum(0.5 - ratio, zero)


KINKED = f_divergence(_hinges, lambda ratio: _steps(ratio, 1.0, 2.0, -0.5), name="kinked")
"""Piecewise linear, not TV: f' is -1, 0, 1 and 2 up to the ratios 1/2, 1, 2 and from there on."""

MEASURES: dict[str, Divergence] = {
    **DIVERGENCES,
    **{f"alpha={order:g}": alpha_divergence(order) for order in (-1.0, 0.3, 1.5, 3.0)},
    "kinked": KINKED,
}
"""The table, orders of alpha from all three regimes, and one of a user's own."""

KINDS = ("tv", "kl", "reverse_kl", "hellinger", "alpha=3", "kinked")
"""One of every kind: f(0) and f'(infinity) finite or infinite in all four ways, f'(0) too, and not strictly convex.

What holds for a reason that knows the kind only is said of these; of every measure, where its own arithmetic matters.
"""


def random_pair(seed: int, vocab: int | None = None, *, masked: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw two Dirichlet laws, peaked to flat by turns; `masked` zeroes a third of the target."""
    rng = np.random.default_rng(seed)
    vocab = vocab or int(rng.integers(2, 30))
    concentration = (0.3, 0.6, 3.0)[seed % 3]
    draft, target = rng.dirichlet(np.full(vocab, concentration), size=2)
    if masked:
        target = np.where(rng.random(vocab) < 1 / 3, 0.0, target)
        target[rng.integers(vocab)] += 0.1
        target = target / target.sum()
    return draft, target


@st.composite
def law_pairs(draw: Any, max_vocab: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Two laws over one vocabulary: unrelated, equal, nearly equal, or the target a masked draft."""
    vocab = draw(st.integers(1, max_vocab))
    draft = draw(laws(vocab))
    relation = draw(st.sampled_from(["unrelated", "unrelated", "unrelated", "equal", "near", "masked"]))
    if relation == "equal":
        return draft, draft.copy()
    other = draw(laws(vocab))
    if relation == "near":
        return draft, (1 - 1e-9) * draft + 1e-9 * other
    if relation == "masked":
        kept = np.where(other > 0.2, draft, 0.0)
        return (draft, kept / kept.sum()) if kept.sum() > 0 else (draft, other)
    return draft, other


def laws(vocab: int) -> st.SearchStrategy[np.ndarray]:
    """Draw one law: zeros and masses of 1e-12 are as likely as ordinary ones."""
    weight = st.one_of(st.sampled_from([0.0, 0.0, 1e-12, 1e-6, 1.0]), st.floats(0.01, 1.0))
    return st.lists(weight, min_size=vocab, max_size=vocab).map(_law_or_one_hot)


def _law_or_one_hot(weights: list[float]) -> np.ndarray:
    return _law(*weights) if sum(weights) > 0 else _law(1.0, *weights[1:])


def tv(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Half the L1 distance, written differently from the library."""
    return np.abs(first - second).sum(axis=-1) / 2


def oracle_floor(masses: np.ndarray, target: np.ndarray, budget: float) -> float:
    """Solve sum [c q - m]_+ = budget > 0 for c by bracketed root finding."""
    return _root(lambda c: np.maximum(c * target - masses, 0).sum() - budget, 2.0)


def oracle_ceiling(draft: np.ndarray, target: np.ndarray, budget: float) -> float:
    """Solve sum [p - C q]_+ = budget for C by bracketed root finding; infinite when no C is enough."""
    known = target > 0
    if draft[~known].sum() > budget:
        return np.inf
    high = 2 * (draft[known] / target[known]).max() + 2
    return _root(lambda c: np.maximum(draft - c * target, 0).sum() - budget, high)


def _root(function: Callable[[float], float], high: float) -> float:
    return float(root_scalar(function, bracket=(0.0, high), method="brentq", xtol=1e-15).root)


def random_feasible_outputs(
    rng: np.random.Generator, draft: np.ndarray, rejection: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw accepted masses 0 <= a <= p and residual masses r >= 0 with sum r = 1 - sum a <= R, `[count, vocab]`."""
    vocab = draft.shape[0]
    wanted = rejection * np.where(rng.random((count, 1)) < 0.7, 1.0, rng.random((count, 1)))
    priority = rng.dirichlet(np.full(vocab, 0.3), size=count) * np.minimum(1, draft / draft.max())
    scale = wanted / np.maximum(priority.sum(-1, keepdims=True), 1e-300)
    removed = np.minimum(priority * scale, draft)
    residual = rng.dirichlet(np.full(vocab, 0.3), size=count) * removed.sum(-1, keepdims=True)
    return draft - removed, residual


def output_of(draft: Any, acceptance: Any, residual: Any) -> Any:
    """Output law b p + R P of a rule with one residual law."""
    accepted = acceptance * draft
    return accepted + (1 - accepted.sum(-1, keepdims=True)).clip(0) * residual


def rejection_of(draft: Any, acceptance: Any) -> Any:
    """Rejection probability 1 - sum b p."""
    return 1 - (acceptance * draft).sum(-1)
