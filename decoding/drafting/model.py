"""A language model that drafts one token after the other."""

from typing import Any

import torch
from torch import Tensor

from decoding.drafting.protocol import Proposal
from decoding.models.cached_model import CachedModel
from decoding.models.wrappers import plain_model
from decoding.sampling.draw import inverse_cdf, law
from decoding.sampling.warping import Warping, as_known_to, over_vocabulary


class ModelDrafter:
    """Any causal LM as a drafter: k forward passes for k tokens, the first one on two tokens per row.

    Tokens of the target that it does not know have no mass in its laws; where they stand in a text it is fed
    `laws.STAND_IN` instead. Its own tokens beyond the target's vocabulary are cut off before its softmax.

    Parameters
    ----------
    model
        A Hugging Face causal LM, on any device; proposals stay there. What torch.compile and PEFT wrap around it is
        taken off, adapters in its layers stay.
    static
        Keep the cache at its full capacity and never read back from the device, as a CUDA graph needs it.
    compiled
        Run the model through torch.compile.

    Raises
    ------
    InputError
        Something else than a causal LM.
    """

    def __init__(self, model: Any, *, static: bool = False, compiled: bool = False) -> None:
        self.model = plain_model(model, "draft")
        self.static = static
        self.compiled = compiled
        self._cache: CachedModel
        self._warping: Warping
        self._vocab = 0

    @property
    def calls(self) -> int:
        """Forward passes since `start`, prefill included; those of a replayed CUDA graph are not seen."""
        return self._cache.calls

    def start(self, tokens: Tensor, length: Tensor, *, width: int, vocab: int, warping: Warping) -> None:
        """Feed what every proposal takes for granted: columns 0 to `width` - 3; see `Drafter.start`."""
        batch, capacity = tokens.shape
        self._vocab, self._warping = vocab, warping
        self._cache = CachedModel(
            self.model, "draft", batch=batch, capacity=capacity, static=self.static, compiled=self.compiled
        )
        # A text of length n needs columns 0 .. n - 3; a shorter row gets keys of padding from column n - 2 on. They
        # are never seen: a proposal writes columns n - 2, n - 1, ... in this order, and a query sees columns up to
        # its own only.
        self._cache.prefill(self._known(tokens), first=0, last=width - 2)

    def propose(self, tokens: Tensor, length: Tensor, count: int, uniforms: Tensor, *, width: int) -> Proposal:
        """Draw k tokens per row; see `Drafter.propose`."""
        text = tokens[:, :width].to(device=self._cache.device, copy=True)
        length, uniforms = length.to(text.device), uniforms.to(text.device)
        start = self._common_start(length)
        last = length[:, None] - 1
        # The newest token was never fed; the one before it was not either when the whole last block was kept. Feeding
        # both every time costs nothing and saves knowing which.
        columns = torch.cat([(last - 1).clamp(min=0), last], dim=1)
        fresh = text.gather(1, columns)
        drawn, scores, warped = [], [], []
        for step in range(count):
            # a graph replays one width; otherwise no column is read before it is needed, and a static target's width
            # may go beyond the last
            reach = width if self.static else min(width, tokens.shape[1]) - count + step
            logits = self._cache.feed(self._known(fresh), columns, width=reach, keep=1, start=start)
            scores.append(over_vocabulary(logits, self._vocab))
            warped.append(self._warping.apply(scores[-1], text, length + step))
            fresh = self._draw(warped[-1], uniforms[:, step : step + 1])
            drawn.append(fresh)
            columns = last + (step + 1)
            text.scatter_(1, columns, fresh)
            start = None if start is None else start + (2 if step == 0 else 1)
        logits = torch.cat(warped, dim=1)
        return Proposal(
            tokens=torch.cat(drawn, dim=1),
            logits=logits,
            raw_logits=logits if warped[0] is scores[0] else torch.cat(scores, dim=1),
            count=torch.full_like(length, count),
        )

    def select(self, rows: Tensor) -> None:
        """Keep these rows, `[n]`, of the cache; see `Drafter.select`.

        Raises
        ------
        InputError
            A static cache, which cannot move.
        """
        self._cache.select(rows.to(self._cache.device))

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Tokens `[batch, 1]` from the laws of `logits [batch, 1, vocab]`, with `uniforms [batch, 1]`."""
        return inverse_cdf(law(logits, self._warping.temperature), uniforms)

    def _known(self, tokens: Tensor) -> Tensor:
        return as_known_to(self.model, tokens, self._vocab)

    def _common_start(self, length: Tensor) -> int | None:
        """First column fed if it is the same for all rows and the host may ask: then writing keys is a plain copy."""
        if self.static or length.device.type != "cpu":
            return None
        first = int(length[0])
        # a text of one token feeds its only column twice
        return first - 2 if first > 1 and bool((length == first).all()) else None
