"""Drafts copied from the text itself: what followed the last time these words were written."""

import torch
from torch import Tensor

from decoding.drafting.protocol import Proposal
from decoding.sampling.warping import Warping
from solvers.errors import InputError


class PromptLookup:
    """Proposes what followed the last earlier occurrence of the text's last n tokens, for the largest n that has one.

    A text x_1 .. x_L with x_{e-n+1} .. x_e = x_{L-n+1} .. x_L, e < L, proposes x_{e+1}, x_{e+2}, ... up to x_L; n as
    large as possible from `longest` down to `shortest`, then e as large as possible; it ends before the first token
    that a logits processor forbids. Laws are point masses. A row without an occurrence proposes nothing.

    Parameters
    ----------
    longest, shortest
        Lengths of the n-grams looked up, longest >= shortest >= 1.

    Raises
    ------
    InputError
        Lengths out of order, or no whole numbers.

    References
    ----------
    Saxena, Prompt Lookup Decoding, 2023, https://github.com/apoorvumang/prompt-lookup-decoding
    """

    def __init__(self, longest: int = 3, shortest: int = 1) -> None:
        if any(isinstance(each, bool) or not isinstance(each, int) for each in (longest, shortest)):
            raise InputError(f"prompt lookup: expected whole numbers; got longest={longest!r}, shortest={shortest!r}")
        if not 1 <= shortest <= longest:
            raise InputError(
                f"prompt lookup: expected longest >= shortest >= 1; got longest={longest}, shortest={shortest}; "
                "give the lengths of the n-grams to look up"
            )
        self.longest, self.shortest = longest, shortest
        self._vocab = 0
        self._warping: Warping

    @property
    def calls(self) -> int:
        """No forward passes."""
        return 0

    def start(self, tokens: Tensor, length: Tensor, *, width: int, vocab: int, warping: Warping) -> None:
        """Nothing to prepare but the vocabulary and the processors; see `Drafter.start`."""
        self._vocab, self._warping = vocab, warping

    def propose(self, tokens: Tensor, length: Tensor, count: int, uniforms: Tensor, *, width: int) -> Proposal:
        """Copy up to k tokens per row; the uniforms decide nothing. See `Drafter.propose`."""
        text = tokens[:, :width]
        end, found = self._last_occurrence(text, length)
        columns = end[:, None] + torch.arange(1, count + 1, device=text.device)
        copied = text.gather(1, columns.minimum(length[:, None] - 1))
        logits = torch.full((*copied.shape, self._vocab), -torch.inf, device=text.device)
        logits.scatter_(2, copied[..., None], 0.0)
        available = torch.where(found, (length - 1 - end).clamp(max=count), 0)
        if self._warping.processors:
            available = self._allowed(text, length, copied, logits, available)
        return Proposal(tokens=copied, logits=logits, raw_logits=logits, count=available)

    def select(self, rows: Tensor) -> None:
        """Nothing is kept per row."""

    def _allowed(self, text: Tensor, length: Tensor, copied: Tensor, logits: Tensor, available: Tensor) -> Tensor:
        """How many of the copied tokens, `[batch]`, come before the first one that is masked.

        A place is asked about only where all before it are allowed: its text is then one that may come to be.
        """
        text = text.scatter(1, length[:, None] + torch.arange(copied.shape[1], device=text.device), copied)
        for place in range(copied.shape[1]):
            here = slice(place, place + 1)
            warped = self._warping.apply(logits[:, here], text, length + place, (available > place).long())
            masked = warped[:, 0].gather(1, copied[:, here])[:, 0] == -torch.inf
            available = torch.where(masked, available.clamp(max=place), available)
        return available

    def _last_occurrence(self, text: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Column where the best earlier occurrence ends, `[batch]`, and whether there is one, `[batch]`."""
        width = text.shape[1]
        ends = torch.arange(width, device=text.device)
        matching = (ends < length[:, None] - 1).expand_as(text)
        # how many tokens before and at each column agree with the text's last ones, up to `longest`
        agreeing = torch.zeros_like(text)
        for back in range(min(self.longest, width)):
            wanted = text.gather(1, (length[:, None] - 1 - back).clamp(min=0))
            same = text[:, : width - back] == wanted
            matching = matching & torch.nn.functional.pad(same, (back, 0))
            agreeing = agreeing + matching
        # one number orders occurrences by length first, then by column
        best = torch.where(agreeing >= self.shortest, agreeing * width + ends, -1).max(dim=1).values
        return best % width, best >= 0
