"""One verification step, deterministic given its uniforms: the reference for every faster path."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tradeoff.outcome import Outcome, apply_rule
from tradeoff.rule import Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """What one step decided.

    Parameters
    ----------
    accepted
        How many drafted tokens are kept, 0 to k.
    next_token
        The token after them: the replacement of the rejected one, or the bonus after a full block; None if a
        full block was accepted and no bonus was wanted.
    outcome
        The rule's exact effect at the k drafted positions; those up to the first rejection were reached.
    """

    accepted: int
    next_token: int | None
    outcome: Outcome


def inverse_cdf(law: Tensor, uniform: Tensor) -> Tensor:
    """Draw from a law `[vocab]` with a uniform in [0, 1): the first token whose cumulative mass exceeds it.

    A token without mass is never drawn, not even at uniform 0, because its cumulative mass equals its
    predecessor's. The uniform is scaled by the total, so rounding in the sum cannot run past the end.
    """
    cumulative = law.cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[-1:], right=True)[0]


def verify(
    rule: Rule,
    draft_laws: Tensor,
    target_laws: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    bonus_law: Tensor | None,
) -> Verified:
    """Accept drafted tokens one after the other, u < b(x), then draw the token that follows.

    Parameters
    ----------
    rule
        The verification rule.
    draft_laws, target_laws
        Laws at the k drafted positions, `[k, vocab]`, float64; `draft_laws` must be those sampled.
    drafted
        The k drafted tokens, `[k]`.
    uniforms
        `[k + 1]` in [0, 1): one per acceptance, the last for the token that follows.
    bonus_law
        Law after a fully accepted block, `[vocab]`; None draws none.
    """
    outcome = apply_rule(rule, draft_laws, target_laws)
    chances = outcome.acceptance.gather(-1, drafted[:, None])[:, 0]
    rejected = (uniforms[:-1] >= chances).nonzero()
    if len(rejected) == 0:
        bonus = None if bonus_law is None else int(inverse_cdf(bonus_law, uniforms[-1:]))
        return Verified(accepted=len(drafted), next_token=bonus, outcome=outcome)
    first = int(rejected[0, 0])
    residual = outcome.residual_after(drafted)[first]
    return Verified(accepted=first, next_token=int(inverse_cdf(residual, uniforms[-1:])), outcome=outcome)
