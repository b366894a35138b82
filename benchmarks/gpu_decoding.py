"""The loop on a CUDA device: a round's time beside transformers' and beside what the memory's bandwidth allows.

Run it with `python -m benchmarks.gpu_decoding`, with `--compiled` to have the models compiled too, which takes minutes
more: random weights in bfloat16 in the shapes of pythia-2.8b and pythia-70m
(7 GB of device memory, more for the larger batches), rows in `benchmarks/results`. The rule `Synthetic(rate=0.8)` keeps
four drafted tokens in five whatever the laws: the text means nothing, and its time is that of a real pair which agrees
so often. Assisted generation cannot be given a rule, so compare the time of a round.

A round is timed by a long and a short call, their difference over the difference of their rounds: reading the prompts
and recording graphs cancel, and are reported apart. Both calls end in the same `BUCKET` of columns, so that they record
the same graphs.

The floor of a round is what has to be read: k times the draft, once the target, and the keys and values of every text,
at the bandwidth of a plain copy. Input embeddings are looked up, not read; logits are left out.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import decoding
from benchmarks.decoding_pairs import random_model
from benchmarks.decoding_speed import ASSISTED, DRAFT_LENGTH, SAMPLING, Asked, assisted, sampling
from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from decoding.models.cached_model import BUCKET
from tradeoff.rules import Synthetic

RATE, REPEATS, BATCHES = 0.8, 5, (1, 8, 32)
TARGET = {"layers": 32, "hidden": 2560, "heads": 32, "vocab": 50304}
DRAFT = {"layers": 6, "hidden": 512, "heads": 8, "vocab": 50304}
PROMPT_TOKENS, SHORT, LONG = BUCKET, 32, BUCKET - 32
COPIED = 1 << 30
"""Bytes of the copy that measures the bandwidth."""
GRAPHS, COMPILED, DYNAMIC = "ours, static cache, graphs", "ours, static cache, graphs, compiled", "ours, dynamic cache"
PARTS = ("draft", "target", "verify", "rest")


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call: tokens in all, rounds of the batch, seconds by part; transformers has no parts."""

    tokens: int
    rounds: int
    seconds: dict[str, float]


Decoder = Callable[[Asked], Call]


def ours(asked: Asked, **arguments: Any) -> Call:
    """The loop; a batch goes on until its last text is finished."""
    output = decoding.generate(
        asked.ids,
        target=asked.target,
        draft=asked.draft,
        rule=Synthetic(rate=RATE),
        draft_length=DRAFT_LENGTH,
        account="counts",
        **asked.arguments | arguments,
    )
    rounds = max(text.target_calls for text in output.texts)
    seconds = {part: getattr(output.seconds, part) for part in PARTS}
    return Call(tokens=output.statistics.generated, rounds=rounds, seconds=seconds)


def theirs(asked: Asked, *, decoder: Callable[[Asked], int]) -> Call:
    """A call of transformers; of assisted generation for one text only."""
    rounds = decoder(asked) // len(asked.ids)
    return Call(tokens=asked.new_tokens * len(asked.ids), rounds=rounds, seconds={})


def decoders(batch: int, compiled: bool) -> dict[str, Decoder]:
    """Who is measured at a batch size."""
    peers: dict[str, Decoder] = {SAMPLING: partial(theirs, decoder=sampling)}
    if batch == 1:
        peers[ASSISTED] = partial(theirs, decoder=assisted)
    static = partial(ours, cache_implementation="static")
    loops = {DYNAMIC: ours, GRAPHS: static}
    return peers | loops | ({COMPILED: partial(static, compiled=True)} if compiled else {})


def bandwidth(device: str, copied: int) -> float:
    """Bytes read and written per second by a copy."""
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = interleaved_seconds({"copy": lambda: target.copy_(source)}, repeats=11)["copy"]
    return 2 * copied / float(np.median(seconds))


def bytes_of_round(name: str, target: Any, draft: Any, *, batch: int, columns: float) -> float:
    """Least that a round reads, bytes."""
    passes = [(target, 1)] if name == SAMPLING else [(target, 1), (draft, DRAFT_LENGTH)]
    return sum(times * (_weights(model) + batch * columns * _column(model)) for model, times in passes)


def _weights(model: Any) -> int:
    embedding = model.get_input_embeddings().weight
    return sum(weight.nbytes for weight in model.parameters()) - embedding.nbytes


def _column(model: Any) -> int:
    return 2 * model.config.num_hidden_layers * model.config.hidden_size * model.dtype.itemsize


