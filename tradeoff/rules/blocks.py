"""Published rules that judge a whole drafted block: they look ahead, couple its positions, or carry a state."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from solvers.arrays import normalised, positive_part
from solvers.closed_form import block_clip
from solvers.errors import InputError
from tradeoff.rule import Block, Verdict
from tradeoff.rules.parts import check_prices, price_at


@dataclass(frozen=True)
class BlockVerification:
    """Block verification: lossless, and keeps at least as many tokens per round as speculative sampling, on average.

    With p the draft's laws, q the target's, p_0 = 1 and p_i = min(1, p_{i-1} q(x_i) / p(x_i)), the probability that
    prefix i is still owed to the target, let

        S_i = sum_y [p_i q(y | x_1 .. x_i) - p(y | x_1 .. x_i)]_+,    h_i = S_i / (S_i + 1 - p_i),    h_k = p_k.

    The largest i that passes an independent coin of probability h_i is kept (h_0 = 1). The token after it has law
    [p_i q - p]_+ normalised, and q after the whole block.

    Sun et al., ICLR 2025, arXiv 2403.10444; the code of arXiv 2601.05724 (ZhouYuxuanYX/Fast-HSD,
    simulation/algorithm.py, `block`) draws the replacement at every i and keeps the last one that passed, which is the
    same law. Pitfall: where p_i = 1 and the next laws agree, h_i is 0/0; any number will do, since p_{i+1} = 1 then and
    a longer prefix passes for certain, and 1 keeps h_0 = 1.
    """

    def initial_state(self) -> Hashable:
        """Return (): rounds are independent."""
        return ()

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the law of the largest passing prefix and its replacement laws."""
        return verified_jointly(block, block.target[:-1])


