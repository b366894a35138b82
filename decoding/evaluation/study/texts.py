"""A study's texts: batches of fixed content, whoever writes them and whenever, one row to a text."""

import math
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from decoding.evaluation.files.kept import Row
from decoding.evaluation.positions.collect import padded, seed_for, written_tokens
from decoding.evaluation.study.cells import Cell
from decoding.evaluation.study.results import TokenCost
from decoding.evaluation.study.sections import TextSettings
from decoding.evaluation.study.token_costs import token_costs
from decoding.huggingface import generate_plainly
from decoding.huggingface.pair import Pair
from solvers.errors import InputError


class Batch(NamedTuple):
    """Texts that are written together: rounding depends on a text's neighbours, so these never change.

    Parameters
    ----------
    cell
        The rule that writes them.
    texts
        (prompt, sample) of each.
    """

    cell: Cell
    texts: tuple[tuple[int, int], ...]

    @property
    def keys(self) -> list[tuple[str, int, int]]:
        """Keys of its rows."""
        return [(self.cell.label, *text) for text in self.texts]

    def shown(self, examples: int) -> list[tuple[str, int, int]]:
        """Keys of the texts that a report shows token by token, of so many prompts."""
        return [key for key in self.keys if key[2] == 0 and key[1] < examples]


def text_key(row: Row) -> tuple[str, int, int]:
    """Which text a row is of."""
    return row["cell"], row["prompt"], row["sample"]


def batches(cells: Sequence[Cell], prompts: int, settings: TextSettings) -> list[Batch]:
    """All batches; every cell's before the next texts, so that a part of a study is a fair part."""
    texts = [(prompt, sample) for sample in range(settings.samples) for prompt in range(prompts)]
    size = settings.batch_size
    blocks = [tuple(texts[start : start + size]) for start in range(0, len(texts), size)]
    return [Batch(cell, block) for block in blocks for cell in cells]


def text_order(cells: Sequence[Cell], prompts: int, samples: int) -> list[tuple[str, int, int]]:
    """Keys of all texts in the order of the merged file."""
    return [(cell.label, prompt, sample) for cell in cells for prompt in range(prompts) for sample in range(samples)]


def check_texts(found: Mapping[Hashable, Row], cells: Sequence[Cell], prompts: int, samples: int, path: Path) -> None:
    """Check that texts which are there are of these cells and prompts.

    Raises
    ------
    InputError
        A text is of no cell or prompt here, or was written with another knob.
    """
    wanted = set(text_order(cells, prompts, samples))
    knobs = {cell.label: next(iter(cell.knob.values()), None) for cell in cells}
    for key, row in found.items():
        if key not in wanted:
            raise InputError(f"{path}: expected texts of this study; got one of {key}; delete its line")
        if row["knob"] != knobs[row["cell"]]:
            raise InputError(
                f"{path}: expected texts written with the knobs of calibration.json; that of {row['cell']} was "
                f"{row['knob']} and is {knobs[row['cell']]}; put the former calibration.json back, or choose another "
                "--out"
            )


def write_texts(
    pair: Pair,
    prompts: Sequence[Tensor],
    settings: TextSettings,
    todo: Sequence[Batch],
    provenance: dict[str, Any],
    *,
    seed: int,
    examples: int,
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Write batches, one after the other: the rows of the texts, and of the tokens of those that will be shown.

    Parameters
    ----------
    pair, prompts
        The models, and token ids, `[1, length]` each.
    settings, seed, examples
        As in `Configuration`.
    todo, provenance
        What to write, and what every row says about where it comes from.
    """
    for batch in todo:
        rule = batch.cell.made()
        input_ids, mask = padded([prompts[prompt] for prompt, _ in batch.texts])
        # other rules, other uniforms: two texts are compared as two draws, not as one draw twice
        streams = zlib.crc32(batch.cell.label.encode())
        output = generate_plainly(
            input_ids,
            target=pair.target,
            draft=pair.draft,
            attention_mask=mask,
            rule=rule,
            draft_length=settings.draft_length,
            generator=[seed_for(seed, 4, streams, *text) for text in batch.texts],
            max_new_tokens=settings.max_new_tokens,
            sampling=settings.sampling,
        )
        if output.interrupted:
            raise KeyboardInterrupt
        rows, shown, shown_keys = [], [], batch.shown(examples)
        for place, (prompt, sample) in enumerate(batch.texts):
            statistics = output.texts[place]
            tokens = written_tokens(output, place)
            where = {"cell": batch.cell.label, "prompt": prompt, "sample": sample}
            rows.append(
                where
                | {"rule": batch.cell.rule, "level": batch.cell.level}
                | {"knob": next(iter(batch.cell.knob.values()), None)}
                | {"text": pair.tokenizer.decode(tokens, skip_special_tokens=True)}
                | {name: finite(value) for name, value in statistics.totals().items()}
                | {"error": output.errors[place]}
                | provenance
            )
            if (batch.cell.label, prompt, sample) in shown_keys:
                costs = token_costs(pair, prompts[prompt], tokens, statistics, rule, settings.sampling)
                shown.append(where | {"tokens": [_row(each) for each in costs]})
        yield rows, shown


def finite(value: float) -> float | None:
    """What JSON has a number for; null stands for an infinite divergence or log-likelihood."""
    return value if math.isfinite(value) else None


def _row(token: TokenCost) -> Row:
    return {name: finite(value) if isinstance(value, float) else value for name, value in vars(token).items()}
