"""What every single token of a text cost: the texts a report shows are scored once more, token by token."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from decoding.evaluation.positions.collect import raw_logits
from decoding.evaluation.study.results import TokenCost
from decoding.huggingface import measured_law
from decoding.huggingface.pair import Pair
from decoding.loop.statistics import Statistics
from decoding.sampling.parameters import Sampling
from solvers.divergences import divergence_named
from tradeoff.outcome.token import apply_rule
from tradeoff.rule import Rule


def token_costs(
    pair: Pair, prompt: Tensor, tokens: Sequence[int], statistics: Statistics, rule: Rule, sampling: Sampling
) -> list[TokenCost]:
    """Charge every token log(output law / target) at its position, nats.

    Given the text so far, the mean of it over tokens is KL(output, target) there; the sum over a text is the
    log-ratio of the two laws of texts.

    Parameters
    ----------
    pair
        The models.
    prompt
        `[1, length]`.
    tokens, statistics
        The generated text and its account, which says what was drafted, accepted, replaced, or a bonus.
    rule, sampling
        It was written with.
    """
    if not tokens:
        return []
    text = torch.cat([prompt, prompt.new_tensor([list(tokens)])], dim=1)
    laws = [measured_law(each.cpu(), sampling, torch.float64) for each in raw_logits(pair, text, prompt.shape[1])]
    outcome = apply_rule(rule, *laws)
    fates = ["bonus"] * len(tokens)
    for position, accepted in zip(statistics.position, statistics.accepted, strict=True):
        fates[position] = "accepted" if accepted else "replaced"
    bonus = torch.tensor([fate == "bonus" for fate in fates])
    written = torch.where(bonus[:, None], torch.as_tensor(outcome.bonus_law), torch.as_tensor(outcome.output_law))
    target = torch.as_tensor(outcome.target)
    ratio = torch.where(written == target, 0.0, written.log() - target.log())  # also where neither has mass
    drafted = torch.tensor(list(tokens))
    drafted[torch.as_tensor(statistics.position)] = torch.as_tensor(statistics.drafted_token)
    cost, rejected = (ratio.gather(1, each[:, None])[:, 0] for each in (torch.tensor(list(tokens)), drafted))
    divergence = divergence_named("kl").value(written, target)
    found = [
        TokenCost(text=piece, fate=fate, cost=float(each), divergence=float(mean))
        for piece, fate, each, mean in zip(pieces(pair, tokens), fates, cost, divergence, strict=True)
    ]
    for place, token in enumerate(found):
        if token.fate == "replaced":
            refused = pieces(pair, [*tokens[:place], int(drafted[place])])[-1]
            found[place] = replace(token, rejected=refused, rejected_cost=float(rejected[place]))
    return found


def pieces(pair: Pair, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text; a character made of several tokens comes with its last one."""
    found, seen = [], ""
    for count in range(1, len(tokens) + 1):
        text = pair.tokenizer.decode(tokens[:count], skip_special_tokens=True)
        if count < len(tokens):
            text = text.removesuffix("�")
        found.append(text[len(seen) :] if text.startswith(seen) else "")
        seen = text if text.startswith(seen) else seen
    return found
