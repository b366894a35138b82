"""Speed of the loop beside Hugging Face's assisted generation and plain sampling, on the embedded pair.

Run it with `python -m benchmarks.decoding_speed`.
"""

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import decoding
from benchmarks.harness import interleaved_seconds, quantiles, write_rows
from decoding import embedded
from decoding.evaluation.positions import PLAIN_SAMPLING, seed_for
from decoding.evaluation.prompts import read_prompts
from decoding.huggingface import hide_progress_bars
from tradeoff import Rule
from tradeoff.rules import CommonPrice, SpeculativeSampling

NEW_TOKENS, DRAFT_LENGTH, PROMPTS = 96, 4, 12
PEER, OURS = "transformers, assisted", "ours, lossless"


def main() -> None:
    """Generate from the same prompts with every decoder in turn; end tokens are off so that lengths are equal."""
    torch.set_num_threads(1)
    hide_progress_bars()
    pair = decoding.load_pair()
    prompts = [pair.tokenizer(text, return_tensors="pt").input_ids for text in read_prompts(embedded.PROMPTS)]
    fixed = PLAIN_SAMPLING | {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    # the peer's defaults draft 20 tokens and stop at low confidence: set to what ours does
    config = pair.draft.generation_config
    config.num_assistant_tokens, config.num_assistant_tokens_schedule = DRAFT_LENGTH, "constant"
    config.assistant_confidence_threshold = 0.0
    calls: dict[str, list[float]] = {}

    def ours(name: str, rule: Rule, ids: torch.Tensor, seed: int) -> None:
        output = decoding.generate(
            pair.target, pair.draft, ids, rule=rule, draft_length=DRAFT_LENGTH, generator=seed_for(seed), **fixed
        )
        calls.setdefault(name, []).append(output.statistics.tokens_per_target_call)

    speeds: dict[str, list[np.ndarray]] = {}
    for seed, ids in enumerate(prompts[:PROMPTS]):
        seconds = interleaved_seconds(
            {
                "transformers, sampling": lambda ids=ids: pair.target.generate(ids, **fixed),
                PEER: lambda ids=ids: pair.target.generate(ids, assistant_model=pair.draft, **fixed),
                OURS: lambda ids=ids, seed=seed: ours(OURS, SpeculativeSampling(), ids, seed),
                "ours, CommonPrice(price=1)": lambda ids=ids, seed=seed: ours(
                    "ours, CommonPrice(price=1)", CommonPrice(price=1.0), ids, seed
                ),
            },
            repeats=3,
        )
        for name, times in seconds.items():
            speeds.setdefault(name, []).append(NEW_TOKENS / times)
    tokens = {name: np.concatenate(parts) for name, parts in speeds.items()}
    rows = [
        {
            "question": "tokens per second, batch 1, temperature 1, one thread, exact statistics included in ours",
            "decoder": name,
            "tokens_per_second": quantiles(values),
            "ratio_to_assisted": quantiles(values / tokens[PEER]),
            "tokens_per_target_call": float(np.mean(calls[name])) if name in calls else None,
            "draft_length": DRAFT_LENGTH,
            "new_tokens": NEW_TOKENS,
            "prompts": PROMPTS,
        }
        for name, values in tokens.items()
    ]
    table = Table("decoder", "tokens/s", "ratio to assisted", "tokens per target call")
    for row, values in zip(rows, tokens.values(), strict=True):
        per_call = row["tokens_per_target_call"]
        table.add_row(
            str(row["decoder"]),
            f"{np.median(values):.0f}",
            f"{np.median(values / tokens[PEER]):.2f}",
            "" if per_call is None else f"{per_call:.2f}",
        )
    Console().print(table)
    Console().print(str(write_rows("decoding_speed", rows)))


if __name__ == "__main__":
    main()
