"""Reference samplers that verify one drafted token with two uniforms, and the ways to break them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tradeoff.rules import DecodingOPT, DecodingUNO, SpeculativeSampling


@dataclass(frozen=True)
class SampleMatch:
    """Accept the drafted token if a draw from the target equals it, else emit that draw."""

    def acceptance(self, draft, target):
        return target

    def residual(self, draft, target):
        others = np.where(np.eye(target.shape[-1], dtype=bool), 0.0, target[..., None, :])
        left = others.sum(axis=-1, keepdims=True)
        return np.where(left > 0, others / np.where(left > 0, left, 1.0), target[..., None, :])


def inverse_cdf(weights, uniform, side: Literal["left", "right"] = "right"):
    """The first token whose cumulative weight exceeds the uniform; "left": reaches it."""
    cumulative = np.cumsum(weights)
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side=side))


@dataclass(frozen=True)
class Ratio:
    """A sampler in float64: accept with min(1, (q + epsilon) / p), replace by [q - p]_+, q or p.

    The other fields are the ways in which it can be broken.
    """

    epsilon: float = 0.0
    replacement: str = "residual"
    or_equal: bool = False
    inverted: bool = False
    zero_residual: str = "target"
    side: Literal["left", "right"] = "right"
    levels: int | None = None
    ratio_temperature: float = 1.0
    checks_nan: bool = True

    def __call__(self, draft, target, drafted, uniforms):
        p, q = draft.astype(np.float64), target.astype(np.float64)
        if self.checks_nan and np.isnan(p + q).any():
            raise ValueError("the laws are NaN")
        accept, other = uniforms
        if self.levels is not None:
            accept = np.floor((self.levels + 1) * accept) / self.levels
        in_ratio = p if self.ratio_temperature == 1 else p ** (1 / self.ratio_temperature)
        bought, price = q[drafted] + self.epsilon, in_ratio[drafted] / in_ratio.sum()
        if self.inverted:
            bought, price = price, bought
        if accept * price < bought or (self.or_equal and accept * price == bought):
            return drafted
        return self.replace(p, q, other)

    def replace(self, p, q, uniform):
        weights = {"residual": np.maximum(q - p, 0), "argmax": q == q.max(), "target": q, "draft": p}[self.replacement]
        if np.isnan(weights).any():
            return 0
        if weights.sum() == 0 or (self.zero_residual == "token 0" and weights.sum() < 1e-9):
            return inverse_cdf(q, uniform) if self.zero_residual == "target" else 0
        return inverse_cdf(weights, uniform, self.side)


def sample_match(draft, target, drafted, uniforms):
    if np.isnan(draft + target).any():
        raise ValueError("the laws are NaN")
    # one draw decides both: keeping x is the first piece of the unit interval, the other tokens follow
    if uniforms[0] < target[drafted]:
        return drafted
    return inverse_cdf(np.where(np.arange(len(target)) == drafted, 0, target.astype(np.float64)), uniforms[1])


CORRECT: dict[str, tuple[Callable[..., Any], Any]] = {
    "speculative sampling": (Ratio(), SpeculativeSampling()),
    "OPT": (Ratio(epsilon=0.1), DecodingOPT(epsilon=0.1)),
    "UNO": (Ratio(epsilon=0.1, replacement="target"), DecodingUNO(epsilon=0.1)),
    "UNO as printed": (Ratio(epsilon=0.1, replacement="draft"), DecodingUNO(epsilon=0.1, residual="draft")),
    "sample match": (sample_match, SampleMatch()),
}


def nan_as_token_0(draft, target, drafted, uniforms):
    return 0 if np.isnan(draft + target).any() else Ratio()(draft, target, drafted, uniforms)


def ignores_the_draft(draft, target, drafted, uniforms):
    return inverse_cdf(target.astype(np.float64), uniforms[1])


def corrupts_the_target(draft, target, drafted, uniforms):
    token = Ratio()(draft, target, drafted, uniforms)
    target -= draft
    return token


def clipped(draft, target, drafted, uniforms, unit=0.0):
    """Compare with the probability min(1, q / p) and not with the ratio: at a uniform of 1 nothing is kept."""
    if np.isnan(draft + target).any():
        raise ValueError("the laws are NaN")
    p, q = draft.astype(np.float64), target.astype(np.float64)
    kept = uniforms[0] < min(1.0, q[drafted] / p[drafted] * (1 - unit))
    return drafted if kept else Ratio().replace(p, q, uniforms[1])


def in_float32(draft, target, drafted, uniforms):
    return clipped(draft, target, drafted, (np.float32(uniforms[0]), uniforms[1]))


def crashes_on_masks(draft, target, drafted, uniforms):
    if target[drafted] == 0:
        raise ZeroDivisionError(f"no mass at\ntoken {drafted}")
    return Ratio()(draft, target, drafted, uniforms)