@dataclass(frozen=True, kw_only=True)
class BlockPrice:
    """The block price rule: one price per stop, and block verification of the laws it shapes.

    With w_0 = 1, along the drafted tokens x_1 .. x_k and the draft's and target's laws p_i, q_i after i - 1 of them,

        pi_i = clip(p_i / w_{i-1}, c q_i, c e^price q_i) with sum 1,    w_i = min(1, w_{i-1} pi_i(x_i) / p_i(x_i)),

    and then block verification of pi_1 .. pi_k: at least i tokens are kept with probability w_i over the draws after
    x_i, and the token after a kept prefix has the law pi_{i+1} exactly. Only laws along the drafted path are needed.
    Price 0 is `BlockVerification`, and a block of one token `CommonPrice`.

    Parameters
    ----------
    price
        Nats per stop, >= 0, or one price a place, of which longer blocks repeat the last. A spec takes one number.

    Notes
    -----
    docs/theory.md T16.
    """

    price: float | tuple[float, ...]

    def __post_init__(self) -> None:
        check_prices("price", self._prices, "a number >= 0 (nats per stop), or a tuple of them", self.price)

    @property
    def _prices(self) -> tuple[float, ...]:
        return self.price if isinstance(self.price, tuple) else (self.price,)

    def initial_state(self) -> Hashable:
        """Return (): rounds are independent."""
        return ()

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the law of the number of kept tokens and the laws that follow them."""
        return verified_jointly(block, self.shaped(block))

    def shaped(self, block: Block) -> np.ndarray:
        """The laws pi_1 .. pi_k along the block, `[k, vocab]`."""
        weight, laws = 1.0, np.empty_like(block.target[:-1])
        for place, token in enumerate(block.drafted):
            draft = block.draft[place]
            laws[place] = block_clip(draft, block.target[place], np.asarray(weight), price_at(self._prices, place))
            weight = _owed(weight, float(laws[place, token]), float(draft[token]))
        return laws


def verified_jointly(block: Block, laws: np.ndarray) -> Verdict:
    """Block verification of the laws `[k, vocab]`, which may depend on the tokens before theirs; the target follows."""
    draft = block.draft[: len(block.drafted)]
    owed = [1.0]
    for token, p, law in zip(block.drafted, draft, laws, strict=True):
        owed.append(_owed(owed[-1], float(law[token]), float(p[token])))
    replaced = positive_part(np.array(owed[:-1])[:, None] * laws - draft)
    passing = [_share(float(mass), 1.0 - rest) for mass, rest in zip(replaced.sum(axis=-1), owed, strict=False)]
    accepted, fails_later = [], 1.0
    for chance in reversed([*passing, owed[-1]]):
        accepted.append(chance * fails_later)
        fails_later *= 1.0 - chance
    following = np.concatenate([normalised(replaced, laws), block.target[-1:]])
    return Verdict(accepted=np.array(accepted[::-1]), following=following)


def _owed(before: float, law: float, draft: float) -> float:
    """min(1, before law / draft); not the quotient first, which overflows for a draft mass of 1e-300."""
    return 1.0 if before * law >= draft else before * law / draft


def _share(part: float, other: float) -> float:
    """Part / (part + other), and 1 for 0 / 0."""
    return 1.0 if part == other == 0.0 else part / (part + other)


@dataclass(frozen=True)
class FLy:
    """FLy: a mismatch is forgiven where the target is uncertain and agrees with the draft right after it.

    Greedy. A drafted token x_i that is the target's most likely one is kept. Any other is kept if the target's entropy
    at i is at least `entropy`, the next `window` - 1 drafted tokens are all the target's most likely ones, and x_i is
    not among the last `window` of the block. The first token not kept is replaced by the target's most likely one,
    which also follows a block kept whole.

    Parameters
    ----------
    window
        The mismatch and the tokens that must match after it; 6 as published. Blocks of at most this length, where the
        published block has 15, are judged by exact match.
    entropy
        Least entropy of the target at a forgiven mismatch; 0.3 as published. 0 switches the gate off.
    entropy_form
        "full": entropy over the whole vocabulary divided by its logarithm, in [0, 1], as the paper has it. "top3": the
        three largest terms -p log p, in nats, not renormalised, as its code has it. They are different scales.

    Notes
    -----
    Li et al., arXiv 2511.22972; AMD-AGI/FLy, fly/models/FLy.py, `rej_by_entropy` and the mask `updated_accept` of
    `generate_chunks`. The last `window` positions are strict there, so the one mismatch whose window ends exactly with
    the block is refused as well. The entropy is that of the raw logits: one-hot laws must come with theirs.
    """

    window: int = 6
    entropy: float = 0.3
    entropy_form: Literal["full", "top3"] = "full"

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or self.window < 1:
            raise InputError(f"window: expected a whole number of tokens, at least 1; got {self.window!r}")
        _check_finite("entropy", self.entropy)
        if self.entropy_form not in ("full", "top3"):
            raise InputError(f"entropy_form: expected 'full' or 'top3'; got {self.entropy_form!r}")

    def initial_state(self) -> Hashable:
        """Return (): rounds are independent."""
        return ()

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the certain number of kept tokens; the target's most likely token follows."""
        count, best = len(block.drafted), block.target.argmax(axis=-1)
        matches = [token == top for token, top in zip(block.drafted, best, strict=False)]
        uncertain = _entropy(block.target_logits, self.entropy_form) >= self.entropy
        kept = 0
        while kept < count and (matches[kept] or (uncertain[kept] and self._recovers(matches, kept))):
            kept += 1
        return Verdict(accepted=_certain(kept, count), following=_one_hot(best, block.target.shape[-1]))

    def _recovers(self, matches: list[bool], position: int) -> bool:
        return position < len(matches) - self.window and all(matches[position + 1 : position + self.window])


