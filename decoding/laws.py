"""What happens to logits before they are laws: the common vocabulary, processors applied once, a temperature."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Processors = Callable[[Tensor, Tensor], Tensor]
"""`(tokens [batch, length], logits [batch, vocab]) -> logits [batch, vocab]`, as Hugging Face's logits processors."""


class Warping:
    """The same processors for the draft and the target, each applied once.

    Parameters
    ----------
    temperature
        Divides the processed logits; 0 is greedy decoding, a point mass on the largest. Kept apart from the
        processors because the verification step folds it in.
    processors
        Everything else, in order; None for nothing.
    reads_text
        Whether a processor looks at the text. Then it is called once per position and length of the texts, and these
        are read back from the device; otherwise once for all.
    prompts, padding
        The prompts as `generate` lays them out, `[batch, length]`, and how much of each is padding on the left: a
        processor that reads text is shown the rows of the whole batch in that layout, which some count on (a least
        number of new tokens, a penalty that spares the prompt).
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        processors: Processors | None = None,
        reads_text: bool = False,
        prompts: Tensor | None = None,
        padding: Sequence[int] = (),
    ) -> None:
        self.temperature = temperature
        self.reads_text = reads_text and processors is not None
        self._processors, self._prompts, self._padding = processors, prompts, list(padding)
        self._rows = list(range(0 if prompts is None else len(prompts)))

    def apply(self, logits: Tensor, tokens: Tensor, length: Tensor) -> Tensor:
        """Process logits after n consecutive prefixes of every text; float32, before the temperature.

        Parameters
        ----------
        logits
            `[lines, n, vocab]`; entry j of line b follows the text `tokens[b, : length[b] + j]`.
        tokens
            `[lines, capacity]`, left-aligned.
        length
            `[lines]`.
        """
        scores = logits.float()
        if self._processors is None:
            return scores
        if not self.reads_text:
            flat = scores.flatten(0, 1)
            return self._processors(tokens.new_zeros(len(flat), 1), _own(flat, logits)).view_as(scores)
        warped = torch.empty_like(scores)
        for lines in self._alike(length.tolist()):
            for place in range(scores.shape[1]):
                seen = int(length[lines[0]]) - self._real(lines[0]) + place
                warped[lines, place] = self._called(lines, tokens, scores[lines, place], seen)
        return warped

    def select(self, rows: Tensor) -> None:
        """Keep these lines."""
        self._rows = [self._rows[row] for row in rows.tolist()] if self._rows else []

    def _real(self, line: int) -> int:
        """Tokens of a line's prompt."""
        return 0 if self._prompts is None else self._prompts.shape[1] - self._padding[self._rows[line]]

    def _alike(self, length: list[int]) -> list[list[int]]:
        """Lines that can be shown together: of one number of new tokens, and no row twice."""
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        lines_of: Counter[int] = Counter()
        for line, each in enumerate(length):
            row = self._rows[line] if self._rows else line
            groups[each - self._real(line), lines_of[row]].append(line)
            lines_of[row] += 1
        return list(groups.values())

    def _called(self, lines: list[int], tokens: Tensor, scores: Tensor, fresh: int) -> Tensor:
        """Show the processors the whole batch, in which these lines have `fresh` new tokens."""
        assert self._processors is not None
        if self._prompts is None:
            return self._processors(tokens[lines, :fresh], scores.clone())
        rows = [self._rows[line] for line in lines]
        text = torch.cat([self._prompts, self._prompts.new_zeros(len(self._prompts), fresh)], dim=1).to(tokens.device)
        for line, row in zip(lines, rows, strict=True):
            real = self._real(line)
            text[row, self._padding[row] :] = tokens[line, : real + fresh]
        batch = scores.new_zeros(len(text), scores.shape[1])
        batch[rows] = scores
        return self._processors(text, batch)[rows]


def _own(rows: Tensor, logits: Tensor) -> Tensor:
    """Memory that a processor may write into: some work in place."""
    return rows.clone() if rows.data_ptr() == logits.data_ptr() else rows
