"""What every kernel of the verification step shares: rows of logits, normalised by block, and the level of a fill.

`BLOCK` tokens make a block of a row, `rows.places` blocks a row, and `BLOCKS` is a power of two of at least so many.
Logits and laws are float32; sums over blocks are float64. A block of 4096 is added by a tree of 24 float32 roundings,
and an exponential errs by the rounding of its argument: 1e-7 for every nat below the row's largest.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

jit: Any = triton.jit
"""Triton's types know neither grids nor launch options."""

PASSES = tl.constexpr(72)
SETTLED = tl.constexpr(1e-8)
LOWEST = tl.constexpr(69.0)
HIGHEST = tl.constexpr(690.0)
TINY = tl.constexpr(1e-300)


class Rows(NamedTuple):
    """The logits of a step and what is known of their rows.

    Parameters
    ----------
    draft, target
        Logits `[batch, k, vocab]` and `[batch, k + 1, vocab]`.
    draft_text, draft_step, target_text, target_step
        Strides of their first two dimensions; the last is 1.
    scale
        Inverse temperature.
    maxima, sums
        `[batch, 2 k + 1, places]`, of a block: the largest logit, and the sum of the exponentials of scaled differences
        to it; the k draft rows come first.
    steps, vocab, places
        k, the vocabulary and the blocks of a row.
    """

    draft: Any
    target: Any
    draft_text: Any
    draft_step: Any
    target_text: Any
    target_step: Any
    scale: Any
    maxima: Any
    sums: Any
    steps: Any
    vocab: Any
    places: Any


@jit
def row_statistics(rows, count, BLOCK: tl.constexpr):
    """Fill in `maxima` and `sums`, one program for a block; rows behind the tested ones are not read."""
    place, row, text = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    tested = tl.load(count + text)
    token = place * BLOCK + tl.arange(0, BLOCK)
    inside = token < rows.vocab
    step = row - rows.steps
    if row < rows.steps:
        at = text * rows.draft_text + row * rows.draft_step + token
        logits = tl.load(rows.draft + at, mask=inside & (row < tested), other=float("-inf")).to(tl.float32)
    else:
        at = text * rows.target_text + step * rows.target_step + token
        logits = tl.load(rows.target + at, mask=inside & (step <= tested), other=float("-inf")).to(tl.float32)
    largest = tl.max(logits, axis=0)
    # a block of masked tokens has no largest logit to subtract
    finite = tl.where(largest == float("-inf"), 0.0, largest)
    at_block = (text * (2 * rows.steps + 1) + row) * rows.places + place
    tl.store(rows.maxima + at_block, largest)
    tl.store(rows.sums + at_block, tl.sum(tl.exp((logits - finite) * rows.scale), axis=0))


@jit
def normaliser(rows, row, block, wanted, AXIS: tl.constexpr):
    """Largest logit of rows and the inverse of their sums, 0 and 0 where not wanted; `AXIS` is the blocks'.

    Shapes broadcast: rows `[n, 1]` and blocks `[1, BLOCKS]` give `[n, 1]`, one row and `[BLOCKS]` give `[1]`.
    """
    inside = wanted & (block < rows.places)
    peaks = tl.load(rows.maxima + row * rows.places + block, mask=inside, other=float("-inf"))
    parts = tl.load(rows.sums + row * rows.places + block, mask=inside, other=0.0)
    largest = tl.max(peaks, axis=AXIS, keep_dims=True)
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.sum((parts * tl.exp((peaks - largest) * rows.scale)).to(tl.float64), axis=AXIS, keep_dims=True)
    return largest, tl.where(total > 0.0, 1.0 / tl.where(total > 0.0, total, 1.0), 0.0).to(tl.float32)


@jit
def norms_at(rows, text, step, drafted, BLOCKS: tl.constexpr):
    """Normalisers `[1]` of both rows after `step` drafted tokens; 0 for the draft's if nothing is drafted there."""
    first, block = text * (2 * rows.steps + 1) + step, tl.arange(0, BLOCKS)
    return normaliser(rows, first, block, drafted, 0), normaliser(rows, first + rows.steps, block, True, 0)


