"""Several drafted sequences from one prefix: Theorem 3, its recursion, and Algorithm 4 step by step.

Letters in the formula functions: p draft law, q target law, q^1 = q and q^{m+1} = [q^m - p]_+ normalised, the law that
is left of the target after m rejected drafts; r_m = TV(q^m, p). A batch starts at a *root*: at the beginning of
the text, and after every token that replaced a rejected one. At a root up to M drafts are judged, one after the
other; behind it the sequence of the accepted draft is judged as in Algorithm 1.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from solvers.arrays import mass, positive_part
from solvers.divergences import total_variation
from solvers.errors import InputError
from solvers.multi_draft import left_after
from tradeoff.chains.chain import MarkovChain, next_state, paired, whole
from tradeoff.chains.rejections import Rejections, acceleration, advance, start, variance

MOST_DRAFTS = 10_000
"""Drafts are taken off one by one; the limit M = infinity has a formula of its own."""

Version = Literal["corrected", "late residual", "printed"]
"""How Algorithm 4 is read; see `batch_algorithm`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchRejections:
    """Theorem 3's two sums, step by step.

    Parameters
    ----------
    lossless
        Rejection probability with one draft at each step, `[T]`: the sum of Theorem 1.
    improvement
        What the other drafts of the batch take off it, `[T]`.
    roots
        Mass of the prefixes before each step after which a batch starts, by state, `[T, states]`: the theorem's f,
        summed over the prefixes that end in a state.
    """

    lossless: np.ndarray
    improvement: np.ndarray
    roots: np.ndarray

    @property
    def per_step(self) -> np.ndarray:
        """Rejection probability at each step, `[T]`."""
        return self.lossless - self.improvement

    @property
    def mean(self) -> float:
        """Expected rejections over the text, E[N]; `float()` gives it too."""
        return float(self.per_step.sum())

    def __float__(self) -> float:
        return self.mean

    @property
    def acceleration(self) -> float:
        """T / E[N], the paper's measure of speed; infinite if nothing is ever rejected."""
        return acceleration(len(self.lossless), self.mean)


def batch_expected_rejections(
    draft: MarkovChain,
    target: MarkovChain,
    drafts: float,
    horizon: int | None = None,
    *,
    first_root: float = 1.0,
) -> BatchRejections:
    """Compute the expected rejections of batch speculative decoding (Theorem 3).

    E[N] = sum_n E_{x_<n ~ q}[TV(q, p)] - sum_n sum_{x_<n} f(x_<n) (TV(q, p) - prod_m r_m), with

    f(x_1:n) = [q - p]_+(x_n) (q(x_<n) - f(x_<n)) + prod_m r_m q^{M+1}(x_n) f(x_<n),

    the probability of the text x_1:n with its last token replaced. In a Markov chain the laws depend on the state
    alone, so f can be summed over all prefixes that end in a state: one vector to a step.

    Parameters
    ----------
    draft, target, horizon
        As in `expected_rejections`.
    drafts
        Drafted sequences M of a batch, at least 1, or infinity.
    first_root
        f before the first token. The paper does not state it; its meaning, and Algorithm 4, require 1, since every
        text begins with a batch. With 0 the first step is counted as if it had one draft; the curves published in
        Figures 2 and 5 are closer to that.

    Returns
    -------
    BatchRejections

    Raises
    ------
    InputError
        As in `expected_rejections`, or a number of drafts below 1.

    Notes
    -----
    Yin et al., arXiv 2411.00841, Theorem 3 and equation (22); the limit M = infinity is Proposition 1 (see
    `root_residual`). `batch_algorithm` computes the same from the algorithm itself.
    """
    pair = paired(draft, target, horizon)
    if not isinstance(first_root, int | float | np.number) or not 0.0 <= first_root <= 1.0:
        raise InputError(f"first_root: expected a probability in [0, 1]; got {repr(first_root)[:80]}; 1 is Algorithm 4")
    p, q = (np.stack(laws) for laws in zip(*pair.laws, strict=True))
    steps = list(zip(q, positive_part(q - p), root_residual(p, q, drafts=drafts), strict=True))
    text, roots = pair.initial, first_root * pair.initial
    lossless, improvement, visited = [], [], []
    for step in range(pair.horizon):
        law, single, several = steps[min(step, len(steps) - 1)]
        visited.append(roots)
        lossless.append(text @ mass(single))
        improvement.append(roots @ (mass(single) - mass(several)))
        roots = next_state((text - roots)[:, None] * single + roots[:, None] * several)
        text = next_state(text[:, None] * law)
    return BatchRejections(lossless=np.array(lossless), improvement=np.array(improvement), roots=np.stack(visited))


def root_residual(draft: Any, target: Any, *, drafts: float) -> np.ndarray:
    """Probability that a root rejects all its drafts and then emits each token, prod_m r_m q^{M+1}, `[..., vocab]`.

    With v^1 = q and v^{m+1} = [v^m - p sum v^m]_+ this is v^{M+1}: no law has to be normalised on the way. Its sum is
    the probability that all drafts are rejected.

    The limit M = infinity (Proposition 1) is q where p = 0 and 0 elsewhere. A token with p > 0 loses p sum v^m at every
    step, so sum v > 0 cannot last unless it sits where p = 0, where nothing is ever taken away. The product of the r_m
    therefore vanishes only if the draft can propose all that the target can emit.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, float64.
    drafts
        Drafts M, at least 1, or infinity.

    Raises
    ------
    InputError
        A number of drafts below 1.
    """
    _check_drafts(drafts)
    if drafts == math.inf:
        return np.where(draft > 0, 0.0, target)
    left = target
    for _ in range(int(drafts)):
        left = positive_part(left - mass(left, keepdims=True) * draft)
    return left


