"""Rules that accept a set of tokens outright; most replace greedily."""

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from solvers.arrays import Array, mass, normalised, positive_part
from solvers.errors import InputError
from tradeoff.rule import Rule, bonus_law
from tradeoff.rules.kernels import WithoutRejected
from tradeoff.rules.parts import (
    at_least,
    best_tokens,
    between,
    capped,
    first_tokens,
    greedy_law,
    highest,
    indicator,
    whole,
)


@dataclass(frozen=True, kw_only=True)
class TopKGate:
    """Accept the target's k likeliest tokens: b = 1[x in top k], residual [1_topk - draft]_+, normalised.

    The residual has nothing to do with the target's weights: it is nearly uniform on the top k. No mass is left
    outside them, so KL(target, output) is infinite. Off the TV front.

    Parameters
    ----------
    k
        At least 1; the published default is 5. Tokens that tie with the k-th count as well, which with a mask of fewer
        than k tokens is every token.

    Notes
    -----
    `topk.py` of the Cactus code (arXiv 2604.04987).
    """

    k: int = 5

    def __post_init__(self) -> None:
        whole("k", self.k)

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return 1 on the top k, else 0, `[..., vocab]`."""
        return indicator(best_tokens(target, self.k), target)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [1_topk - draft]_+, normalised, `[..., vocab]`."""
        return normalised(positive_part(self.acceptance(draft, target) - draft), target)


class _GreedyReplacement:
    """What rules share whose text is greedy wherever the draft is not kept."""

    def residual(self, draft: Array, target: Array) -> Array:
        """Return the point mass on the target's likeliest token, `[..., vocab]`."""
        return greedy_law(target)

    def bonus(self, draft: Array, target: Array) -> Array:
        """Return the point mass on the target's likeliest token, `[..., vocab]`."""
        return greedy_law(target)


@dataclass(frozen=True, kw_only=True)
class Typical(_GreedyReplacement):
    """Typical acceptance: b = 1[target(x) > min(threshold, alpha exp(-H))], replacement and bonus argmax target.

    H = -sum target log(target + 1e-5). Nearly greedy, hence far off the front at any speed; with a sampled draft it
    can reject more often than lossless sampling. A one-hot target accepts exactly its token (none at threshold 1).

    Parameters
    ----------
    threshold
        In [0, 1]; published 0.09. Smaller accepts more.
    alpha
        At least 0; by default the square root of the threshold, published 0.3.

    Notes
    -----
    Medusa, arXiv 2401.10774, `evaluate_posterior`; Hydra; vLLM V0 `TypicalAcceptanceSampler`. It reads the target at
    the sampling temperature and no draft law. Medusa's tree, its greedy first token and its choice of the longest
    candidate are not part of this single-draft form.
    """

    threshold: float = 0.09
    alpha: float | None = None

    def __post_init__(self) -> None:
        between("threshold", self.threshold, 0.0, 1.0, "smaller accepts more")
        if self.alpha is not None:
            at_least("alpha", self.alpha, 0.0, "by default the square root of the threshold")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return 1 where the target exceeds its threshold, else 0, `[..., vocab]`."""
        xp = array_namespace(draft, target)
        alpha = math.sqrt(self.threshold) if self.alpha is None else self.alpha
        entropy = -mass(target * xp.log(target + 1e-5), keepdims=True)
        limit = xp.clip(alpha * xp.exp(-entropy), None, self.threshold)
        return indicator(target > limit, target)


@dataclass(frozen=True, kw_only=True)
class TensorRTRelaxed(_GreedyReplacement):
    """TensorRT-LLM's relaxed acceptance: b = 1[x in the top k and target(x) >= max target - delta], else argmax.

    Replacement and bonus are the target's argmax. Published with a greedy draft; evaluate it with a one-hot draft law
    for that. Off the TV front.

    Parameters
    ----------
    top_k
        At least 1, the default, which accepts the argmax alone; NVIDIA's blog uses 10.
    delta
        In [0, 1], a difference of probabilities (not of their logarithms, as others describe it); 0 by default, 0.6
        in the blog. A token at the limit is accepted: with 0, all that tie with the likeliest, within the top k.

    Notes
    -----
    `mtpKernels.cu` and `_torch/speculative/mtp.py` of TensorRT-LLM, pull request 3865; outside of thinking its delta
    is 0 with the same top k. It reads softmax(raw logits): pass `target_logits` if the target law carries a temperature
    or a mask. Its top k are exactly k, by `torch.topk`, which promises no order among equal probabilities: here the
    lower index comes first, and the first of them is the replacement.
    """

    top_k: int = 1
    delta: float = 0.0

    def __post_init__(self) -> None:
        whole("top_k", self.top_k)
        between("delta", self.delta, 0.0, 1.0, "0 accepts the likeliest token alone")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return 1 on the candidates, else 0, `[..., vocab]`."""
        return indicator(first_tokens(target, self.top_k) & (target >= highest(target) - self.delta), target)

    def with_logits(self, draft_logits: Array | None, target_logits: Array | None) -> Rule:
        """The same rule reading softmax(target_logits) in place of the target law."""
        return _reading_raw(self, target_logits)


