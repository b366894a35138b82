"""The verification step: one door for every rule that judges tokens one by one, and for block verification."""

import math
import os
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from decoding.sampling.draw import law, on_host, unusable, unusable_rows
from decoding.verification.block import verify_block
from decoding.verification.ratio import verify_ratio
from decoding.verification.ratio_form import RatioForm, ratio_form
from decoding.verification.rule import verify_rule
from solvers.errors import InputError
from tradeoff.outcome.token import Outcome
from tradeoff.rule import BlockRule, LogitRule, Rule
from tradeoff.rules import BlockVerification
from tradeoff.rules.registry import as_rule

Backend: TypeAlias = Literal["auto", "torch", "triton"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """What one step decided.

    Parameters
    ----------
    accepted
        How many drafted tokens are kept, `[batch]`, int64, 0 to count.
    next_token
        The token after them, `[batch]`, int64: the replacement of the rejected one, or the bonus after a full block.
    unusable
        Rows whose logits have no law where one is needed, `[batch]`, bool; their tokens mean nothing.
    outcome
        The rule's exact effect at all k drafted positions, `[batch, k, vocab]`, float64; None if nobody asked, if there
        are none, or if the rule judges whole blocks.
    """

    accepted: Tensor
    next_token: Tensor
    unusable: Tensor
    outcome: Outcome | None


def verify(
    rule: Rule | BlockVerification | str,
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    count: Tensor | None = None,
    temperature: float = 1.0,
    raw_logits: tuple[Tensor, Tensor] | None = None,
    bonus_draft_logits: Tensor | None = None,
    exact: bool = False,
    backend: Backend = "auto",
) -> Verified:
    """Accept drafted tokens one after the other, u < b(x), then draw the token that follows.

    A rule in numbers (`ratio_form`) and block verification run on float32 laws and never wait for the device; any other
    rule, and any that is to be `exact`, on float64 laws and by its own methods.

    Parameters
    ----------
    rule
        The verification rule, or its spec.
    draft_logits, target_logits
        After processors, before temperature, `[batch, k, vocab]` and `[batch, k + 1, vocab]`, any floating dtype; a
        masked token has -inf. k may be 0: then the target is sampled.
    drafted
        `[batch, k]`, int64; drawn from the draft's laws in float32 (`sampling.draw.law`).
    uniforms
        In [0, 1), `[batch, k + 1]`, float64: one per acceptance, the last for the token that follows.
    count
        How many of the drafted tokens are tested, `[batch]`, int64, 0 to k; all if None.
    temperature
        Of both laws, at least 0; at 0 they are point masses.
    raw_logits
        Before processors, `[batch, k, vocab]` and `[batch, k + 1, vocab]`, for a `LogitRule`; by default those above.
    bonus_draft_logits
        The draft's logits after k tokens, `[batch, vocab]`, for a rule with a bonus law of its own.
    exact
        Whether to return the outcome.
    backend
        Of a rule in numbers: "triton" needs a CUDA device and the package; "auto" takes it where it can.

    Raises
    ------
    InputError
        Unlike shapes, dtypes or devices, a missing bonus law, or a backend that cannot run.
    """
    rule = _judge(rule)
    _check(draft_logits, target_logits, drafted, uniforms, count, temperature)
    form = None if exact else ratio_form(rule)
    on_kernels = _on_kernels(rule, form, backend, drafted.device)
    if count is None:
        count = torch.full_like(drafted.sum(-1), drafted.shape[1])
    needed = [(draft_logits, count), (target_logits, count + 1)]
    if hasattr(rule, "bonus"):
        needed[0] = _with_bonus(rule, draft_logits, bonus_draft_logits), count + 1
    if isinstance(rule, LogitRule):
        raw_draft, raw_target = (draft_logits, target_logits) if raw_logits is None else raw_logits
        _check_logits("raw ", raw_draft, raw_target, drafted)
        needed += [(raw_draft, count), (raw_target, count + 1)]
    (draft, target, *raw), spoilt = _cleared(needed)
    outcome = None
    if form is not None:
        step = _by_kernels if on_kernels else verify_ratio
        accepted, next_token = step(form, draft, target, drafted, uniforms, count=count, temperature=temperature)
    elif isinstance(rule, BlockVerification):
        accepted, next_token = verify_block(draft, target, drafted, uniforms, count=count, temperature=temperature)
    else:
        accepted, next_token, outcome = verify_rule(
            rule, draft, target, drafted, uniforms, count=count, temperature=temperature, raw_logits=raw
        )
    return Verified(
        accepted=accepted.masked_fill(spoilt, 0),
        next_token=next_token.masked_fill(spoilt, 0),
        unusable=spoilt,
        outcome=outcome if exact else None,
    )


def _judge(rule: object) -> Rule | BlockVerification:
    """A rule or its spec, that judges tokens one by one or is block verification."""
    found = as_rule(rule, kind=("token", "block"), taken_by="decoding.verify")
    if isinstance(found, BlockRule) and not isinstance(found, BlockVerification):
        raise InputError(
            f"{found!r}: expected a rule that judges tokens one by one; call verify_block_rule for this one"
        )
    return found


def _on_kernels(rule: object, form: RatioForm | None, backend: Backend, device: torch.device) -> bool:
    """Whether the Triton kernels run this rule here; an error if they were asked to and cannot."""
    if backend not in ("auto", "torch", "triton"):
        raise InputError(f"backend: expected 'auto', 'torch' or 'triton'; got {backend!r}")
    if backend == "torch" or (backend == "auto" and (form is None or device.type != "cuda")):
        return False
    try:
        import decoding.verification.kernels  # noqa: F401
    except ImportError as error:
        obstacle = f"the package triton, which is not there ({error})"
    else:
        # triton's interpreter runs on a CPU
        if form is not None and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
            return True
        obstacle = f"a CUDA device and a rule in numbers without exact outcomes; got {device} and {rule!r}"
    if backend == "auto":
        return False
    raise InputError(f"backend='triton': expected {obstacle}; use 'auto' or 'torch'")


def _by_kernels(
    form: RatioForm,
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    count: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """`verify_ratio` by the kernels, which know no temperature 0: a point mass has the logits 0 and -inf."""
    from decoding.verification.kernels import verify_ratio as kernels

    if temperature == 0:
        draft_logits, target_logits = (law(logits, 0.0).log() for logits in (draft_logits, target_logits))
    return kernels(form, draft_logits, target_logits, drafted, uniforms, count=count, temperature=temperature or 1.0)


def _cleared(needed: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], Tensor]:
    """Logits with zeros at positions that have no law, and rows that need one of these, `[batch]` bool.

    Parameters
    ----------
    needed
        Logits `[batch, n, vocab]`, and how many of the n positions a row needs, `[batch]`.
    """
    bad = [unusable(logits) for logits, _ in needed]
    if on_host(bad[0]) and not any(bool(each.any()) for each in bad):  # the usual case copies nothing
        return [logits for logits, _ in needed], torch.zeros_like(needed[0][1], dtype=torch.bool)
    spoilt = [unusable_rows(logits, first) for logits, first in needed]
    cleared = [logits.masked_fill(each[..., None], 0.0) for each, (logits, _) in zip(bad, needed, strict=True)]
    return cleared, torch.stack(spoilt).any(0)


def _with_bonus(rule: object, draft_logits: Tensor, bonus_draft_logits: Tensor | None) -> Tensor:
    """The draft's logits at the k drafted positions and after them, `[batch, k + 1, vocab]`."""
    batch, _, vocab = draft_logits.shape
    came = None if bonus_draft_logits is None else tuple(bonus_draft_logits.shape)
    if bonus_draft_logits is None or came != (batch, vocab):
        raise InputError(
            f"bonus_draft_logits: expected shape {(batch, vocab)}, the draft's logits after the block; got {came}; "
            f"{rule!r} has a bonus law of its own"
        )
    return torch.cat([draft_logits, bonus_draft_logits[:, None].to(draft_logits.dtype)], dim=1)


def _check(
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    count: Tensor | None,
    temperature: float,
) -> None:
    """Shapes, dtypes and devices: what can be known without waiting for the device."""
    if drafted.ndim != 2 or drafted.dtype != torch.int64:
        raise InputError(f"drafted: expected int64 tokens [batch, k]; got {drafted.dtype} {tuple(drafted.shape)}")
    _check_logits("", draft_logits, target_logits, drafted)
    batch, k = drafted.shape
    _check_tensor("uniforms", uniforms, (batch, k + 1), torch.float64, drafted.device)
    if count is not None:
        _check_tensor("count", count, (batch,), torch.int64, drafted.device)
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise InputError(f"temperature: expected a finite number >= 0; got {temperature}; 0 is greedy")


def _check_logits(kind: str, draft_logits: Tensor, target_logits: Tensor, drafted: Tensor) -> None:
    batch, k = drafted.shape
    vocab = draft_logits.shape[-1] if draft_logits.ndim else 0
    for name, logits, n in (("draft_logits", draft_logits, k), ("target_logits", target_logits, k + 1)):
        if not logits.is_floating_point():
            raise InputError(f"{kind}{name}: expected floating-point numbers; got {logits.dtype}")
        _check_tensor(f"{kind}{name}", logits, (batch, n, vocab), logits.dtype, drafted.device)


def _check_tensor(name: str, values: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if tuple(values.shape) != shape or values.dtype != dtype or values.device != device:
        raise InputError(
            f"{name}: expected {dtype} {shape} on {device}, for the tokens and the vocabulary drafted from; got "
            f"{values.dtype} {tuple(values.shape)} on {values.device}"
        )
