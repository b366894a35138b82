"""Verification of several drafts of every text: one is chosen by its first token, the rest of it goes by the rule."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decoding.drafting import Proposal
from decoding.sampling.draw import law
from decoding.verification.account import EXACT, exact_columns
from decoding.verification.candidates import verify_drafts
from decoding.verification.step import Backend, Verified, verify
from tradeoff.rule import Rule


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The decision on one round of several drafts.

    Parameters
    ----------
    winner
        Which draft of every text is followed, `[texts]`; the first if none was accepted.
    verified
        What it keeps of that draft, and the token after it.
    exact
        `exact_columns` along that draft, `[texts, k, columns]`; None if not asked for.
    """

    winner: Tensor
    verified: Verified
    exact: Tensor | None


def verify_several(
    rule: Rule,
    proposal: Proposal,
    target: tuple[Tensor, Tensor],
    limit: Tensor,
    uniforms: Tensor,
    *,
    temperature: float,
    exact: bool,
    backend: Backend,
) -> Chosen:
    """Choose among K drafts by their first tokens, losslessly, then judge the rest of the chosen one by the rule.

    Parameters
    ----------
    rule
        Judges tokens one by one.
    proposal
        Of `texts * drafts` lines, the drafts of a text next to each other.
    target
        The target's logits, raw and processed, `[lines, k + 1, vocab]`.
    limit
        How many drafted tokens count, `[texts]`.
    uniforms
        `[texts, drafts, 2 k + 1]`, laid out as those of single drafts; the drafts have used the first k.
    temperature, exact, backend
        As in `verify`.
    """
    logits, scores = target
    texts, drafts, _ = uniforms.shape
    count = scores.shape[1] - 1
    first = proposal.logits.view(texts, drafts, -1, proposal.logits.shape[-1])[:, :, 0]
    # places no single draft needs: the last uniform of every draft is its coin
    coins = torch.cat([uniforms[..., -1], uniforms[:, 0, count : count + 1]], dim=1)
    candidates = proposal.tokens.view(texts, drafts, -1)[:, :, 0]
    chosen, token = verify_drafts(first, scores[::drafts, 0], candidates, coins, temperature=temperature)
    winner = chosen.clamp(min=0)
    line = winner + drafts * torch.arange(texts, device=winner.device)
    longer = proposal.logits.shape[1] > count
    rest = verify(
        rule,
        proposal.logits[line, 1:count],
        scores[line, 1:],
        proposal.tokens[line, 1:count],
        torch.cat([uniforms[:, 0, count + 1 : 2 * count], uniforms[:, 1, count : count + 1]], dim=1),
        count=(limit - 1).clamp(min=0),
        temperature=temperature,
        raw_logits=(proposal.raw_logits[line, 1:count], logits[line, 1:]),
        bonus_draft_logits=proposal.logits[line, count] if longer else None,
        exact=exact,
        backend=backend,
    )
    kept = (chosen >= 0) & (limit > 0)
    verified = Verified(
        accepted=torch.where(kept, rest.accepted + 1, 0),
        next_token=torch.where(kept, rest.next_token, token),
        unusable=rest.unusable | ~scores[line, 0].amax(-1).isfinite() | ~first.amax(-1).isfinite().all(-1),
        outcome=rest.outcome,
    )
    if not exact:
        return Chosen(winner=winner, verified=verified, exact=None)
    columns = [_root_columns(first[:, 0], scores[::drafts, 0], drafts, temperature)[:, None]]
    if rest.outcome is not None:  # a block of one token has no rest
        columns.append(exact_columns(rest.outcome))
    return Chosen(winner=winner, verified=verified, exact=torch.cat(columns, dim=1))


def _root_columns(draft: Tensor, target: Tensor, drafts: int, temperature: float) -> Tensor:
    """`EXACT` at the first position, `[texts, columns]`: lossless, and rejected with probability prod TV(q_m, p)."""
    p, left = (law(each, temperature, torch.float64) for each in (draft, target))
    rejection, total_variation = torch.ones_like(p[:, 0]), (left - p).clamp(min=0.0).sum(-1)
    for _ in range(drafts):
        over = (left - p).clamp(min=0.0)
        distance = over.sum(-1)
        rejection = rejection * distance
        left = torch.where(distance[:, None] > 0, over / distance[:, None].clamp(min=torch.finfo(p.dtype).tiny), left)
    columns = torch.zeros(len(p), len(EXACT), dtype=torch.float64, device=p.device)
    columns[:, EXACT.index("rejection")] = rejection
    columns[:, EXACT.index("total_variation")] = total_variation
    return columns
