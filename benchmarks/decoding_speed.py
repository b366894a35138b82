"""Speed of the loop beside Hugging Face's assisted generation and plain sampling: four pairs, one thread, float32.

Run it with `python -m benchmarks.decoding_speed`, about eight minutes; `--pair NAME` measures one pair and writes no
rows. Everybody drafts 4 tokens, whatever the confidence, samples from the whole vocabulary and has no end token.

Assisted generation warps its draft twice. `generate` builds the target's list of logits processors, temperature and
top-p last, and hands this list to the draft's own nested `generate` as the caller's processors, together with the
generation config they came from: the draft's list is the target's followed by the same warpers again. The text keeps
its law, for the test uses the law drafted from; but the draft is sampled at temperature T^2, and acceptance falls.
"warped once" avoids it from outside: temperature 1, and a processor of the caller's that divides by T. Top-p can be
passed in the same way.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import decoding
from benchmarks.decoding_pairs import CALLS, SHAPES, random_pair
from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from decoding import embedded
from decoding.evaluation.prompts import read_prompts
from decoding.huggingface import hide_progress_bars, plain_config
from tradeoff import Rule
from tradeoff.rules import CommonPrice, SpeculativeSampling

DRAFT_LENGTH, PROMPT_TOKENS, BATCH = 4, 10, 8
WARM_UP, NEW_TOKENS, FEWER = 8, 128, 64
"""New tokens of the first call of everyone, which is not timed; of the others; and of batches and the slowest pair."""
REPEATS = {1.0: 5, 0.7: 3, 0.5: 3}
"""By temperature; each repeat has a prompt and a seed of its own."""
SAMPLING, ASSISTED, ONCE, OURS = "transformers, sampling", "transformers, assisted", "assisted, warped once", "ours"
EXACT, PRICED = "ours, exact statistics", "ours, CommonPrice(price=1)"
COMPILED = "ours, static cache, compiled"
"""Measured where calls are all there is; its first call, untimed, compiles for a minute or two."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A pair to measure; prompts `[1, PROMPT_TOKENS]` of its own vocabulary."""

    name: str
    target: Any
    draft: Any
    prompts: list[Tensor]
    new_tokens: int

    def prompt(self, number: int, batch: int) -> Tensor:
        """Prompts of a call, `[batch, PROMPT_TOKENS]`."""
        return torch.cat([self.prompts[(number * batch + row) % len(self.prompts)] for row in range(batch)])


class Meter:
    """Calls of a model and the seconds inside them; on a CPU nothing is left running when a call returns."""

    def __init__(self) -> None:
        self.calls, self.seconds, self._started = 0, 0.0, 0.0

    def enter(self, *_: Any) -> None:
        """Before a call."""
        self._started = time.perf_counter()

    def leave(self, *_: Any) -> None:
        """After it."""
        self.calls, self.seconds = self.calls + 1, self.seconds + time.perf_counter() - self._started


@contextmanager
def metered(model: Any) -> Iterator[Meter]:
    """Watch a model."""
    meter = Meter()
    hooks = (model.register_forward_pre_hook(meter.enter), model.register_forward_hook(meter.leave))
    try:
        yield meter
    finally:
        for hook in hooks:
            hook.remove()


class Divided:
    """A temperature as a logits processor of the caller's, which transformers applies once."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Divide scores, `[batch, vocab]`."""
        return scores / self._temperature


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What is asked of a decoder: new tokens at a temperature after prompts, `[batch, length]`."""

    target: Any
    draft: Any
    ids: Tensor
    temperature: float
    new_tokens: int

    @property
    def arguments(self) -> dict[str, Any]:
        """For `generate`."""
        return {
            "attention_mask": torch.ones_like(self.ids),
            "max_new_tokens": self.new_tokens,
            "do_sample": True,
            "temperature": self.temperature,
            "top_k": 0,
        }


Decoder = Callable[[Asked], int]
"""Generates and returns the number of rounds: of blocks verified, summed over the texts."""


def sampling(asked: Asked) -> int:
    """Plain sampling with the target, the whole batch in one call: a round per token."""
    asked.target.generate(asked.ids, **asked.arguments)
    return asked.new_tokens * len(asked.ids)


def assisted(asked: Asked, *, once: bool = False) -> int:
    """Assisted generation, one text after the other, for it takes no batch; `once` avoids the second warping."""
    config = asked.draft.generation_config
    # its defaults draft 20 tokens and stop at low confidence
    config.num_assistant_tokens, config.num_assistant_tokens_schedule = DRAFT_LENGTH, "constant"
    config.assistant_confidence_threshold = 0.0
    arguments = asked.arguments
    if once:
        arguments |= {"temperature": 1.0, "logits_processor": [Divided(asked.temperature)]}
    with metered(asked.target) as target:
        for ids in asked.ids.split(1):
            one = arguments | {"attention_mask": torch.ones_like(ids)}
            asked.target.generate(ids, assistant_model=asked.draft, **one)
    return target.calls


def ours(asked: Asked, *, rule: Rule | None = None, exact: bool = False, compiled: bool = False) -> int:
    """The loop, the whole batch in one call."""
    output = decoding.generate(
        asked.ids,
        target=asked.target,
        draft=asked.draft,
        rule=SpeculativeSampling() if rule is None else rule,
        draft_length=DRAFT_LENGTH,
        account="exact" if exact else "counts",
        compiled=compiled,
        cache_implementation="static" if compiled else None,
        **asked.arguments,
    )
    return output.statistics.target_calls


def decoders(temperature: float, batch: int, *, compiled: bool = False) -> dict[str, Decoder]:
    """Who is measured: at other temperatures than 1 the peer as shipped and repaired; in batches everybody once."""
    if batch > 1:
        return {SAMPLING: sampling, ASSISTED: assisted, OURS: ours}
    if temperature != 1:
        return {ASSISTED: assisted, ONCE: partial(assisted, once=True), OURS: ours}
    measured: dict[str, Decoder] = {SAMPLING: sampling, ASSISTED: assisted, OURS: ours}
    measured |= {EXACT: partial(ours, exact=True), PRICED: partial(ours, rule=CommonPrice(price=1.0))}
    return measured | ({COMPILED: partial(ours, compiled=True)} if compiled else {})


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One call: rounds, and seconds inside each model."""

    rounds: int
    target: float
    draft: float


