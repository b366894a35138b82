"""The decoding loop: draft, score, verify; one sequence at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from decoding.cache import CachedModel
from decoding.laws import Processors, laws_from_logits
from decoding.statistics import Recorder, Statistics
from decoding.verify import inverse_cdf, verify
from tradeoff.rule import LogitRule, Rule, bonus_law


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampling:
    """How logits become laws and where the randomness comes from.

    Parameters
    ----------
    processors
        Logits processors, applied once to both models' logits.
    greedy
        Point masses instead of softmax; the rule then sees one-hot laws.
    generator
        Source of the uniforms; torch's default generator if None.
    """

    processors: Processors | None = None
    greedy: bool = False
    generator: torch.Generator | None = None

    def uniforms(self, count: int, device: torch.device) -> Tensor:
        """Float64 uniforms in [0, 1): coarser ones return an exact 0 every few million draws."""
        source = device if self.generator is None else self.generator.device
        return torch.rand(count, generator=self.generator, dtype=torch.float64, device=source).to(device)


def speculate(
    target: CachedModel,
    draft: CachedModel,
    prompt: Tensor,
    *,
    rule: Rule,
    draft_length: int,
    max_length: int,
    finished: Callable[[Tensor], bool],
    sampling: Sampling,
) -> tuple[Tensor, Statistics]:
    """Decode one sequence.

    Each round drafts k = min(draft_length, room left) tokens, scores them with one call of the target, keeps
    those the rule accepts and adds one token: the replacement of the first rejected one, or, after a full
    block and if there is room, a bonus token from the target's law or the rule's own. The joint law of the text is
    the product of the rule's output laws at verified positions and its bonus laws at bonus positions.

    Parameters
    ----------
    target, draft
        The two models with their caches.
    prompt
        `[length]`, at least one token.
    rule, draft_length
        The verification rule, and how many tokens to draft per round.
    max_length
        Prompt plus generated tokens at most.
    finished
        `tokens [length] -> bool`, asked after every single token, so a stop inside a block is honoured.
    sampling
        Processors, greedy or not, generator.

    Returns
    -------
    tokens, statistics
        Prompt and generated tokens `[length]`, and the account of the generated ones.
    """
    tokens, recorder = prompt, Recorder()
    done = len(tokens) >= max_length
    while not done:
        room = max_length - len(tokens)
        count = min(draft_length, room)
        uniforms = sampling.uniforms(2 * count + 1, tokens.device)
        block, draft_laws, draft_logits = _propose(draft, tokens, uniforms[:count], sampling)
        logits = target.logits(block, keep=count + 1)
        laws = _laws(logits, block, target, sampling)
        verified = verify(
            _informed(rule, draft_logits, logits[:count]),
            draft_laws,
            laws[:count],
            block[len(tokens) :],
            uniforms[count:],
            bonus_law=_bonus(rule, draft, block, (logits[count:], laws[count:]), sampling) if room > count else None,
        )
        fresh = block[len(tokens) : len(tokens) + verified.accepted].tolist()
        fresh += [] if verified.next_token is None else [verified.next_token]
        start = len(tokens)
        for token in fresh:
            tokens = torch.cat([tokens, tokens.new_tensor([token])])
            done = len(tokens) >= max_length or finished(tokens)
            if done:
                break
        kept = tokens[start:]
        scores = logits[: len(kept)].to(device=tokens.device, dtype=torch.float32).log_softmax(-1)
        recorder.add(verified, scores.gather(-1, kept[:, None])[:, 0], drafted=count)
        # the newest token has not been fed to either model
        target.rewind(len(tokens) - 1)
        draft.rewind(len(tokens) - 1)
    return tokens, recorder.statistics(target_calls=target.calls, draft_calls=draft.calls)


def _propose(draft: CachedModel, tokens: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Draft one token per uniform; return the longer sequence, the laws drawn from, `[k, vocab]`, and their logits."""
    laws, scores = [], []
    for uniform in uniforms.split(1):
        logits = draft.logits(tokens, keep=1)
        law = _laws(logits, tokens, draft, sampling)
        tokens = torch.cat([tokens, inverse_cdf(law[0], uniform)[None]])
        laws.append(law)
        scores.append(logits)
    return tokens, torch.cat(laws), torch.cat(scores)


def _laws(logits: Tensor, tokens: Tensor, model: CachedModel, sampling: Sampling) -> Tensor:
    return laws_from_logits(logits, tokens, processors=sampling.processors, greedy=sampling.greedy, name=model.name)


def _informed(rule: Rule, draft_logits: Tensor, target_logits: Tensor) -> Rule:
    """Tell a rule that compares raw logits what they are."""
    if not isinstance(rule, LogitRule):
        return rule
    return rule.with_logits(draft_logits.double(), target_logits.to(draft_logits.device).double())


def _bonus(rule: Rule, draft: CachedModel, block: Tensor, target: tuple[Tensor, Tensor], sampling: Sampling) -> Tensor:
    """Law after the whole block, `[vocab]`; a rule with a bonus law of its own costs one more call of the draft."""
    target_logits, target_law = target
    if not hasattr(rule, "bonus"):
        return target_law[0]
    draft_logits = draft.logits(block, keep=1)
    draft_law = _laws(draft_logits, block, draft, sampling)
    return bonus_law(_informed(rule, draft_logits, target_logits), draft_law, target_law)[0]
