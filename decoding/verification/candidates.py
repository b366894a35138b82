"""Several candidates for one position, verified in turn: recursive rejection sampling on the device."""

import torch
from torch import Tensor

from decoding.sampling.draw import inverse_cdf, law
from decoding.verification.ratio import or_target


def verify_drafts(
    draft_logits: Tensor, target_logits: Tensor, candidates: Tensor, uniforms: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Keep the first candidate that is accepted, or draw from what is left of the target. Lossless.

    With q_1 = target and p = draft, candidate x_m is kept with probability min(1, q_m(x_m) / p(x_m)), else
    q_{m+1} = [q_m - p]_+ normalised; the replacement has the law that is left after the last.

    Parameters
    ----------
    draft_logits
        `[batch, drafts, vocab]`, equal rows: all candidates are drawn from one law. After processors, before
        temperature.
    target_logits
        `[batch, vocab]`.
    candidates
        `[batch, drafts]`, int64.
    uniforms
        In [0, 1), float64, `[batch, drafts + 1]`: one per candidate, the last for the replacement.
    temperature
        At least 0.

    Returns
    -------
    chosen, token
        `[batch]`, int64: which candidate was kept, -1 for none, and the token that is emitted.

    Notes
    -----
    See `tradeoff.rules.RecursiveRejection`.
    """
    left = law(target_logits, temperature).double()
    chosen, token = torch.full_like(candidates[:, 0], -1), torch.zeros_like(candidates[:, 0])
    draft = law(draft_logits[:, 0], temperature).double()
    for place, candidate in enumerate(candidates.unbind(1)):
        p, q = (each.gather(1, candidate[:, None])[:, 0] for each in (draft, left))
        kept = (chosen < 0) & (uniforms[:, place] * p < q)
        chosen, token = torch.where(kept, place, chosen), torch.where(kept, candidate, token)
        left = or_target((left - draft).clamp_min_(0.0), left)
        left = left / left.sum(-1, keepdim=True)
    return chosen, torch.where(chosen < 0, inverse_cdf(left, uniforms[:, -1]), token)