def measure(subject: Subject, temperature: float, batch: int, repeats: int) -> list[dict[str, Any]]:
    """One row per decoder; in every repeat all have the same prompts and the same seed."""
    new_tokens = subject.new_tokens if batch == 1 else FEWER
    runs: dict[str, list[Run]] = {}

    def task(name: str, decoder: Decoder, numbers: Iterator[int]) -> None:
        number = next(numbers)
        asked = Asked(
            target=subject.target,
            draft=subject.draft,
            ids=subject.prompt(number, batch),
            temperature=temperature,
            new_tokens=new_tokens if number else WARM_UP,
        )
        torch.manual_seed(number)
        with metered(subject.target) as target, metered(subject.draft) as draft:
            rounds = decoder(asked)
        runs.setdefault(name, []).append(Run(rounds=rounds, target=target.seconds, draft=draft.seconds))

    chosen = decoders(temperature, batch, compiled=subject.name == CALLS)
    tasks = {name: partial(task, name, decoder, count()) for name, decoder in chosen.items()}
    seconds = interleaved_seconds(tasks, repeats=repeats)
    setting = {
        "question": "tokens per second, one thread, float32, no end token, whole vocabulary",
        "pair": subject.name,
        "temperature": temperature,
        "batch": batch,
        "draft_length": DRAFT_LENGTH,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": new_tokens,
        "repeats": repeats,
    }
    # the first run of each was before the clock started
    per_round = {name: 1e3 * seconds[name] / [run.rounds for run in runs[name][1:]] for name in tasks}
    return [
        setting
        | {
            "decoder": name,
            "tokens_per_second": quantiles(batch * new_tokens / seconds[name]),
            "speed_over_assisted": quantiles(seconds[ASSISTED] / seconds[name]),
            "tokens_per_round": batch * new_tokens * repeats / sum(run.rounds for run in runs[name][1:]),
            "round_time_of_assisted_over_own": quantiles(per_round[ASSISTED] / per_round[name]),
            "milliseconds_per_round": by_part(per_round[name], runs[name][1:]),
        }
        for name in tasks
    ]


def by_part(per_round: np.ndarray, runs: list[Run]) -> dict[str, dict[str, float]]:
    """Where the time of a round goes, which no luck of acceptances changes; milliseconds."""
    models = {part: np.array([1e3 * getattr(run, part) / run.rounds for run in runs]) for part in ("target", "draft")}
    rest = per_round - models["target"] - models["draft"]
    return {part: quantiles(values) for part, values in {"all": per_round, **models, "rest": rest}.items()}


def subject_named(name: str) -> Subject:
    """Build or load a pair."""
    if name in SHAPES:
        target, draft = random_pair(SHAPES[name])
        generator = torch.Generator().manual_seed(0)
        prompts = list(torch.randint(SHAPES[name].vocab, (40, PROMPT_TOKENS), generator=generator).split(1))
    else:
        pair = decoding.load_pair()
        target, draft = pair.target, pair.draft
        texts = [pair.tokenizer(text, return_tensors="pt").input_ids for text in read_prompts(embedded.PROMPTS)]
        prompts = [ids[:, :PROMPT_TOKENS] for ids in texts]
    for model in (target, draft):
        model.generation_config = plain_config(model)
        model.generation_config.eos_token_id = None
    new_tokens = FEWER if target.config.vocab_size > 100_000 else NEW_TOKENS
    return Subject(name=name, target=target, draft=draft, prompts=prompts, new_tokens=new_tokens)


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Medians."""
    parts = ("all", "target", "draft", "rest")
    table = Table("pair", "T", "batch", "decoder", "tokens/s", "of assisted", "tokens/round", "round, of assisted")
    for part in parts:
        table.add_column(f"ms a round: {part}" if part == "all" else part)
    former: tuple[Any, ...] = ()
    for row in rows:
        setting = row["pair"], row["temperature"], row["batch"]
        table.add_row(
            *(("", "", "") if setting == former else (setting[0], f"{setting[1]:g}", str(setting[2]))),
            row["decoder"],
            f"{row['tokens_per_second']['median']:.1f}",
            f"{row['speed_over_assisted']['median']:.2f}",
            f"{row['tokens_per_round']:.2f}",
            f"{row['round_time_of_assisted_over_own']['median']:.2f}",
            *(f"{row['milliseconds_per_round'][part]['median']:.2f}" for part in parts),
        )
        former = setting
    return table


def main() -> None:
    """Measure, print a table, write rows."""
    names = ("embedded pair", *SHAPES)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", choices=names)
    chosen = parser.parse_args().pair
    torch.set_num_threads(1)
    hide_progress_bars()
    rows: list[dict[str, Any]] = []
    for name in names if chosen is None else (chosen,):
        subject = subject_named(name)
        settings = [*((temperature, 1, repeats) for temperature, repeats in REPEATS.items()), (1.0, BATCH, 2)]
        for setting in track(settings, description=name):
            rows += measure(subject, *setting)
    console = Console(width=170)
    console.print(table_of(rows))
    if chosen is None:
        console.print(str(write_rows("decoding_speed", rows)))


if __name__ == "__main__":
    main()
