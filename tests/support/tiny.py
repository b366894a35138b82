"""A real Hugging Face pair so small that the law of everything it writes can be enumerated."""

from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LogitsProcessor

from tradeoff.outcome.token import Outcome, apply_rule
from tradeoff.rule import LogitRule, Rule
from tradeoff.rules import CommonPrice, DecodingOPT, DecodingUNO, RatioClip, SpeculativeSampling

VOCAB = 5
PROMPT = torch.tensor([[1, 3]])
RULES = [
    SpeculativeSampling(),
    DecodingOPT(epsilon=0.1),
    DecodingUNO(epsilon=0.1),
    DecodingUNO(epsilon=0.1, residual="draft"),
    RatioClip(ceiling=1.5),
    RatioClip(rejection=0.1),
    CommonPrice(price=0.5),
]
"""Every rule the package ships, at a knob that changes something."""

FALSE_ALARM = 1e-4
"""Probability that a correct sampler fails one chi-square test; seeds are fixed, so a pass stays a pass."""


@cache
def tiny_model(seed: int, vocab: int = VOCAB) -> Any:
    """One attention layer with weights large enough that laws differ from token to token."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=0.35,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPTNeoXForCausalLM(config).eval()


def _between(model: Any, other: Any, weight: float) -> Any:
    """A model near `model`, so that drafts are often, not always, accepted."""
    mixed = tiny_model.__wrapped__(0)
    states = model.state_dict(), other.state_dict()
    mixed.load_state_dict({name: (1 - weight) * states[0][name] + weight * states[1][name] for name in states[0]})
    return mixed


# seed 28 writes varied greedy text, and other text under a repetition penalty
TARGET = tiny_model(28)
DRAFT = _between(TARGET, tiny_model(2), 0.35)


class FavourEven(LogitsProcessor):
    """A custom processor that depends on the prefix: it favours even tokens after odd ones."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Add to even tokens where the last one is odd."""
        odd = (input_ids[:, -1:] % 2 == 1).to(scores.dtype)
        return scores + 0.7 * odd * (torch.arange(scores.shape[-1]) % 2 == 0)


def kept_at(sampling: Any) -> Any:
    """Processors `(tokens, logits) -> logits` that sample so: by definition, one row and token at a time."""

    def processed(_: Any, logits: torch.Tensor) -> torch.Tensor:
        scores = logits.double() / sampling.temperature
        for row in scores:
            order = row.argsort(descending=True).tolist()
            order = order[: sampling.top_k or len(order)]
            among = {token: float(row[token].exp()) for token in order}
            mass, kept = 0.0, []
            for token in order:
                if mass < sampling.top_p * sum(among.values()) or sampling.top_p == 1:
                    kept.append(token)
                mass += among[token]
            row[[token for token in range(len(row)) if token not in kept]] = -torch.inf
        return scores

    return processed


@torch.no_grad()
def law_after(model: Any, tokens: torch.Tensor, processors: Any = None) -> torch.Tensor:
    """Next-token law `[1, vocab]` after `[1, length]`, by one uncached forward pass."""
    logits = model(tokens).logits[:, -1]
    if processors is not None:
        logits = processors(tokens, logits)
    return logits.double().softmax(-1)


def output_law(rule: Rule, tokens: torch.Tensor, processors: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Accepted and replaced mass `[vocab]` of a verified position after `tokens`."""
    outcome = outcome_after(rule, tokens, processors)
    accepted = outcome.acceptance * outcome.draft
    return accepted[0], (outcome.output_law - accepted)[0]


@torch.no_grad()
def outcome_after(rule: Rule, tokens: torch.Tensor, processors: Any = None) -> Outcome:
    """Outcome of a verified position after `tokens`; a rule that compares logits gets the raw ones."""
    if isinstance(rule, LogitRule):
        rule = rule.with_logits(*(model(tokens).logits[:, -1].double() for model in (DRAFT, TARGET)))
    return apply_rule(rule, law_after(DRAFT, tokens, processors), law_after(TARGET, tokens, processors))


def joint_law(rule: Rule, prompt: torch.Tensor, *, draft_length: int, processors: Any = None) -> np.ndarray:
    """Exact law of the first two generated tokens, `[vocab, vocab]`, by enumeration.

    With one drafted token per round, a second token that follows an accepted first one is a bonus; in every other
    case both are verified.
    """
    accepted, replaced = output_law(rule, prompt, processors)
    joint = torch.zeros(len(accepted), len(accepted), dtype=torch.float64)
    for first in range(len(accepted)):
        longer = torch.cat([prompt, torch.tensor([[first]])], dim=1)
        verified = sum(output_law(rule, longer, processors))
        after_accepted = outcome_after(rule, longer, processors).bonus_law[0] if draft_length == 1 else verified
        joint[first] = accepted[first] * after_accepted + replaced[first] * verified
    return joint.numpy()


def chi_square_p_value(counts: np.ndarray, law: np.ndarray) -> float:
    """P-value of counts against a law; cells expected less than 5 times are pooled, impossible ones must be empty."""
    counts, expected = counts.ravel().astype(float), law.ravel() * counts.sum()
    if counts[expected == 0].sum() > 0:
        return 0.0
    small = expected < 5
    pooled_counts = np.append(counts[~small], counts[small].sum())
    pooled = np.append(expected[~small], expected[small].sum())
    pooled_counts, pooled = pooled_counts[pooled > 0], pooled[pooled > 0]
    if len(pooled) == 1:
        return 1.0  # a certain text, and it was written every time
    statistic = ((pooled_counts - pooled) ** 2 / pooled).sum()
    return float(chi2.sf(statistic, len(pooled) - 1))
