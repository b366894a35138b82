"""`tradeoff compare`."""

from pathlib import Path
from typing import Annotated

import typer

from decoding.cli import options
from decoding.cli.evaluate import run_study
from decoding.cli.terminal import numbers


def compare_rules(
    target: options.Target = None,
    draft: options.Draft = None,
    prompts: options.Prompts = None,
    rejection: Annotated[
        str | None, typer.Option(help="Mean rejection rates to compare at; by default 0.2,0.1,0.05.")
    ] = None,
    samples: options.Samples = None,
    limit: options.Limit = None,
    max_new_tokens: options.NewTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    draft_length: Annotated[int | None, typer.Option(help="Tokens drafted per round.")] = None,
    batch_size: options.BatchSize = None,
    calibration_positions: Annotated[int | None, typer.Option(help="Positions on which knobs are set.")] = None,
    seed: options.Seed = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    threads: options.Threads = None,
    out: options.Out = Path("runs/compare"),
) -> None:
    """Compare OPT, UNO, the ratio clip and the common price at equal rejection, on the embedded pair or your own.

    A knob makes a rule stricter or looser. Knobs are first set on positions of the target's texts, so that all rules
    reject equally often. Then each rule writes texts from the same prompts, and its exact divergence from the target is
    added up at every token. This is the configuration `compare` of `tradeoff evaluate`: it writes the same files.
    """
    run_study(
        "compare",
        lambda: {
            "pair.target": target,
            "pair.draft": draft,
            "pair.dtype": dtype,
            "pair.device": device,
            "prompts.source": prompts,
            "prompts.limit": limit,
            "texts.samples": samples,
            "texts.max_new_tokens": max_new_tokens,
            "texts.temperature": temperature,
            "texts.top_p": top_p,
            "texts.top_k": top_k,
            "texts.draft_length": draft_length,
            "texts.batch_size": batch_size,
            "at": None if rejection is None else {"rejection": numbers(rejection)},
            "calibration.positions": calibration_positions,
            "seed": seed,
        },
        out,
        threads,
    )
