"""Logits processors as the loop calls them: on whole batches, knowing which rows are asked about."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from solvers.errors import InputError

SAME = 1e-5
"""Two answers to one question differ by less: some kernels add in any order. A mask that moved differs by infinity."""


class Processor(Protocol):
    """`(rows, tokens [batch, length], scores [batch, vocab]) -> scores`; only the answers at `rows` are read."""

    def __call__(self, rows: Sequence[int], tokens: Tensor, scores: Tensor) -> Tensor:
        """Process; may write into `scores`."""
        ...


class Whole:
    """A processor that is shown the whole batch, as Hugging Face's are.

    Parameters
    ----------
    processor
        `(tokens [batch, length], scores [batch, vocab]) -> scores`.
    """

    def __init__(self, processor: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._processor = processor

    def __call__(self, rows: Sequence[int], tokens: Tensor, scores: Tensor) -> Tensor:
        """See `Processor`."""
        return self._processor(tokens, scores)


class ByRow:
    """A processor that is shown the rows it is asked about, one at a time, and told their numbers.

    Parameters
    ----------
    processor
        `(row, tokens [1, length], scores [1, vocab]) -> scores`.
    """

    def __init__(self, processor: Callable[[int, Tensor, Tensor], Tensor]) -> None:
        self._processor = processor

    def __call__(self, rows: Sequence[int], tokens: Tensor, scores: Tensor) -> Tensor:
        """See `Processor`."""
        for row in rows:
            scores[row] = self._processor(row, tokens[row : row + 1], scores[row : row + 1])[0]
        return scores


class Watched:
    """A processor nobody vouches for: it is checked to be a function of its input while it works.

    Speculative decoding asks about texts that are then rejected, and asks twice. So the first question of a call is
    repeated at once, and again whenever `confirm` is called, other texts lying between: an answer that depends on what
    was asked before shows itself before a token goes out.

    Parameters
    ----------
    processor
        The processor.
    name
        Of it, for the message.
    """

    def __init__(self, processor: Processor, name: str) -> None:
        self._processor, self._name = processor, name
        self._first: tuple[list[int], Tensor, Tensor] | None = None
        self._answer: Tensor

    def __call__(self, rows: Sequence[int], tokens: Tensor, scores: Tensor) -> Tensor:
        """See `Processor`.

        Raises
        ------
        InputError
            As `confirm` does.
        """
        if self._first is not None:
            try:
                return self._processor(rows, tokens, scores)
            except Exception:  # the processor's own error, unless it comes of a state: then that is told
                self.confirm()
                raise
        self._first = list(rows), tokens.clone(), scores.clone()
        self._answer = self._ask()
        self.confirm()
        return self._answer.clone()

    def confirm(self) -> None:
        """Repeat the first question, if there was one.

        Raises
        ------
        InputError
            The answer is another one.
        """
        if self._first is None:
            return
        rows = self._first[0]
        try:
            again = self._ask()
        except Exception as error:  # foreign code, which answered this very question before: it may raise anything
            raise _has_a_state(self._name) from error
        if not torch.allclose(again[rows], self._answer[rows], rtol=SAME, atol=SAME, equal_nan=True):
            raise _has_a_state(self._name)

    def _ask(self) -> Tensor:
        assert self._first is not None
        rows, tokens, scores = self._first
        return self._processor(rows, tokens.clone(), scores.clone()).clone()


def _has_a_state(name: str) -> InputError:
    return InputError(
        f"logits processor {name}: expected a function of the text and its scores; got another answer to the same "
        "input, so it keeps a state from call to call or draws at random; write with the model's own generate, or give "
        "one that computes its state from the text (and a new one: this has been called)"
    )