@jit
def pair_at(rows, text, step, token, drafted, inside, norms):
    """Draft's and target's probabilities of tokens after `step` drafted ones, float32; 0 where masked or outside.

    After the last drafted token there is no draft: `drafted` says whether to read its row.
    """
    draft_norm, target_norm = norms
    draft_at = text * rows.draft_text + step * rows.draft_step + token
    target_at = text * rows.target_text + step * rows.target_step + token
    p = tl.load(rows.draft + draft_at, mask=inside & drafted, other=float("-inf")).to(tl.float32)
    q = tl.load(rows.target + target_at, mask=inside, other=float("-inf")).to(tl.float32)
    p = tl.exp((p - draft_norm[0]) * rows.scale) * draft_norm[1]
    return p, tl.exp((q - target_norm[0]) * rows.scale) * target_norm[1]


@jit
def clipped_masses(rows, text, step, norms, floor, ceiling, BLOCK: tl.constexpr):
    """Sum [c q - p]_+ and of q in it, sum [p - C q]_+ and of q in it; c the floor, C the ceiling; float64."""
    short, short_weight = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    over, over_weight = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    for start in range(0, rows.vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        p, q = pair_at(rows, text, step, token, True, token < rows.vocab, norms)
        p, q = p.to(tl.float64), q.to(tl.float64)
        lack = floor * q - p
        short += tl.maximum(lack, 0.0)
        short_weight += tl.where(lack > 0.0, q, 0.0)
        # an infinite ceiling times 0 is 0
        excess = p - tl.where(q > 0.0, ceiling * tl.where(q > 0.0, q, 1.0), 0.0)
        over += tl.maximum(excess, 0.0)
        over_weight += tl.where(excess > 0.0, q, 0.0)
    return tl.sum(short, axis=0), tl.sum(short_weight, axis=0), tl.sum(over, axis=0), tl.sum(over_weight, axis=0)


@jit
def fill_level(rows, text, step, weight, knob, LEVEL: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """The c of a fill: Newton steps on g = log sum [c q - p]_+ - log lost, in x = log c; 0 if nothing is lost.

    The first sum is convex in c and 0 at 0, and what is lost does not increase with c: g has a slope of at least 1, so
    the root is within |g|, and not below x - g where g > 0. A step is taken where it stays in the bracket and |g| is
    half its least so far, else the bracket is halved. From 69 nats (c below 1e-30 leaves no float32 mass) the bracket
    is at 1e-8 after 33 halvings, |g| after 36 from logarithms of 1e-300: `PASSES` cannot run out. Usual rows need 5.
    """
    norms = norms_at(rows, text, step, True, BLOCKS)
    x = tl.zeros([], tl.float64)
    low, high, least, lost = x - LOWEST, x, x + float("inf"), x
    settled = x > 0.0
    for _ in range(PASSES):
        if not settled:
            floor = tl.exp(x)
            ceiling = weight
            if LEVEL == "price":
                ceiling = tl.exp(tl.minimum(x + knob, HIGHEST))
            short, short_weight, lost, lost_weight = clipped_masses(rows, text, step, norms, floor, ceiling, BLOCK)
            if LEVEL == "rejection":
                lost = knob
            gap = tl.log(tl.maximum(short, TINY)) - tl.log(tl.maximum(lost, TINY))
            slope = floor * short_weight / tl.maximum(short, TINY)
            if LEVEL == "price":
                slope += tl.where(lost > 0.0, ceiling * lost_weight / tl.maximum(lost, TINY), 0.0)
            low = tl.where(gap > 0.0, tl.maximum(low, x - gap), x)
            high = tl.where(gap > 0.0, x, high)
            newton = x - gap / tl.maximum(slope, 1.0)
            safe = (tl.abs(gap) <= 0.5 * least) & (newton >= low) & (newton <= high)
            following = tl.where(safe, newton, 0.5 * (low + high))
            settled = tl.abs(following - x) <= SETTLED
            if LEVEL != "price":
                settled = settled | (lost <= 0.0)
            least = tl.minimum(least, tl.abs(gap))
            x = following
    return tl.where(lost > 0.0, tl.exp(x), 0.0)
