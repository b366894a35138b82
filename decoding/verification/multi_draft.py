"""Verification of several drafts of every text: one is chosen by its first token, the rest of it goes by the rule."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decoding.drafting import Proposal
from decoding.sampling.draw import inverse_cdf, law
from decoding.verification.account import EXACT, exact_columns
from decoding.verification.step import Backend, Verified, verify
from solvers.divergences import total_variation
from solvers.multi_draft import left_after
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


def verify_multi_draft(
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
    roots = proposal.tokens.view(texts, drafts, -1)[:, :, 0]
    chosen, token = verify_drafts(first, scores[::drafts, 0], roots, coins, temperature=temperature)
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


def verify_drafts(
    draft_logits: Tensor, target_logits: Tensor, drafted: Tensor, uniforms: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Keep the first of K tokens that is accepted, or draw from what is left of the target: recursive rejection.

    With q_1 = target and p = draft, token x_m is kept with probability min(1, q_m(x_m) / p(x_m)), else
    q_{m+1} = [q_m - p]_+ normalised; the replacement has the law that is left after the last. Lossless.

    Parameters
    ----------
    draft_logits
        `[batch, drafts, vocab]`, equal rows: all tokens are drawn from one law. After processors, before temperature.
    target_logits
        `[batch, vocab]`.
    drafted
        `[batch, drafts]`, int64.
    uniforms
        In [0, 1), float64, `[batch, drafts + 1]`: one per drafted token, the last for the replacement.
    temperature
        At least 0.

    Returns
    -------
    chosen, token
        `[batch]`, int64: which draft was kept, -1 for none, and the token that is emitted.

    Notes
    -----
    See `tradeoff.rules.RecursiveRejection`.
    """
    draft, left = (law(each, temperature).double() for each in (draft_logits[:, 0], target_logits))
    chosen, token = torch.full_like(drafted[:, 0], -1), torch.zeros_like(drafted[:, 0])
    for place, proposed in enumerate(drafted.unbind(1)):
        p, q = (each.gather(1, proposed[:, None])[:, 0] for each in (draft, left))
        kept = (chosen < 0) & (uniforms[:, place] * p < q)
        chosen, token = torch.where(kept, place, chosen), torch.where(kept, proposed, token)
        left = left_after(draft, left)
    return chosen, torch.where(chosen < 0, inverse_cdf(left, uniforms[:, -1]), token)


def _root_columns(draft: Tensor, target: Tensor, drafts: int, temperature: float) -> Tensor:
    """`EXACT` at the first position, `[texts, columns]`: lossless, and rejected with probability prod TV(q_m, p)."""
    p, left = (law(each, temperature, torch.float64) for each in (draft, target))
    distance = total_variation(p, left)
    columns = torch.zeros(len(p), len(EXACT), dtype=torch.float64, device=p.device)
    columns[:, EXACT.index("total_variation")] = distance
    rejection = distance
    for _ in range(drafts - 1):
        left = left_after(p, left)
        rejection = rejection * total_variation(p, left)
    columns[:, EXACT.index("rejection")] = rejection
    return columns
