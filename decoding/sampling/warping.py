"""What happens to logits before they are laws: the target's vocabulary, processors applied once, a temperature."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from decoding.sampling.processors import Processor, Watched

ABSENT = -1e30
"""The draft's logit of a token it does not know: no mass beside a known one, whatever the processors add or multiply.

Not infinite, so that where a mask leaves unknown tokens only, the draft has a law all the same: on those.
"""

STAND_IN = 0
"""What a draft is fed for a token it does not know. Any would do: a draft may have any law, its own is what counts."""


def over_vocabulary(logits: Tensor, vocab: int) -> Tensor:
    """Logits over the target's vocabulary, `[..., vocab]`, float32: cut to it, or filled up with `ABSENT`."""
    cut = logits[..., :vocab].float()
    lacking = vocab - cut.shape[-1]
    return torch.nn.functional.pad(cut, (0, lacking), value=ABSENT) if lacking else cut


def as_known_to(model: Any, tokens: Tensor, vocab: int) -> Tensor:
    """Tokens of a vocabulary of `vocab` as a model can embed them: `STAND_IN` for those beyond its embeddings."""
    known = model.get_input_embeddings().weight.shape[0]
    return tokens if known >= vocab else tokens.where(tokens < known, STAND_IN)


class Warping:
    """The same processors for the draft and the target, each applied once.

    Parameters
    ----------
    temperature
        Divides the processed logits; 0 is greedy decoding, a point mass on the largest. Kept apart from the
        processors because the verification step folds it in.
    processors
        Everything else, in order.
    reads_text
        Whether a processor looks at the text. Then they are called once per position and length of the texts, and these
        are read back from the device; otherwise once for all.
    prompts, padding
        The prompts as `generate` lays them out, `[batch, length]`, and how much of each is padding on the left: a
        processor that reads text is shown the rows of the whole batch in that layout, which some count on (a least
        number of new tokens, a penalty that spares the prompt).
    ends, max_new_tokens
        What ends a text: processors that read text are never asked what follows.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        processors: Sequence[Processor] = (),
        reads_text: bool = False,
        prompts: Tensor | None = None,
        padding: Sequence[int] = (),
        ends: Iterable[int] = (),
        max_new_tokens: int | None = None,
    ) -> None:
        self.temperature = temperature
        self.processors = list(processors)
        self.reads_text = reads_text and bool(processors)
        self._prompts, self._padding = prompts, list(padding)
        self._ends, self._most = sorted(ends), max_new_tokens
        self._rows = list(range(0 if prompts is None else len(prompts)))
        self._finished: set[int] = set()

    def apply(self, logits: Tensor, tokens: Tensor, length: Tensor, places: Tensor | None = None) -> Tensor:
        """Process logits after n consecutive prefixes of every text; float32, before the temperature.

        Where processors read text and a prefix is not one that may come to be, the logits stay as they are: behind an
        end token, beyond the greatest length, and from place `places[b]` on.

        Parameters
        ----------
        logits
            `[lines, n, vocab]`; entry j of line b follows the text `tokens[b, : length[b] + j]`.
        tokens
            `[lines, capacity]`, left-aligned.
        length
            `[lines]`.
        places
            How many of the n are asked for, `[lines]`; all if None.

        Raises
        ------
        InputError
            A processor that is no function of the text and the logits.
        """
        scores = logits.float()
        if not self.processors:
            return scores
        if not self.reads_text:
            flat = _own(scores.flatten(0, 1), logits)
            return self._through(range(len(flat)), tokens.new_zeros(len(flat), 1), flat).view_as(scores)
        warped = scores.clone()
        fresh, asked = self._extent(tokens, length, scores.shape[1], places)
        for lines in self._alike(fresh):
            for place in range(max(asked[line] for line in lines)):
                left = [line for line in lines if place < asked[line]]
                warped[left, place] = self._called(left, tokens, scores[left, place], fresh[left[0]] + place)
        return warped

    def confirm(self) -> None:
        """Check the processors that nobody vouches for, once more.

        Raises
        ------
        InputError
            One is no function of the text and the logits.
        """
        for processor in self.processors:
            if isinstance(processor, Watched):
                processor.confirm()

    def select(self, rows: Tensor) -> None:
        """Keep these lines."""
        self._rows = [self._rows[row] for row in rows.tolist()] if self._rows else []

    def finish(self, row: int) -> None:
        """Take note that a row's text has ended, though its lines stay."""
        self._finished.add(row)

    def _row(self, line: int) -> int:
        return self._rows[line] if self._rows else line

    def _real(self, line: int) -> int:
        """Tokens of a line's prompt."""
        return 0 if self._prompts is None else self._prompts.shape[1] - self._padding[self._rows[line]]

    def _extent(self, tokens: Tensor, length: Tensor, places: int, asked: Tensor | None) -> tuple[list[int], list[int]]:
        """New tokens of every line, and after how many of its prefixes something may follow; read back at once."""
        lines = range(len(length))
        real = length.new_tensor([self._real(line) for line in lines])
        open_ = torch.full_like(length, places) if asked is None else asked.clamp(max=places)
        if self._most is not None:
            open_ = open_.minimum(real + self._most - length)
        if self._ends:
            columns = torch.arange(tokens.shape[1], device=tokens.device)
            ending = torch.isin(tokens, tokens.new_tensor(self._ends)) & (columns >= real[:, None])
            first = torch.where(ending.any(1), ending.to(torch.uint8).argmax(1), tokens.shape[1])
            open_ = open_.minimum(first + 1 - length)
        fresh, left = torch.stack([length - real, open_.clamp(min=0)]).tolist()
        return fresh, [0 if self._row(line) in self._finished else left[line] for line in lines]

    def _alike(self, fresh: list[int]) -> list[list[int]]:
        """Lines that can be shown together: of one number of new tokens, and no row twice."""
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        lines_of: Counter[int] = Counter()
        for line, each in enumerate(fresh):
            row = self._row(line)
            groups[each, lines_of[row]].append(line)
            lines_of[row] += 1
        return list(groups.values())

    def _called(self, lines: list[int], tokens: Tensor, scores: Tensor, fresh: int) -> Tensor:
        """Show the processors the whole batch, in which these lines have `fresh` new tokens."""
        if self._prompts is None:
            return self._through(range(len(lines)), tokens[lines, :fresh], scores.clone())
        rows = [self._rows[line] for line in lines]
        prompts = self._prompts[rows].to(tokens.device)
        text = torch.cat([prompts, prompts.new_zeros(len(rows), fresh)], dim=1)
        for place, line in enumerate(lines):
            text[place, self._padding[rows[place]] :] = tokens[line, : self._real(line) + fresh]
        # rows of other lengths are not asked about: a text that one of these has written stands in their place
        written = dict(zip(rows, range(len(rows)), strict=True))
        order = [written.get(row, 0) for row in range(len(self._prompts))]
        return self._through(rows, text[order], scores[order])[rows]

    def _through(self, rows: Sequence[int], text: Tensor, scores: Tensor) -> Tensor:
        for processor in self.processors:
            scores = processor(rows, text, scores)
        return scores


def _own(rows: Tensor, logits: Tensor) -> Tensor:
    """Memory that a processor may write into: some work in place."""
    return rows.clone() if rows.data_ptr() == logits.data_ptr() else rows
