"""Rules with a virtual target of its own for every drafted token; their replacement depends on the rejected one."""

import math
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from solvers.arrays import Array, like, mass, normalised, positive_part, safe_divide, to_numpy
from solvers.errors import InputError
from solvers.roots import monotone_root
from tradeoff.rules.kernels import ScaledResidual
from tradeoff.rules.parts import at_least, between, capped, whole


@dataclass(frozen=True, kw_only=True)
class Cactus:
    """Cactus: verify x against the law h within KL(h, target) <= delta that gives x the most.

    h(x) = gamma(x), the other tokens rescaled by (1 - gamma) / (1 - target(x)); b = min(1, gamma / draft), residual
    [h - draft]_+ with the rejected token's h, bonus from the target. On the TV front; in KL it is worse than the ratio
    clip at equal rejection. It never leaks.

    Parameters
    ----------
    delta
        Nats, at least 0, which is lossless; published runs use 0.75 and 1 (0.1 to 10 elsewhere). It bounds the
        divergence of a law that is never sampled, not that of the output.
    exact
        False, as published: gamma = min(1, target + sqrt(2 delta target (1 - target))), which keeps its bound only
        where gamma <= 1/2. True: the root of the KL constraint.

    Notes
    -----
    arXiv 2604.04987, Corollary 6; `solve_constraint` and `CactusRejectionSampler` in its code, where a residual of
    zeros is possible; here it is the target.
    """

    delta: float
    exact: bool = False

    def __post_init__(self) -> None:
        at_least("delta", self.delta, 0.0, "0 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, gamma / draft), `[..., vocab]`."""
        return capped(safe_divide(self._boosted(draft, target), draft, 1.0))

    def residual(self, draft: Array, target: Array) -> ScaledResidual:
        """Return [h - draft]_+, normalised; off the rejected token h is the target times one number."""
        scale = safe_divide(1.0 - self._boosted(draft, target), 1.0 - target, 1.0)
        return ScaledResidual(draft, target, scale)

    def _boosted(self, draft: Array, target: Array) -> Array:
        """gamma, `[..., vocab]`."""
        xp = array_namespace(draft, target)
        if not self.exact or self.delta == 0:  # a root this flat is found to 1e-8, and lossless means lossless
            return capped(target + xp.sqrt(2.0 * self.delta * target * positive_part(1.0 - target)))
        p, q = to_numpy(draft), to_numpy(target)
        # nothing depends on gamma where the target alone accepts
        open_ = (q > 0) & (q < 1) & (p > q) & (self.delta < -np.log(np.where(q > 0, q, 1.0)))
        boosted = np.where(open_ | (q <= 0), q, 1.0)
        start = q[open_]

        def excess(gamma: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):
                other = np.where(gamma < 1, (1 - gamma) * np.log((1 - gamma) / (1 - start)), 0.0)
                return gamma * np.log(gamma / start) + other - self.delta

        boosted[open_] = monotone_root(excess, low=start, high=np.ones_like(start), step=1e-14).value
        return like(boosted, target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lantern:
    """LANTERN: a drafted token is judged by the target's mass on its neighbourhood A(x).

    A(x) holds x and its nearest neighbours, as many as keep the target's mass on them at most delta (and at most k);
    q_A(x) moves that mass to x. b = min(1, q_A(x) / draft(x)), residual [q_A - draft]_+ with the rejected token's q_A.
    On the TV front. It leaks onto tokens without mass whose neighbours have some.

    Parameters
    ----------
    neighbours
        For every token its neighbours, nearest first and without itself, `[vocab, most]` of token indices.
    k
        How many of them to consider; by default all.
    delta
        In [0, 1]: total variation between target and q_A at most; 0 is lossless. Published 0.05 to 0.4, k up to 1000.

    Notes
    -----
    Jang et al., arXiv 2410.03355, known to us in part from secondary sources: the residual is recalled. The residual
    is a `[..., vocab, vocab]` array, for the codebooks of visual models and not for a language model's vocabulary.
    """

    neighbours: Array
    delta: float
    k: int | None = None

    def __post_init__(self) -> None:
        between("delta", self.delta, 0.0, 1.0, "0 is lossless")
        if self.k is not None:
            whole("k", self.k)
        table = _host(self.neighbours)
        if table.ndim != 2 or table.dtype.kind not in "iu":
            raise InputError(f"neighbours: expected token indices, [vocab, most]; got {table.dtype} {table.shape}")
        if ((table < 0) | (table >= len(table)) | (table == np.arange(len(table))[:, None])).any():
            raise InputError(f"neighbours: expected other tokens in every row, 0 to {len(table) - 1}; got others")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return min(1, q_A(x) / draft(x)), `[..., vocab]`."""
        return like(np.clip(to_numpy(safe_divide(self._gathered(target)[0], draft, 1.0)), 0.0, 1.0), draft)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [q_A - draft]_+, normalised, `[..., vocab, vocab]`."""
        xp = array_namespace(draft)
        vocab, (gathered, taken) = target.shape[-1], self._gathered(target)
        q = to_numpy(target)
        laws = np.broadcast_to(q[..., None, :], (*q.shape, vocab)).copy()
        rows = np.broadcast_to(_host(self.neighbours)[:, : taken.shape[-1]], taken.shape)
        np.put_along_axis(laws, rows, np.where(taken, 0.0, np.take_along_axis(laws, rows, axis=-1)), axis=-1)
        token = np.arange(vocab)
        laws[..., token, token] = to_numpy(gathered)
        aggregated = like(laws, draft)
        wide = xp.expand_dims(target, axis=-2) + xp.zeros_like(aggregated)
        return normalised(positive_part(aggregated - xp.expand_dims(draft, axis=-2)), wide)

    def _gathered(self, target: Array) -> tuple[Array, np.ndarray]:
        """q_A(x), `[..., vocab]`, and which neighbours are in A, `[..., vocab, k]`."""
        table = _host(self.neighbours)
        if table.shape[0] != target.shape[-1]:
            raise InputError(f"neighbours: expected one row to a token, {target.shape[-1]}; got {table.shape[0]}")
        q = to_numpy(target)
        nearby = q[..., table[:, : self.k]]
        taken = np.cumsum(nearby, axis=-1) <= self.delta
        return like(q + (nearby * taken).sum(axis=-1), target), taken


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Judge decoding: accept what speculative sampling accepts, and whatever an external judge scores above threshold.

    b = max(min(1, target / draft), 1[score > threshold]), residual [target - draft]_+ / TV. On the TV front.

    Parameters
    ----------
    scores
        The judge's scores at these positions, broadcast to `[..., vocab]`.
    threshold
        Any number; with scores in [0, 1], 1 is lossless.

    Notes
    -----
    Bachmann et al., arXiv 2501.19309, known to us from a secondary source; AutoJudge (arXiv 2504.20039) asks its
    judge where greedy tokens differ, the same rule on one-hot laws; SPRINTER (arXiv 2502.04557) predicts acceptance.
    """

    scores: Array
    threshold: float

    def __post_init__(self) -> None:
        between("threshold", self.threshold, -math.inf, math.inf, "with scores in [0, 1], 1 is lossless")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return the larger of the lossless acceptance and the judge's, `[..., vocab]`."""
        xp = array_namespace(draft, target)
        accepted = capped(safe_divide(target, draft, 1.0))
        return xp.where(_on(self.scores, "scores", draft) > self.threshold, xp.ones_like(accepted), accepted)

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+, normalised, `[..., vocab]`."""
        return normalised(positive_part(target - draft), target)


@dataclass(frozen=True, kw_only=True, eq=False)
class RewardGuided:
    """Reward-guided speculative decoding: accept with probability w(reward), else sample the target afresh.

    b = w, residual = target: like Decoding-UNO it is off the TV front. The "tokens" are reasoning steps; laws over
    steps are only known in toy cases, and there this is exact.

    Parameters
    ----------
    rewards
        Of each step, broadcast to `[..., vocab]`.
    weighting
        w: "clip" min(1, max(0, r)), "threshold" 1[r >= threshold], "ratio" r / (1 + r) for r >= 0, or "logistic".
    threshold
        For "threshold".

    Notes
    -----
    Liao et al., arXiv 2501.19324.
    """

    rewards: Array
    weighting: str = "clip"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.weighting not in ("clip", "threshold", "ratio", "logistic"):
            raise InputError(f"weighting: expected 'clip', 'threshold', 'ratio' or 'logistic'; got {self.weighting!r}")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return w(reward), `[..., vocab]`."""
        xp = array_namespace(draft, target)
        reward = _on(self.rewards, "rewards", draft)
        if self.weighting == "clip":
            return capped(reward)
        if self.weighting == "threshold":
            return xp.astype(reward >= self.threshold, draft.dtype)
        if self.weighting == "logistic":
            small = xp.exp(-xp.abs(reward))
            return xp.where(reward > 0, xp.ones_like(small), small) / (1.0 + small)
        return positive_part(reward) / (1.0 + positive_part(reward))

    def residual(self, draft: Array, target: Array) -> Array:
        """Return the target, `[..., vocab]`."""
        return target


@dataclass(frozen=True, kw_only=True, eq=False)
class CSD:
    """Calibrated speculative decoding: a rejected token is rescued if its replacement is a known harmless confusion.

    After the ordinary rejection draw t from [target - draft]_+; x is kept after all if frequencies[x, t] >= frequency
    and log target(x) - log target(t) >= log(ratio). A rescue counts as an acceptance: b and the residual, a law for
    every rejected token, are those after rescues. On the TV front: a rescue only takes mass from a token t that the
    target gives more than the draft does.

    Parameters
    ----------
    frequencies
        How often the confusion (x, t) was seen to be harmless, `[vocab, vocab]`.
    frequency
        lambda, the least frequency that counts.
    ratio
        tau, the least target(x) / target(t), > 0.

    Notes
    -----
    arXiv 2604.13634. The residual is a `[..., vocab, vocab]` array: for small vocabularies, to understand a table by.
    """

    frequencies: Array
    frequency: float
    ratio: float

    def __post_init__(self) -> None:
        if not (self.ratio > 0 and math.isfinite(self.ratio)):
            raise InputError(f"ratio: expected a finite number > 0; got {self.ratio}")

    def acceptance(self, draft: Array, target: Array) -> Array:
        """Return the ordinary acceptance plus what is rescued of the rest, `[..., vocab]`."""
        strict = capped(safe_divide(target, draft, 1.0))
        ordinary, rescued = self._split(draft, target)
        return capped(strict + (1.0 - strict) * mass(ordinary * rescued))

    def residual(self, draft: Array, target: Array) -> Array:
        """Return [target - draft]_+ without the rescuing tokens, normalised, `[..., vocab, vocab]`."""
        ordinary, rescued = self._split(draft, target)
        return normalised(ordinary * (1.0 - rescued), ordinary + array_namespace(ordinary).zeros_like(rescued))

    def _split(self, draft: Array, target: Array) -> tuple[Array, Array]:
        """Ordinary residual `[..., 1, vocab]`, and 1 where t rescues x, `[..., vocab, vocab]`."""
        xp, vocab = array_namespace(draft, target), target.shape[-1]
        table = _host(self.frequencies)
        if table.shape != (vocab, vocab):
            raise InputError(f"frequencies: expected shape {(vocab, vocab)}; got {table.shape}")
        kept, replacement = xp.expand_dims(target, axis=-1), xp.expand_dims(target, axis=-2)
        known = like((table >= self.frequency).astype(np.float64), draft)
        close = xp.astype(kept >= self.ratio * replacement, draft.dtype)
        ordinary = normalised(positive_part(target - draft), target)
        return xp.expand_dims(ordinary, axis=-2), known * close


def _host(values: Array) -> np.ndarray:
    """A user's numbers, an array of any library or nested lists."""
    return to_numpy(values) if is_array_api_obj(values) else np.asarray(values)


def _on(values: Array, name: str, laws: Array) -> Array:
    """Broadcast a user's numbers to the laws."""
    try:
        numbers = np.broadcast_to(_host(values), tuple(laws.shape)).astype(np.float64)
    except ValueError:
        raise InputError(
            f"{name}: expected numbers that broadcast to {tuple(laws.shape)}; got shape {np.shape(values)}"
        ) from None
    if np.isnan(numbers).any():
        raise InputError(f"{name}: expected numbers; got NaN")
    return like(numbers, laws)