def measure(
    target: Any, draft: Any, compared: dict[str, Decoder], *, batch: int, copy_speed: float, repeats: int
) -> list[dict[str, Any]]:
    """One row per decoder at a batch size, given a copy's bytes per second."""
    ids = torch.randint(target.config.vocab_size, (batch, PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    ids = ids.to(target.device)
    calls: dict[str, list[Call]] = {}

    def task(key: str, decoder: Decoder, new_tokens: int) -> None:
        asked = Asked(target=target, draft=draft, ids=ids, temperature=1.0, new_tokens=new_tokens)
        calls.setdefault(key, []).append(decoder(asked))

    tasks = {
        f"{name} {length}": partial(task, f"{name} {length}", decoder, length)
        for name, decoder in compared.items()
        for length in (SHORT, LONG)
    }
    seconds = interleaved_seconds(tasks, repeats=repeats)
    columns = PROMPT_TOKENS + (SHORT + LONG) / 2
    rows = []
    for name in compared:
        # the first call of each was before the clock started
        short, long = ((calls[f"{name} {length}"][1:], seconds[f"{name} {length}"]) for length in (SHORT, LONG))
        read = bytes_of_round(name, target, draft, batch=batch, columns=columns)
        setting = {
            "question": "time of a round beside the floor of reading weights and caches at a copy's bandwidth",
            "decoder": name,
            "batch": batch,
            "dtype": str(target.dtype).removeprefix("torch."),
            "device": target.device.type,
            "draft_length": DRAFT_LENGTH,
            "rate": None if name in (SAMPLING, ASSISTED) else RATE,
            "prompt_tokens": PROMPT_TOKENS,
            "new_tokens": [SHORT, LONG],
            "repeats": repeats,
            "copy_bytes_per_second": copy_speed,
            "floor_milliseconds": 1e3 * read / copy_speed,
        }
        rows.append(setting | timed(*short, *long, floor=read / copy_speed))
    return rows


def timed(
    short: list[Call], short_seconds: np.ndarray, long: list[Call], long_seconds: np.ndarray, *, floor: float
) -> dict[str, Any]:
    """What a row says of its times, from the difference of two calls in every repeat."""
    pairs = list(zip(long, short, strict=True))
    rounds = np.array([more.rounds - less.rounds for more, less in pairs])
    tokens = np.array([more.tokens - less.tokens for more, less in pairs])
    spent = long_seconds - short_seconds
    before = short_seconds - spent / rounds * [call.rounds for call in short]
    parts = {
        part: quantiles(1e3 * np.array([more.seconds[part] - less.seconds[part] for more, less in pairs]) / rounds)
        for part in long[0].seconds
    }
    return {
        "milliseconds_per_round": quantiles(1e3 * spent / rounds),
        "milliseconds_per_round_by_part": parts,
        "milliseconds_before_the_first_round": quantiles(1e3 * before),
        "over_floor": quantiles(spent / rounds / floor),
        "tokens_per_round": quantiles(tokens / rounds),
        "tokens_per_second": quantiles(tokens / spent),
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Medians."""
    table = Table(
        "batch", "decoder", "ms a round", *PARTS, "floor, ms", "of floor", "tokens/round", "tokens/s", "before"
    )
    for row in rows:
        parts = row["milliseconds_per_round_by_part"]
        table.add_row(
            str(row["batch"]),
            row["decoder"],
            f"{row['milliseconds_per_round']['median']:.2f}",
            *(f"{parts[part]['median']:.2f}" if parts else "" for part in PARTS),
            f"{row['floor_milliseconds']:.2f}",
            f"{row['over_floor']['median']:.2f}",
            f"{row['tokens_per_round']['median']:.2f}",
            f"{row['tokens_per_second']['median']:.0f}",
            f"{row['milliseconds_before_the_first_round']['median']:.0f}",
        )
    return table


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiled", action="store_true")
    compiled = parser.parse_args().compiled
    if not torch.cuda.is_available():
        raise SystemExit("gpu_decoding: expected a CUDA device; torch sees none; python -m benchmarks.decoding_speed")
    target, draft = (random_model(**sizes, dtype=torch.bfloat16, device="cuda") for sizes in (TARGET, DRAFT))
    speed = bandwidth("cuda", COPIED)
    rows = [
        row
        for batch in track(BATCHES, description="batches")
        for row in measure(target, draft, decoders(batch, compiled), batch=batch, copy_speed=speed, repeats=REPEATS)
    ]
    console = Console(width=170)
    console.print(table_of(rows))
    console.print(str(write_rows("gpu_decoding", rows)))


if __name__ == "__main__":
    main()
