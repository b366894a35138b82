"""The verification step of any rule that judges tokens one by one, by its own methods: the reference, in float64."""

from collections.abc import Sequence

import torch
from torch import Tensor

from decoding.sampling.draw import inverse_cdf, law
from decoding.verification.ratio import or_target, row
from tradeoff.outcome.token import Outcome, apply_rule
from tradeoff.rule import LogitRule, Rule, bonus_law


def verify_rule(
    rule: Rule,
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    count: Tensor,
    temperature: float,
    raw_logits: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Outcome | None]:
    """Accept drafted tokens one after the other, u < b(x), then draw the token that follows.

    Parameters
    ----------
    rule
        The rule.
    draft_logits
        After processors, before temperature, `[batch, k, vocab]`; for a rule with a bonus law of its own,
        `[batch, k + 1, vocab]`.
    target_logits
        `[batch, k + 1, vocab]`.
    drafted
        `[batch, k]`, int64.
    uniforms
        In [0, 1), float64, `[batch, k + 1]`.
    count
        How many of the drafted tokens are tested, `[batch]`, int64, 0 to k.
    temperature
        At least 0.
    raw_logits
        The draft's and the target's before processors, `[batch, k, vocab]` and `[batch, k + 1, vocab]`; only a
        `LogitRule` looks at them.

    Returns
    -------
    accepted, next_token, outcome
        `[batch]`, int64, twice, and the effect at the k drafted positions; None for k = 0.
    """
    k = drafted.shape[1]
    draft, target = (law(logits, temperature, torch.float64) for logits in (draft_logits, target_logits))
    if k == 0:
        return count, inverse_cdf(_bonus(rule, draft, target, raw_logits, count), uniforms[:, -1]), None
    judge = rule
    if isinstance(rule, LogitRule):
        judge = rule.with_logits(raw_logits[0].double(), raw_logits[1][:, :k].double())
    outcome = apply_rule(judge, draft[:, :k], target[:, :k])
    chance = outcome.acceptance.gather(-1, drafted[..., None])[..., 0]
    tested = torch.arange(k, device=count.device) < count[:, None]
    accepted = ((uniforms[:, :k] < chance) & tested).cumprod(-1).sum(-1)
    residual = row(outcome.residual_after(drafted), accepted.clamp(max=k - 1))
    residual = or_target(residual, row(target, accepted))
    whole = (accepted == count)[:, None]
    masses = torch.where(whole, _bonus(rule, draft, target, raw_logits, count), residual)
    return accepted, inverse_cdf(masses, uniforms[:, -1]), outcome


def _bonus(rule: Rule, draft: Tensor, target: Tensor, raw_logits: Sequence[Tensor], count: Tensor) -> Tensor:
    """Law after a fully accepted block, `[batch, vocab]`."""
    last = row(target, count)
    if not hasattr(rule, "bonus"):
        return last
    if isinstance(rule, LogitRule):
        rule = rule.with_logits(None, row(raw_logits[1].double(), count))
    return bonus_law(rule, row(draft, count), last)