def batch_improvement(draft: Any, target: Any, *, drafts: float) -> np.ndarray:
    """TV(q, p) - prod_m r_m: what `drafts` of them in place of one take off a root's rejection, `[...]`.

    Parameters
    ----------
    draft, target, drafts
        As in `root_residual`.

    Raises
    ------
    InputError
        A number of drafts below 1.

    Notes
    -----
    Two closed forms of the paper, for checks: p uniform and q uniform on 1 / r of its tokens gives
    (1 - 1/r) - (1 - 1/r)^M; p = Ber(u) and q = Ber(v) with u >= v give (u - v)(1 - u^{M-1}).
    """
    return total_variation(draft, target) - mass(root_residual(draft, target, drafts=drafts))


@dataclass(frozen=True, kw_only=True, eq=False)
class RootOutcome:
    """What a root does, exactly.

    Parameters
    ----------
    target
        `[..., vocab]`.
    accepted
        Probability of accepting each token as one of the drafts, `[..., vocab]`.
    replaced
        Probability of emitting each token after all drafts are rejected, `[..., vocab]`.
    """

    target: np.ndarray
    accepted: np.ndarray
    replaced: np.ndarray

    @property
    def rejection(self) -> np.ndarray:
        """Probability that all drafts are rejected, `[...]`."""
        return mass(self.replaced)

    @property
    def output_law(self) -> np.ndarray:
        """Law of the emitted token, `[..., vocab]`."""
        return self.accepted + self.replaced

    @property
    def tv(self) -> np.ndarray:
        """TV(output, target), `[...]`: the bias; 0 in the corrected version."""
        return total_variation(self.output_law, self.target)


def judge_root(draft: Any, target: Any, *, drafts: int, version: Version = "corrected") -> RootOutcome:
    """Judge drafts one by one, as Algorithm 4 does at the first place of a batch.

    Draft m is accepted with probability min(1, q^m / p). The replacement after the last is drawn from q^{M+1} in
    the corrected version; see `batch_algorithm` for the others.

    Parameters
    ----------
    draft, target
        Laws `[..., vocab]`, float64.
    drafts
        Drafts, a whole number of at least 1.
    version
        As in `batch_algorithm`.

    Raises
    ------
    InputError
        A number of drafts that is not whole, an unknown version.
    """
    whole("drafts", drafts)
    _check_drafts(drafts)
    if version not in get_args(Version):
        raise InputError(f"version: expected {' or '.join(map(repr, get_args(Version)))}; got {version!r}")
    accepted, reached, law = np.zeros_like(target), 1.0, target
    for _ in range(1 if version == "printed" else drafts):
        kept = np.minimum(draft, law)
        accepted = accepted + reached * kept
        reached = reached * positive_part(1.0 - mass(kept, keepdims=True))
        law = left_after(draft, law)
    law = law if version == "corrected" else left_after(draft, law)
    return RootOutcome(target=target, accepted=accepted, replaced=np.asarray(reached * law))


def batch_algorithm(
    draft: MarkovChain,
    target: MarkovChain,
    *,
    drafts: int,
    horizon: int | None = None,
    version: Version = "corrected",
) -> Rejections:
    """Compute the rejections of Algorithm 4 by a dynamic programme over (state, root or not), with their variance.

    Nothing of Theorem 3 is used: drafts are judged one by one, and prefixes follow the text that is written.

    Parameters
    ----------
    draft, target, horizon
        As in `expected_rejections`.
    drafts
        Drafted sequences of a batch, a whole number of at least 1.
    version
        "corrected": what Theorem 3 is about, and lossless. "printed": Algorithm 4 to the letter, in which two lines
        went wrong. Its last `else` stands inside the loop over sequences, so the batch ends after the first of them;
        and it draws the replacement from [q - p]_+ although q was already replaced by [q - p]_+ there, hence from
        q^{m+2} after m drafts. "late residual": the second slip alone, with all M drafts judged.

    Returns
    -------
    Rejections
        `state_laws` are those of the text that is written: the target's in the corrected version alone.

    Raises
    ------
    InputError
        As in `expected_rejections` and `judge_root`.

    Notes
    -----
    Yin et al., arXiv 2411.00841, Algorithm 4.
    """
    pair = paired(draft, target, horizon)
    steps = [
        (judge_root(p, q, drafts=drafts, version=version), np.minimum(p, q), positive_part(q - p)) for p, q in pair.laws
    ]
    at_root = start(pair.initial)
    inside = np.zeros_like(at_root)
    per_step, laws = [], [pair.initial]
    for step in range(pair.horizon):
        first, kept, replaced = steps[min(step, len(steps) - 1)]
        per_step.append(at_root[0] @ first.rejection + inside[0] @ mass(replaced))
        from_root = advance(at_root, first.accepted, first.replaced)
        from_inside = advance(inside, kept, replaced)
        inside, at_root = (one + other for one, other in zip(from_root, from_inside, strict=True))
        laws.append(at_root[0] + inside[0])
    return Rejections(per_step=np.array(per_step), variance=variance(at_root + inside), state_laws=np.stack(laws))


def _check_drafts(drafts: float) -> None:
    if isinstance(drafts, float) and drafts == math.inf:
        return
    whole("drafts", int(drafts) if isinstance(drafts, float) and drafts.is_integer() else drafts)
    if drafts > MOST_DRAFTS:
        raise InputError(f"drafts: expected at most {MOST_DRAFTS}, one pass over the laws each, or inf; got {drafts}")
