"""Texts of the target itself, on whose positions knobs are set: written in batches, kept as they are finished."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.evaluation.files.kept import Row
from decoding.evaluation.positions.collect import raw_logits, seed_for
from decoding.evaluation.study.configuration import Configuration
from decoding.evaluation.study.store import Table
from decoding.evaluation.study.texts import padded, written_tokens
from decoding.huggingface import generate_plainly
from decoding.huggingface.pair import Pair
from tradeoff.outcome.positions import Positions


def number_of(row: Row) -> int:
    """Which calibration text a row is."""
    return row["number"]


def calibration_positions(
    pair: Pair,
    prompts: Sequence[Tensor],
    configuration: Configuration,
    table: Table,
    provenance: dict[str, Any],
    progress: Callable[[int], object],
) -> Positions:
    """Sample the target losslessly from each prompt in turn until there are enough positions; keep both laws at each.

    Parameters
    ----------
    pair, prompts, configuration
        The study; prompts as token ids, `[1, length]` each.
    table
        Texts that are there already, and where new ones go.
    provenance
        Of new ones.
    progress
        Told of the positions of every batch.
    """
    wanted, size = configuration.calibration.positions, configuration.texts.batch_size
    found = {number_of(row): row for row in table.rows().values()}
    texts: list[tuple[int, list[int]]] = []
    left, start = wanted, 0
    while left > 0:
        numbers = range(start, start + size)
        if any(number not in found for number in numbers):
            rows = _written(pair, prompts, configuration, numbers)
            table.append([row | provenance for row in rows], rank=0)
            found |= {number_of(row): row for row in rows}
        for number in numbers:
            tokens = found[number]["tokens"][:left]
            texts.append((number % len(prompts), tokens))
            left -= len(tokens)
            progress(len(tokens))
        start += size
    table.merge(range(start))
    return _positions(pair, prompts, [(owner, tokens) for owner, tokens in texts if tokens], configuration)


def _written(pair: Pair, prompts: Sequence[Tensor], configuration: Configuration, numbers: range) -> list[Row]:
    owners = [number % len(prompts) for number in numbers]
    input_ids, mask = padded([prompts[owner] for owner in owners])
    output = generate_plainly(
        input_ids,
        target=pair.target,
        draft=pair.draft,
        attention_mask=mask,
        draft_length=configuration.texts.draft_length,
        generator=[seed_for(configuration.seed, 1, number) for number in numbers],
        account="counts",
        max_new_tokens=configuration.texts.max_new_tokens,
        temperature=configuration.texts.temperature,
    )
    if output.interrupted:
        raise KeyboardInterrupt
    return [
        {"number": number, "prompt": owner, "tokens": written_tokens(output, place)}
        for place, (number, owner) in enumerate(zip(numbers, owners, strict=True))
    ]


def _positions(
    pair: Pair, prompts: Sequence[Tensor], texts: Sequence[tuple[int, list[int]]], configuration: Configuration
) -> Positions:
    laws: list[list[Tensor]] = [[], []]
    for owner, tokens in texts:
        text = torch.cat([prompts[owner], prompts[owner].new_tensor([tokens])], dim=1)
        for kept, logits in zip(laws, raw_logits(pair, text, prompts[owner].shape[1]), strict=True):
            kept.append((logits / configuration.texts.temperature).softmax(-1).cpu())
    draft, target = (torch.cat(kept) for kept in laws)
    owners = np.repeat([owner for owner, _ in texts], [len(tokens) for _, tokens in texts])
    return Positions(draft=draft, target=target, prompt=owners, prompts=len(prompts))
