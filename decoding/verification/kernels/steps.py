"""The fused verification step: no law is stored, nothing is read back, and a CUDA graph can capture it.

Four launches, five where acceptance needs a sum: statistics of every row, by block; parts of those sums, by block; one
program per text accepts and finds the level of the fill; masses of the replacement, by block; one program per text
draws. The replacement's masses are by block because one multiprocessor computes 16 exponentials a cycle: two rows of
152 000 tokens would take it 10 microseconds, as each of the level's passes does.
"""

from typing import TypeAlias

import torch
import triton.language as tl
from torch import Tensor

from decoding.verification.kernels.rows import Rows, fill_level, jit, normaliser, norms_at, pair_at, row_statistics
from decoding.verification.ratio_form import RatioForm
from solvers.errors import InputError

float64: TypeAlias = float
"""Numbers that stay float64 on the way into a kernel: triton reads the annotation, and narrows a float without it."""

BLOCK = 4096
"""Tokens of a block: 16 for each thread of 8 warps, fewer where threads keep more than one number for each."""

# products must be rounded before they are subtracted: equal logits leave a residual of exactly 0 then
COMPILE = {"enable_fp_fusion": False}


@jit
def margins(rows, part, drafted, uniforms, count, knob, LEVEL: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """Parts of the sum that is compared where t >= 1, `[batch, k, places]` float64; infinite where t < 1 accepts."""
    place, step, text = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if step < tl.load(count + text):
        norms = norms_at(rows, text, step, True, BLOCKS)
        x = tl.load(drafted + text * rows.steps + step)
        p_x, q_x = pair_at(rows, text, step, x, True, True, norms)
        p_x, q_x = tl.sum(p_x, axis=0).to(tl.float64), tl.sum(q_x, axis=0).to(tl.float64)
        u = tl.load(uniforms + text * (rows.steps + 1) + step)
        known = q_x > 0.0
        ratio = u * p_x / tl.where(known, q_x, 1.0)
        margin = tl.full([], float("inf"), tl.float64)
        if (ratio >= 1.0) | (q_x == 0.0):
            token = place * BLOCK + tl.arange(0, BLOCK)
            p, q = pair_at(rows, text, step, token, True, token < rows.vocab, norms)
            p, q = p.to(tl.float64), q.to(tl.float64)
            over = tl.sum(tl.maximum(p - ratio * q, 0.0), axis=0)
            if LEVEL == "rejection":
                margin = tl.where(known, over, (1.0 - u) * tl.sum(tl.where(q == 0.0, p, 0.0), axis=0))
            else:
                short = tl.sum(tl.maximum(ratio * tl.exp(-tl.load(knob + text)) * q - p, 0.0), axis=0)
                margin = tl.where(known, over - short, float("-inf"))
        tl.store(part + (text * rows.steps + step) * rows.places + place, margin)


@jit
def settle(
    rows, part, drafted, uniforms, count, knob, accepted, levels,
    target_weight: "float64", draft_weight: "float64", slack: "float64",
    LEVEL: tl.constexpr, FILL: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Accepted tokens of a text, `[batch]` int64, and the level of its fill, `[batch]` float64."""
    text = tl.program_id(0).to(tl.int64)
    tested = tl.load(count + text)
    step, block = tl.arange(0, STEPS)[:, None], tl.arange(0, BLOCKS)[None, :]
    wanted = step < tested
    if LEVEL == "fixed":
        row = text * (2 * rows.steps + 1) + step
        norms = normaliser(rows, row, block, wanted, 1), normaliser(rows, row + rows.steps, block, wanted, 1)
        x = tl.load(drafted + text * rows.steps + step, mask=wanted, other=0)
        p, q = pair_at(rows, text, step, x, True, wanted, norms)
        p, q = p.to(tl.float64), q.to(tl.float64)
        u = tl.load(uniforms + text * (rows.steps + 1) + step, mask=wanted, other=0.0)
        # an infinite weight times 0 is 0
        ceiling = tl.where(q > 0.0, target_weight * tl.where(q > 0.0, q, 1.0), 0.0)
        passed = u * p < ceiling + draft_weight * p + slack
        limit = 0.0
    else:
        inside = wanted & (block < rows.places)
        parts = tl.load(part + (text * rows.steps + step) * rows.places + block, mask=inside, other=0.0)
        limit = tl.load(knob + text)
        passed = tl.sum(parts, axis=1, keep_dims=True) > (limit if LEVEL == "rejection" else 0.0)
    kept = tl.min(tl.min(tl.where(wanted & (passed == 0), step, tested), axis=1), axis=0)
    tl.store(accepted + text, kept)
    if FILL:  # noqa: SIM102 - false at compile time, where kept is not
        if kept < tested:
            tl.store(levels + text, fill_level(rows, text, kept, target_weight, limit, LEVEL, BLOCK, BLOCKS))


@jit
def replacement(rows, text, kept, rejected, levels, token, RESIDUAL: tl.constexpr, BLOCKS: tl.constexpr):
    """Masses that the token after the kept ones has, before normalisation, and the target's; float32."""
    norms = norms_at(rows, text, kept, rejected, BLOCKS)
    p, q = pair_at(rows, text, kept, token, rejected, token < rows.vocab, norms)
    mass = q
    if RESIDUAL == "difference":
        mass = tl.maximum(q - p, 0.0)
    elif RESIDUAL == "fill":
        level = tl.load(levels + text, mask=rejected, other=0.0)
        mass = tl.maximum(level * q.to(tl.float64) - p.to(tl.float64), 0.0).to(tl.float32)
    elif RESIDUAL == "draft":
        mass = p
    # a bonus follows the target
    return tl.where(rejected, mass, q), q


@jit
def block_masses(
    rows, masses, count, accepted, levels, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """Sums over blocks of the replacement's masses and of the target's, `[batch, 2, places]` float64."""
    place, text = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kept = tl.load(accepted + text)
    token = place * BLOCK + tl.arange(0, BLOCK)
    mass, q = replacement(rows, text, kept, kept < tl.load(count + text), levels, token, RESIDUAL, BLOCKS)
    at = text * 2 * rows.places + place
    tl.store(masses + at, tl.sum(mass.to(tl.float64), axis=0))
    tl.store(masses + at + rows.places, tl.sum(q.to(tl.float64), axis=0))


@jit
def first_above(masses, threshold, SIZE: tl.constexpr):
    """First index whose running sum exceeds the threshold, or, if rounding leaves none, the last one; it has mass."""
    index = tl.arange(0, SIZE)
    above = (tl.cumsum(masses, axis=0) > threshold) & (masses > 0.0)
    first = tl.min(tl.where(above, index, SIZE), axis=0)
    return tl.where(first < SIZE, first, tl.max(tl.where(masses > 0.0, index, 0), axis=0))


@jit
def draw(
    rows, masses, uniforms, count, accepted, levels, next_token,
    RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The token after the kept ones, `[batch]` int64: its block, then its place there."""
    text = tl.program_id(0).to(tl.int64)
    kept = tl.load(accepted + text)
    block = tl.arange(0, BLOCKS)
    at = text * 2 * rows.places + block
    parts = tl.load(masses + at, mask=block < rows.places, other=0.0)
    # a residual of zeros, which rounding can leave, gives way to the target
    void = tl.sum(parts, axis=0) == 0.0
    parts = tl.where(void, tl.load(masses + at + rows.places, mask=block < rows.places, other=0.0), parts)
    rejected = (kept < tl.load(count + text)) & (void == 0)
    threshold = tl.load(uniforms + text * (rows.steps + 1) + rows.steps) * tl.sum(parts, axis=0)
    place = first_above(parts, threshold, BLOCKS)
    token = place * BLOCK + tl.arange(0, BLOCK)
    mass, _ = replacement(rows, text, kept, rejected, levels, token, RESIDUAL, BLOCKS)
    before = tl.sum(tl.where(block < place, parts, 0.0), axis=0)
    tl.store(next_token + text, place * BLOCK + first_above(mass.to(tl.float64), threshold - before, BLOCK))


def verify_ratio(
    form: RatioForm,
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    count: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Accept drafted tokens by u p(x) < b(x) p(x) up to the first failure, then draw from its replacement.

    After all that are tested the next token follows the target. The laws are softmax(logits / temperature) in float32,
    as the uniforms' owner drew from them up to rounding; sums are float64.

    Parameters
    ----------
    form
        The rule in numbers; a knob `[batch]` on the logits' device saves a launch.
    draft_logits, target_logits
        `[batch, k, vocab]` and `[batch, k + 1, vocab]`; float32, float16 or bfloat16, -inf where masked, the last
        stride 1.
    drafted
        Drafted tokens, `[batch, k]` int64.
    uniforms
        `[batch, k + 1]` float64 in [0, 1): one for each test, the last for the next token.
    count
        Tokens to test, `[batch]` int64, 0 to k; positions behind them are not read.
    temperature
        Positive.

    Returns
    -------
    tuple[Tensor, Tensor]
        How many are accepted and the next token, both `[batch]` int64.

    Raises
    ------
    InputError
        The temperature is not positive, or a last stride is not 1.
    """
    return launch(form, draft_logits, target_logits, drafted, uniforms, count, temperature, BLOCK)


def launch(
    form: RatioForm,
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    count: Tensor,
    temperature: float,
    block: int,
) -> tuple[Tensor, Tensor]:
    """`verify_ratio` with blocks of another size, a power of two."""
    batch, steps, vocab = draft_logits.shape
    rows, blocks = _rows(draft_logits, target_logits, temperature, block)
    drafted, uniforms, count = drafted.contiguous(), uniforms.contiguous(), count.contiguous()
    accepted, next_token = torch.empty_like(count), torch.empty_like(count)
    levels = uniforms.new_empty(batch)
    row_statistics[rows.places, 2 * steps + 1, batch](rows, count, BLOCK=block, num_warps=8, **COMPILE)
    knob, part = None, None
    if form.level != "fixed":
        knob = form.knob if isinstance(form.knob, Tensor) else uniforms.new_full((batch,), form.knob)
        knob = knob.to(torch.float64).contiguous()
        part = uniforms.new_empty(batch, steps, rows.places)
        if steps > 0:
            margins[rows.places, steps, batch](
                rows, part, drafted, uniforms, count, knob, LEVEL=form.level, BLOCK=block, BLOCKS=blocks, num_warps=8,
                **COMPILE,
            )  # fmt: skip
    settle[batch,](
        rows, part, drafted, uniforms, count, knob, accepted, levels, form.target_weight, form.draft_weight, form.slack,
        LEVEL=form.level, FILL=form.residual == "fill", BLOCK=block, BLOCKS=blocks,
        STEPS=_power_of_two(steps), num_warps=16, **COMPILE,
    )  # fmt: skip
    masses = uniforms.new_empty(batch, 2, rows.places)
    shared = {"RESIDUAL": form.residual, "BLOCK": block, "BLOCKS": blocks} | COMPILE
    block_masses[rows.places, batch](rows, masses, count, accepted, levels, num_warps=8, **shared)
    draw[batch,](rows, masses, uniforms, count, accepted, levels, next_token, num_warps=32, **shared)
    return accepted, next_token


def _rows(draft_logits: Tensor, target_logits: Tensor, temperature: float, block: int) -> tuple[Rows, int]:
    """Rows whose statistics are yet to be filled in, and the power of two that holds their blocks."""
    if not temperature > 0:
        raise InputError(f"expected a positive temperature; got {temperature}; greedy decoding needs no draw")
    if draft_logits.stride(-1) != 1 or target_logits.stride(-1) != 1:
        raise InputError(
            f"expected logits whose last stride is 1; got {draft_logits.stride()} and {target_logits.stride()}; "
            "pass .contiguous() ones"
        )
    batch, steps, vocab = draft_logits.shape
    places = -(-vocab // block)
    maxima, sums = torch.empty(2, batch, 2 * steps + 1, places, dtype=torch.float32, device=target_logits.device)
    rows = Rows(
        draft_logits, target_logits,
        draft_logits.stride(0), draft_logits.stride(1), target_logits.stride(0), target_logits.stride(1),
        1.0 / temperature, maxima, sums, steps, vocab, places,
    )  # fmt: skip
    return rows, _power_of_two(places)


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()
