"""The verification step of rules that judge a whole block: block verification on the device, any other on the host."""

from collections.abc import Hashable

import torch
from torch import Tensor

from decoding.sampling import draw
from decoding.sampling.draw import inverse_cdf, law, unusable_rows
from decoding.verification.ratio import or_target, row
from tradeoff.rule import Block, BlockRule


def verify_block(
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    count: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Keep the largest prefix that passes its coin, then draw the token that follows: block verification.

    With p_0 = 1 and p_i = min(1, p_{i-1} q(x_i) / p(x_i)), prefix i passes if u_i < h_i, where

        S_i = sum [p_i q - p]_+ at the position after it,    h_i = S_i / (S_i + 1 - p_i),    h_count = p_count.

    The next token has law [p_i q - p]_+, normalised; after `count` tokens, and where rounding leaves no mass, q.

    Parameters
    ----------
    draft_logits, target_logits
        After processors, before temperature, `[batch, k, vocab]` and `[batch, k + 1, vocab]`, any floating dtype.
    drafted
        `[batch, k]`, int64.
    uniforms
        In [0, 1), float64, `[batch, k + 1]`: the coin of each prefix, the last for the token that follows.
    count
        Length of each block, `[batch]`, int64, 0 to k.
    temperature
        At least 0.

    Returns
    -------
    accepted, next_token
        `[batch]`, int64.

    Notes
    -----
    Sun et al., arXiv 2403.10444; see `tradeoff.rules.BlockVerification`.
    """
    k = drafted.shape[1]
    owed = _owed(draft_logits, target_logits, drafted, temperature)
    kept = torch.full_like(count, -1)
    # from the longest prefix down: on a CPU, none is looked at that is shorter than those kept
    for place in range(k, 0, -1):
        chance = owed[:, place]
        if place < k:
            laws = law(draft_logits[:, place], temperature), law(target_logits[:, place], temperature)
            gained = _replacement(*laws, chance).sum(-1)
            share = torch.where(gained > 0, gained / (gained + 1.0 - chance), (chance == 1).double())
            chance = torch.where(count == place, chance, share)
        passed = (place <= count) & (uniforms[:, place - 1] < chance)
        kept = torch.where((kept < 0) & passed, place, kept)
        if draw.on_host(kept) and bool((kept >= 0).all()):
            break
    kept = kept.clamp(min=0)
    target = law(row(target_logits, kept), temperature)
    if k == 0:
        return kept, inverse_cdf(target, uniforms[:, -1])
    whole = kept == count
    draft = law(row(draft_logits, kept.clamp(max=k - 1)), temperature) * ~whole[:, None]
    share = torch.where(whole, 1.0, owed.gather(1, kept[:, None])[:, 0])
    return kept, inverse_cdf(or_target(_replacement(draft, target, share), target), uniforms[:, -1])


def _owed(draft_logits: Tensor, target_logits: Tensor, drafted: Tensor, temperature: float) -> Tensor:
    """p_0 to p_k, `[batch, k + 1]`, float64."""
    owed = [torch.ones(len(drafted), dtype=torch.float64, device=drafted.device)]
    for place in range(drafted.shape[1]):
        token = drafted[:, place : place + 1]
        laws = (law(logits[:, place], temperature) for logits in (draft_logits, target_logits))
        p, q = (each.gather(1, token)[:, 0].double() for each in laws)
        mass = owed[-1] * q
        owed.append(torch.where(mass >= p, 1.0, mass / p))
    return torch.stack(owed, dim=1)


def _replacement(draft: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """[share q - p]_+ in float64, `[batch, vocab]`; share `[batch]`."""
    return torch.addcmul(-draft.double(), target.double(), share[:, None]).clamp_min_(0.0)


def verify_block_rule(
    rule: BlockRule,
    draft_logits: Tensor,
    target_logits: Tensor,
    drafted: Tensor,
    uniforms: Tensor,
    *,
    count: Tensor,
    temperature: float,
    raw_target_logits: Tensor,
    states: list[Hashable],
) -> tuple[Tensor, Tensor, list[Hashable]]:
    """Judge every block on the host by the rule's own verdict, in float64: the reference, for any block rule.

    Parameters
    ----------
    rule
        The rule.
    draft_logits, target_logits
        After processors, before temperature, `[batch, k, vocab]` and `[batch, k + 1, vocab]`.
    drafted
        `[batch, k]`, int64.
    uniforms
        In [0, 1), float64, `[batch, k + 1]`: the first decides how many are kept, the last the token that follows.
    count
        Length of each block, `[batch]`, int64, 0 to k.
    temperature
        At least 0.
    raw_target_logits
        Before processors, `[batch, k + 1, vocab]`.
    states
        One per row, as the row's last round left it.

    Returns
    -------
    accepted, next_token, states
        `[batch]`, int64, and the new states. A row with unusable logits keeps its state and gets zeros.
    """
    spoilt = (unusable_rows(draft_logits, count) | unusable_rows(target_logits, count + 1)).tolist()
    accepted, following, after = [], [], []
    for place, (tested, state) in enumerate(zip(count.tolist(), states, strict=True)):
        kept, token = 0, 0
        if not spoilt[place]:
            block = Block(
                drafted=tuple(drafted[place, :tested].tolist()),
                draft=law(draft_logits[place, :tested], temperature, torch.float64).cpu().numpy(),
                target=law(target_logits[place, : tested + 1], temperature, torch.float64).cpu().numpy(),
                raw_logits=raw_target_logits[place, : tested + 1].double().cpu().numpy(),
            )
            verdict, coins = rule.verdict(block, state), uniforms[place].cpu()
            kept = int(inverse_cdf(torch.from_numpy(verdict.accepted), coins[0]))
            token = int(inverse_cdf(torch.from_numpy(verdict.following[kept]), coins[-1]))
            state = verdict.state(kept, token)
        accepted.append(kept)
        following.append(token)
        after.append(state)
    return count.new_tensor(accepted), count.new_tensor(following), after
