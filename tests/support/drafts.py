"""Drafting by hand: ragged texts, rounds, and the uncached oracle of a proposal."""

from typing import Any

import numpy as np
import torch
from tiny import tiny_model
from torch import Tensor

from decoding.drafting import Drafter, Proposal
from decoding.sampling.warping import Warping

VOCAB = 7
MODEL = tiny_model(28, VOCAB)
PLAIN = Warping()
LENGTHS = [1, 2, 3, 9, 6]
FLOAT32 = 1e-5
"""Cached and uncached forward passes agree to a few float32 roundings of logits of size 1."""


def ragged(
    lengths: list[int], *, capacity: int = 30, seed: int = 0, beyond: int | None = None
) -> tuple[Tensor, Tensor]:
    """Random texts; what lies beyond their ends is `beyond`, or random too."""
    tokens = torch.randint(VOCAB, (len(lengths), capacity), generator=torch.Generator().manual_seed(seed))
    length = torch.tensor(lengths)
    if beyond is not None:
        tokens[torch.arange(capacity) >= length[:, None]] = beyond
    return tokens, length


def uniforms_of(batch: int, count: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def first_exceeding(law: Tensor, uniform: float) -> int:
    """The inverse CDF in numpy; the last token with mass where rounding reaches the total."""
    cumulative = np.cumsum(law.double().numpy())
    exceeding = cumulative > uniform * cumulative[-1]
    return int(exceeding.argmax()) if exceeding.any() else int(law.nonzero()[-1])


def assert_exact(
    proposal: Proposal,
    tokens: Tensor,
    length: Tensor,
    uniforms: Tensor,
    *,
    model: Any = MODEL,
    processors: Any = None,
    temperature: float = 1.0,
) -> None:
    """Every law is that of an uncached forward pass after the exact prefix, every token that of its uniform."""
    batch, count = uniforms.shape
    assert proposal.tokens.shape == (batch, count)
    assert proposal.count.tolist() == [count] * batch
    assert proposal.logits.dtype == proposal.raw_logits.dtype == torch.float32
    for row in range(batch):
        text = tokens[row, : length[row]]
        for step in range(count):
            raw = model(text[None]).logits[:, -1, : proposal.logits.shape[-1]]
            wanted = raw if processors is None else processors(text[None], raw.clone())
            torch.testing.assert_close(proposal.raw_logits[row, step], raw[0], rtol=0, atol=FLOAT32)
            torch.testing.assert_close(proposal.logits[row, step], wanted[0], rtol=0, atol=FLOAT32)
            law = (proposal.logits[row, step] / temperature).softmax(-1)
            assert proposal.tokens[row, step] == first_exceeding(law, float(uniforms[row, step]))
            text = torch.cat([text, proposal.tokens[row, step, None]])


def started(drafter: Drafter, tokens: Tensor, length: Tensor, warping: Warping = PLAIN, vocab: int = VOCAB) -> None:
    drafter.start(tokens, length, width=int(length.max()), vocab=vocab, warping=warping)


def proposed(drafter: Drafter, tokens: Tensor, length: Tensor, uniforms: Tensor) -> Proposal:
    count = uniforms.shape[1]
    return drafter.propose(tokens, length, count, uniforms, width=int(length.max()) + count)


def advance(tokens: Tensor, length: Tensor, proposal: Proposal, kept: Tensor, following: Tensor) -> None:
    """Keep the first drafted tokens of every row and append one more, as the loop does; in place."""
    for row in range(len(length)):
        end = int(length[row] + kept[row])
        tokens[row, length[row] : end] = proposal.tokens[row, : kept[row]]
        tokens[row, end] = following[row]
        length[row] = end + 1