def _entropy(logits: np.ndarray, form: str) -> np.ndarray:
    """Entropy of softmax(logits) over the last axis, in one of FLy's two forms."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    law = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    vocab = law.shape[-1]
    if form == "top3":
        law = np.sort(law, axis=-1)[..., -3:]
    entropy = -(law * np.log(np.where(law > 0, law, 1.0))).sum(axis=-1)
    return entropy if form == "top3" or vocab == 1 else entropy / math.log(vocab)


@dataclass(frozen=True)
class Consultant:
    """Consultant decoding: a token is kept if the target finds it, or the recent text with it, likely enough.

    With n_i = -log target(x_i) and the moving average r_i = smoothing r_{i-1} + (1 - smoothing) n_i, x_i is kept if
    n_i <= threshold or r_i <= threshold. The first token not kept is replaced by a draw from the target, which also
    follows a block kept whole. The draft's law plays no part.

    Parameters
    ----------
    threshold
        In nats, 2.0 as published: about the loss that scaling laws give a large model.
    smoothing
        Weight of the past, in [0, 1); 0.2 as published. 0 leaves n_i <= threshold.

    Notes
    -----
    Ding et al., Findings of ACL 2025, arXiv 2506.02391. Taken from secondary descriptions, which leave three things
    open. That either test suffices, and not the average alone, follows one of them. The average starts at the first
    token's own n. It runs over the text as emitted, so a rejected token leaves it and its replacement enters it.
    """

    threshold: float = 2.0
    smoothing: float = 0.2

    def __post_init__(self) -> None:
        _check_finite("threshold", self.threshold)
        if not 0 <= self.smoothing < 1:
            raise InputError(f"smoothing: expected a weight in [0, 1); got {self.smoothing}")

    def initial_state(self) -> Hashable:
        """Return None: there is no average before the first token."""
        return None

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the certain number of kept tokens; the target's law follows; the state is the average."""
        count, averages = len(block.drafted), [state]
        for token, law in zip(block.drafted, block.target, strict=False):
            surprise = _surprise(float(law[token]))
            average = self._average(averages[-1], surprise)
            if min(surprise, average) > self.threshold:
                break
            averages.append(average)

        def carried(kept: int, token: int) -> Hashable:
            return self._average(averages[kept], _surprise(float(block.target[kept, token])))

        return Verdict(accepted=_certain(len(averages) - 1, count), following=block.target, state=carried)

    def _average(self, before: Hashable, surprise: float) -> float:
        if not isinstance(before, float):
            return surprise
        return self.smoothing * before + (1.0 - self.smoothing) * surprise


def _surprise(probability: float) -> float:
    return -math.log(probability) if probability > 0 else math.inf


@dataclass(frozen=True)
class ApproximateSD:
    """Approximate speculative decoding (ASD): mismatches are bought from a budget of logit regret.

    Greedy. A drafted token that is the target's most likely one is free. Any other at position i = 0, 1, .. of a block
    of k costs its regret r_i = max_v z(v) - z(x_i) in the target's logits and is kept while

        r_i / (k - i) <= tolerance,   spent + r_i <= budget over the whole text,   at most `mismatches` in the block.

    The first token not kept is replaced by the target's most likely one, which also follows a block kept whole.

    Parameters
    ----------
    budget
        B, logits over the whole text; 8 in the authors' frozen configuration.
    mismatches
        M, kept mismatches per block; 2 there.
    tolerance
        g, logits per token of the block that is left; 0.25 there. Any of the three at 0 is exact match.

    Notes
    -----
    arXiv 2608.03447; Kissmetothemoon/ASD, src/asd/budget.py, `choose_prefix`, whose slack of 1e-9 in the budget is not
    kept. Pitfalls: the same repository's DSpark variant divides by (k - i) / k instead, so its g is k times larger; a
    short last block is stricter than a full one; logits are compared, so a temperature rescales every parameter.
    """

    budget: float = 8.0
    mismatches: int = 2
    tolerance: float = 0.25

    def __post_init__(self) -> None:
        _check_finite("budget", self.budget)
        _check_finite("tolerance", self.tolerance)
        if not isinstance(self.mismatches, int) or self.mismatches < 0:
            raise InputError(f"mismatches: expected a whole number per block, at least 0; got {self.mismatches!r}")

    def initial_state(self) -> Hashable:
        """Return 0.0: nothing is spent."""
        return 0.0

    def verdict(self, block: Block, state: Hashable) -> Verdict:
        """Return the certain number of kept tokens; the target's most likely token follows; the state is spent."""
        assert isinstance(state, float)
        count, best, logits = len(block.drafted), block.target.argmax(axis=-1), block.target_logits
        strict = 0 in (self.budget, self.tolerance, self.mismatches)
        spent, kept, bought = state, 0, 0
        while kept < count:
            token = block.drafted[kept]
            if token != best[kept]:
                regret = float(logits[kept].max() - logits[kept, token])
                dear = regret / (count - kept) > self.tolerance or spent + regret > self.budget
                if strict or dear or bought == self.mismatches:
                    break
                spent, bought = spent + regret, bought + 1
            kept += 1
        following = _one_hot(best, block.target.shape[-1])
        return Verdict(accepted=_certain(kept, count), following=following, state=lambda kept, token: spent)


def _certain(kept: int, count: int) -> np.ndarray:
    """Law of a number that is known, `[count + 1]`."""
    return _one_hot(np.array(kept), count + 1)


def _one_hot(index: np.ndarray, length: int) -> np.ndarray:
    return (index[..., None] == np.arange(length)).astype(np.float64)


def _check_finite(name: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise InputError(f"{name}: expected a finite number >= 0; got {value}")