@dataclass(frozen=True, kw_only=True)
class SGLang:
    """SGLang's thresholds, one draft: b = 1 if target(x) >= single, else min(1, target(x) / acc).

    The replacement is the target without the rejected token. Draft probabilities are ignored. With a point-mass draft
    `acc` is on the TV front of that draft; with a sampled one the rule is sample-match made looser.

    Parameters
    ----------
    single
        `speculative_accept_threshold_single`, in [0, 1]; 1, the default, never accepts outright.
    acc
        `speculative_accept_threshold_acc`, in [0, 1], floored at 1e-9; 1, the default, is lossless.

    Notes
    -----
    `TreeSpeculativeSamplingTargetOnly` in sgl-kernel, on a chain; its tree of siblings is `SGLangTree`.
    """

    single: float = 1.0
    acc: float = 1.0

    def __post_init__(self) -> None:
        between("single", self.single, 0.0, 1.0, "1 never accepts outright")
        between("acc", self.acc, 0.0, 1.0, "1 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return 1 above the single threshold, else min(1, target / acc), `[..., vocab]`."""
        xp = array_namespace(draft, target)
        return xp.where(target >= self.single, xp.ones_like(target), capped(target / max(self.acc, 1e-9)))

    def residual(self, draft: Array, target: Array) -> WithoutRejected:
        """Return the target without the rejected token."""
        return WithoutRejected(target)


@dataclass(frozen=True, kw_only=True)
class BiLD(_GreedyReplacement):
    """Big little decoder: accept while -log target(x) <= rollback, else replace by the target's argmax.

    Published with a greedy draft; evaluate it with a one-hot draft law for that. Off the TV front. Its fallback
    threshold, 0.6, only decides how many tokens are drafted.

    Parameters
    ----------
    rollback
        Nats, at least 0; published 5, and 2 to 5 in its documentation. Larger accepts more.

    Notes
    -----
    Kim et al., arXiv 2302.07863, `T5BiLDModel`. The cross entropy is that of raw logits: pass `target_logits` if the
    target law carries a temperature or a mask. The bonus is greedy, as all its text.
    """

    rollback: float = 5.0

    def __post_init__(self) -> None:
        at_least("rollback", self.rollback, 0.0, "larger accepts more")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return 1 where target >= exp(-rollback), else 0, `[..., vocab]`."""
        # beyond 745 nats the exponential is 0, and a token without mass is infinitely far
        return indicator((target >= math.exp(-self.rollback)) & (target > 0), target)

    def with_logits(self, draft_logits: Array | None, target_logits: Array | None) -> Rule:
        """The same rule reading softmax(target_logits) in place of the target law."""
        return _reading_raw(self, target_logits)


@dataclass(frozen=True, kw_only=True)
class MARS(_GreedyReplacement):
    """Accept the target's best token, and its second best if the ratio of their raw logits exceeds theta.

    Replacement and bonus are the target's argmax. A ratio of logits changes when a constant is added to all of them,
    though no law does: two models with equal laws are treated differently. Where the best logit is not positive the
    ratio means nothing; the comparison is made as published.

    Parameters
    ----------
    theta
        At most 1 where logits are positive; published 0.9. Smaller accepts more.

    Notes
    -----
    arXiv 2601.15498, known to us from the SecureSD code. Needs `target_logits`.
    """

    theta: float = 0.9

    def __post_init__(self) -> None:
        at_least("theta", self.theta, 0.0, "smaller accepts more")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Refused: laws do not determine raw logits."""
        raise _needs_logits("MARS", "target_logits=")

    def with_logits(self, draft_logits: Array | None, target_logits: Array | None) -> Rule:
        """The rule at positions with these logits, `[..., vocab]`."""
        if target_logits is None:
            return self
        xp = array_namespace(target_logits)
        best = greedy_law(target_logits)
        top = xp.max(target_logits, axis=-1, keepdims=True)
        others = xp.where(best > 0, xp.full_like(target_logits, -math.inf), target_logits)
        second = greedy_law(others)
        runner_up = xp.max(others, axis=-1, keepdims=True)
        # written as a quotient, as published: its sign is part of the rule
        close = runner_up / xp.where(top == 0, xp.ones_like(top), top) > self.theta
        close = close & (top != 0) & xp.isfinite(runner_up)
        return _Decided(self, best + second * indicator(close, best))


@dataclass(frozen=True)
class LogitComparison:
    """Accept x iff the target's raw logit is at least the draft's, up to 1e-5; replace by a sample of the target.

    Adding a constant to one model's logits changes everything, though no law: the rule has no meaning of its own.

    Notes
    -----
    Modular MAX's `logit-comparison` strategy. The replacement is recalled, not checked. Needs `draft_logits` and
    `target_logits`.
    """

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Refused: laws do not determine raw logits."""
        raise _needs_logits("LogitComparison", "draft_logits= and target_logits=")

    def residual(self, draft: Array, target: Array) -> Array:
        """Return the target, `[..., vocab]`."""
        return target

    def with_logits(self, draft_logits: Array | None, target_logits: Array | None) -> Rule:
        """The rule at positions with these logits, `[..., vocab]`."""
        if draft_logits is None or target_logits is None:
            return self
        return _Decided(self, indicator(draft_logits <= target_logits + 1e-5, target_logits))


@dataclass(frozen=True, eq=False)
class _Decided:
    """A rule whose acceptance was computed from logits."""

    rule: Rule
    accepted: Array

    def __repr__(self) -> str:
        return repr(self.rule)

    def acceptance(self, draft: Array, target: Array) -> Array:
        return self.accepted

    def residual(self, draft: Array, target: Array) -> Any:
        return self.rule.residual(draft, target)

    def bonus(self, draft: Array, target: Array) -> Array:
        return bonus_law(self.rule, draft, target)


@dataclass(frozen=True, eq=False)
class _OnRawTarget:
    """A rule that reads the law of the raw logits, whatever law is sampled."""

    rule: Rule
    raw: Array

    def __repr__(self) -> str:
        return repr(self.rule)

    def acceptance(self, draft: Array, target: Array) -> Array:
        return self.rule.acceptance(draft, self.raw)

    def residual(self, draft: Array, target: Array) -> Any:
        return self.rule.residual(draft, self.raw)

    def bonus(self, draft: Array, target: Array) -> Array:
        return bonus_law(self.rule, draft, self.raw)


def _reading_raw(rule: Rule, target_logits: Array | None) -> Rule:
    if target_logits is None:
        return rule
    xp = array_namespace(target_logits)
    masses = xp.exp(target_logits - xp.max(target_logits, axis=-1, keepdims=True))
    return _OnRawTarget(rule, masses / mass(masses, keepdims=True))


def _needs_logits(rule: str, arguments: str) -> InputError:
    return InputError(f"{rule}: expected raw logits, which it compares; got laws alone; pass {arguments}")
