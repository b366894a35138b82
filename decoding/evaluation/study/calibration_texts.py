"""Texts of the target itself, on whose positions knobs are set: written in batches, kept as they are finished."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from decoding.evaluation.files.kept import Row
from decoding.evaluation.positions.collect import Write, collect_positions
from decoding.evaluation.study.sections import TextSettings
from decoding.evaluation.study.store import Table
from decoding.huggingface.pair import Pair
from tradeoff.outcome.positions import Positions


def number_of(row: Row) -> int:
    """Which calibration text a row is."""
    return row["number"]


def calibration_positions(
    pair: Pair,
    prompts: Sequence[Tensor],
    texts: TextSettings,
    table: Table,
    provenance: dict[str, Any],
    *,
    positions: int,
    seed: int,
    progress: Callable[[int], object],
) -> Positions:
    """Collect positions as `collect_positions` does, on texts that are kept.

    Parameters
    ----------
    pair, prompts
        The models, and token ids, `[1, length]` each.
    texts
        How the study's texts are written: these too, but losslessly.
    table
        Texts that are there already, and where new ones go.
    provenance
        Of new ones.
    positions, seed, progress
        As in `collect_positions`.
    """
    found = {number_of(row): row for row in table.rows().values()}

    def kept(numbers: range, write: Write) -> list[list[int]]:
        if any(number not in found for number in numbers):
            rows = [
                {"number": number, "prompt": number % len(prompts), "tokens": tokens} | provenance
                for number, tokens in zip(numbers, write(numbers), strict=True)
            ]
            table.append(rows, rank=0)
            found.update({number_of(row): row for row in rows})
        return [found[number]["tokens"] for number in numbers]

    collected = collect_positions(
        pair,
        prompts,
        new_tokens=texts.max_new_tokens,
        limit=positions,
        seed=seed,
        sampling=texts.sampling,
        draft_length=texts.draft_length,
        batch_size=texts.batch_size,
        kept=kept,
        progress=progress,
    )
    table.merge(sorted(found))
    return collected
