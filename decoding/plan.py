"""What a decoding call is asked for, and what it gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from decoding.control import Controller
from decoding.draft_length import DraftLength
from decoding.laws import Warping
from decoding.statistics import Statistics
from decoding.stopwatch import Seconds
from decoding.verification import Backend
from tradeoff.rule import BlockRule, Rule


class Uniforms:
    """Float64 uniforms in [0, 1), a stream per row or one for the batch; coarser ones return 0 every few million draws.

    Parameters
    ----------
    generator
        One per row, whose text then does not depend on the rest of the batch; or one for all; or None, torch's own.
    batch, device
        Rows, and where the numbers are needed.
    """

    def __init__(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, batch: int, device: torch.device
    ) -> None:
        self._generator, self._batch, self._device = generator, batch, device

    def draw(self, rows: Sequence[int], counts: Sequence[int], places: int) -> Tensor:
        """Draw `[rows, 2 places + 1]`: for `places` drafted tokens, their acceptance, and the token that follows.

        Parameters
        ----------
        rows
            The rows that are left; what a row gets does not depend on which they are.
        counts
            Tokens that each of them can use, at most `places`: with a stream of its own it draws 2 count + 1 numbers.
        places
            Tokens drafted in this round.
        """
        if isinstance(self._generator, Sequence):
            drawn = [
                _placed(self._one(self._generator[row], (2 * count + 1,)), places)
                for row, count in zip(rows, counts, strict=True)
            ]
            return torch.stack(drawn).to(self._device)
        drawn = _placed(self._one(self._generator, (self._batch, 2 * max(counts) + 1)), places).to(self._device)
        return drawn if len(rows) == self._batch else drawn[list(rows)]

    def _one(self, generator: torch.Generator | None, shape: tuple[int, ...]) -> Tensor:
        device = self._device if generator is None else generator.device
        return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)


def _placed(drawn: Tensor, places: int) -> Tensor:
    """Spread 2 c + 1 numbers, `[..., 2 c + 1]`, over the columns of c <= `places` tokens."""
    count = drawn.shape[-1] // 2
    if count == places:
        return drawn
    wide = drawn.new_zeros(*drawn.shape[:-1], 2 * places + 1)
    wide[..., :count] = drawn[..., :count]
    wide[..., places : places + count] = drawn[..., count:-1]
    wide[..., -1] = drawn[..., -1]
    return wide


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How to decode a batch.

    Parameters
    ----------
    rule
        A verification rule, a rule that judges whole blocks, or a controller that sets one before every round.
    draft_length
        Tokens drafted per round, or a policy that chooses.
    max_new_tokens
        Per text, at least 1.
    vocab
        Tokens of the target.
    warping, uniforms
        Processors and temperature; the randomness.
    exact
        Whether exact quantities are recorded at every position.
    finished
        `(row, its generated tokens, its processed logits if they are kept) -> bool`, asked after every single token, so
        a stop inside a block is honoured.
    emitted
        `(row, new tokens)`, told after every round.
    keep_scores
        Whether the target's raw and processed logits at every generated token are kept.
    keep_rows
        Whether finished texts stay in the models' caches to the end.
    backend
        Of the verification step.
    """

    rule: Rule | BlockRule | Controller
    draft_length: int | DraftLength
    max_new_tokens: int
    vocab: int
    warping: Warping
    uniforms: Uniforms
    exact: bool
    finished: Callable[[int, list[int], list[Tensor]], bool]
    emitted: Callable[[int, list[int]], None] = lambda row, tokens: None
    keep_scores: bool = False
    keep_rows: bool = False
    backend: Backend = "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """One decoded text.

    Parameters
    ----------
    tokens
        The generated tokens.
    statistics
        Their account.
    error
        Why the text ended before its time; None if nothing went wrong.
    logits, scores
        The target's logits, raw and processed, at every token, `[vocab]` each; empty unless kept.
    """

    tokens: list[int]
    statistics: Statistics
    error: str | None
    logits: list[Tensor]
    scores: list[Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A decoded batch: its texts, where the time went, and whether Ctrl-C ended it."""

    texts: tuple[Text, ...]
    seconds: Seconds
    interrupted: bool
