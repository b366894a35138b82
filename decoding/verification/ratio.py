"""The verification step of a rule in numbers, batched, without waiting for the device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decoding.sampling import draw
from decoding.sampling.draw import inverse_cdf, law
from decoding.verification.ratio_form import RatioForm
from decoding.verification.ratio_roots import BEYOND, clipped, floor_at_price, floor_for_loss, lost

AT_ONCE = 8192
"""Tokens up to which a CPU takes all positions at once, too: below, calls cost more than sums over the vocabulary."""


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
    """Accept drafted tokens one after the other, then draw the token that follows.

    Laws are float32, as they were sampled; sums, ratios and levels are float64.

    Parameters
    ----------
    form
        The rule.
    draft_logits, target_logits
        After processors, before temperature, `[batch, k, vocab]` and `[batch, k + 1, vocab]`, any floating dtype.
    drafted
        `[batch, k]`, int64.
    uniforms
        In [0, 1), float64, `[batch, k + 1]`: one per acceptance, the last for the token that follows.
    count
        How many of the drafted tokens are tested, `[batch]`, int64, 0 to k.
    temperature
        At least 0.

    Returns
    -------
    accepted, next_token
        `[batch]`, int64. Where all `count` are accepted the next token is drawn from the target's law after them.
    """
    knob = form.knob
    if not isinstance(knob, Tensor):
        knob = torch.full(count.shape, knob, dtype=torch.float64, device=count.device)
    facts = draft_logits, target_logits, drafted, uniforms, count, knob.double()
    if not draw.on_host(count) or target_logits.shape[-1] <= AT_ONCE:
        return _Step(form, temperature, *facts).result(at_once=True)
    # a row at a time stays in the cache and looks at no position beyond its first rejection
    rows = zip(*(fact.split(1) for fact in facts), strict=True)
    results = [_Step(form, temperature, *each).result(at_once=False) for each in rows]
    accepted, next_token = zip(*results, strict=True)
    return torch.cat(accepted), torch.cat(next_token)


def row(values: Tensor, index: Tensor) -> Tensor:
    """Entry `index[b]` of row b: `[batch, n, vocab]` and `[batch]` to `[batch, vocab]`."""
    batch, n, _ = values.shape
    return values.flatten(0, 1).index_select(0, torch.arange(batch, device=index.device) * n + index)


def or_target(masses: Tensor, target: Tensor) -> Tensor:
    """Masses `[batch, vocab]`; a row without any becomes the target's."""
    empty = masses.sum(-1, keepdim=True, dtype=torch.float64) <= 0
    return torch.addcmul(masses, target.to(masses.dtype), empty.to(masses.dtype))


@dataclass(frozen=True, eq=False)
class _Step:
    """The arguments of `verify_ratio`, with a knob per row."""

    form: RatioForm
    temperature: float
    draft_logits: Tensor
    target_logits: Tensor
    drafted: Tensor
    uniforms: Tensor
    count: Tensor
    knob: Tensor

    def result(self, *, at_once: bool) -> tuple[Tensor, Tensor]:
        """Accepted and next token, `[batch]` each; position by position if not at once."""
        accepted = self._accepted(slice(None)) if at_once else self._accepted_in_turn()
        target = law(row(self.target_logits, accepted), self.temperature)
        masses, k = target, self.drafted.shape[1]
        if k > 0 and (at_once or bool((accepted < self.count).any())):
            # where all is accepted nothing is taken off the target
            rejected = (accepted < self.count)[:, None]
            draft = law(row(self.draft_logits, accepted.clamp(max=k - 1)), self.temperature) * rejected
            masses = or_target(self._replacement(draft, target, rejected), target)
        return accepted, inverse_cdf(masses, self.uniforms[:, -1])

    def _accepted_in_turn(self) -> Tensor:
        """The same for one row, up to its first rejection."""
        accepted = torch.zeros_like(self.count)
        for place in range(int(self.count)):
            run = self._accepted(slice(place, place + 1))
            if not bool(run.any()):
                break
            accepted = accepted + run
        return accepted

    def _accepted(self, places: slice) -> Tensor:
        """Length of the run of accepted tokens from the first of these places, `[batch]`."""
        k = self.drafted.shape[1]
        tested = torch.arange(k, device=self.count.device)[places] < self.count[:, None]
        draft, target = (
            law(logits[:, :k][:, places], self.temperature) for logits in (self.draft_logits, self.target_logits)
        )
        passed = self._passed(draft, target, self.drafted[:, places], self.uniforms[:, :k][:, places])
        return (passed & tested).cumprod(-1).sum(-1)

    def _passed(self, draft: Tensor, target: Tensor, drafted: Tensor, uniforms: Tensor) -> Tensor:
        """Whether each token is accepted, `[batch, n]`; laws `[batch, n, vocab]`."""
        form = self.form
        p, q = (each.gather(-1, drafted[..., None])[..., 0].double() for each in (draft, target))
        if form.level == "fixed":
            # a token that the target masks stays at 0 under an infinite weight
            level = torch.where(q > 0, form.target_weight * q, 0.0)
            return uniforms * p < level + form.draft_weight * p + form.slack
        ratio = torch.where(q > 0, uniforms * p / q, BEYOND)
        if draw.on_host(ratio) and not bool((ratio >= 1).any()):
            return ratio < 1
        all_p, all_q, knob = draft.double(), target.double(), self.knob[:, None]
        if form.level == "price":
            excess = clipped(all_p, all_q, ratio * torch.exp(-knob), ratio).sum(-1)
            return (ratio < 1) | ((q > 0) & (excess < 0))
        loss = lost(all_p, all_q, ratio).sum(-1)
        return (ratio < 1) | (torch.where(q > 0, loss, (1.0 - uniforms) * loss) > knob)

    def _replacement(self, draft: Tensor, target: Tensor, rejected: Tensor) -> Tensor:
        """Masses of the next token, `[batch, vocab]`; laws `[batch, vocab]`, rejected `[batch, 1]`."""
        match self.form.residual:
            case "difference":
                return (target - draft).clamp_min_(0.0)
            case "target":
                return target
            case "draft":
                return draft  # 0 where nothing was rejected, and then the target
            case "fill":
                return self._filled(draft.double(), target.double(), ~rejected[:, 0])

    def _filled(self, p: Tensor, q: Tensor, settled: Tensor) -> Tensor:
        """[c q - p]_+, `[batch, vocab]`; where nothing was rejected, `settled` `[batch]`, knobs make c = 1 at once."""
        match self.form.level:
            case "price":
                floor = floor_at_price(p, q, self.knob.masked_fill(settled, 0.0))
            case "rejection":
                floor = floor_for_loss(p, q, self.knob.masked_fill(settled, math.inf))
            case "fixed":
                ceiling = torch.full_like(self.knob, min(self.form.target_weight, BEYOND))
                floor = floor_for_loss(p, q, lost(p, q, ceiling).sum(-1).masked_fill_(settled, math.inf))
        return torch.addcmul(p.neg_(), q, floor[:, None]).clamp_min_(0.0)
