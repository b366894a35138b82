"""What the decoding loop asks of whoever drafts."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from decoding.sampling.warping import Warping


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """Drafted tokens and the laws they were drawn from: token j of row b has law softmax(logits[b, j] / temperature).

    Temperature 0 means the point mass on the first largest logit. All on the drafter's device.

    Parameters
    ----------
    tokens
        `[batch, k]`, int64.
    logits
        After processors, before temperature, `[batch, k, vocab]`, float32; a masked token has -inf, and is not
        proposed.
    raw_logits
        Before processors, `[batch, k, vocab]`, float32; the same tensor as `logits` if there are none.
    count
        How many of the k tokens row b proposes, `[batch]`, int64. The rest is padding: a token of the vocabulary and
        logits of some law, of no meaning.
    """

    tokens: Tensor
    logits: Tensor
    raw_logits: Tensor
    count: Tensor

    def to(self, device: torch.device) -> "Proposal":
        """Return the same proposal on another device."""
        logits = self.logits.to(device)
        return Proposal(
            tokens=self.tokens.to(device),
            logits=logits,
            raw_logits=logits if self.raw_logits is self.logits else self.raw_logits.to(device),
            count=self.count.to(device),
        )

    def at(self, rows: Tensor) -> "Proposal":
        """Return these rows, `[n]`, of it."""
        return Proposal(
            tokens=self.tokens[rows], logits=self.logits[rows], raw_logits=self.raw_logits[rows], count=self.count[rows]
        )


class Drafter(Protocol):
    """Proposes the next tokens of every text of a batch.

    Row b's text is `tokens[b, :length[b]]`; what lies beyond is any token id. `length` is at least 1. The law after a
    whole block of k tokens, which a rule with a bonus law of its own needs, is the last one of a proposal of k + 1.

    Between two proposals a text may lose drafted tokens and then gain one that was not drafted: it may keep any first
    part of its last proposal, and one more token.
    """

    @property
    def calls(self) -> int:
        """Forward passes since `start`; those of a replayed CUDA graph are not seen."""
        ...

    def start(self, tokens: Tensor, length: Tensor, *, width: int, vocab: int, warping: Warping) -> None:
        """Begin with new texts and forget all earlier ones.

        Parameters
        ----------
        tokens
            `[batch, capacity]`, int64; no text will grow beyond the capacity.
        length
            `[batch]`, int64.
        width
            At least the greatest length; columns up to it are read.
        vocab
            How many tokens the target knows: laws are over these. A drafter has no mass where it does not know one.
        warping
            The processors and the temperature.
        """
        ...

    def propose(self, tokens: Tensor, length: Tensor, count: int, uniforms: Tensor, *, width: int) -> Proposal:
        """Propose up to `count` tokens per row; `tokens` is left as it is.

        Parameters
        ----------
        tokens
            `[batch, capacity]`, int64, capacity at least `width`.
        length
            `[batch]`, int64.
        count
            k, at least 1.
        uniforms
            In [0, 1), float64, `[batch, k]`: token j is drawn with `uniforms[:, j]`.
        width
            At least the greatest length plus k, and constant where a CUDA graph is captured.
        """
        ...

    def select(self, rows: Tensor) -> None:
        """Keep these rows, `[n]` int64, in this order; the others are finished."""
        ...
