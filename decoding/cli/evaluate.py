"""`tradeoff evaluate`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from decoding.cli import options
from decoding.cli.terminal import check_options, load, one_line_errors, say, screen, track


def evaluate_rules(
    configuration: Annotated[
        str,
        typer.Argument(metavar="CONFIG.yaml", help="A file, or one that ships: small, compare, table1."),
    ],
    target: options.Target = None,
    draft: options.Draft = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    prompts: options.Prompts = None,
    column: Annotated[str | None, typer.Option(help="Column of the prompts in it.")] = None,
    limit: options.Limit = None,
    samples: options.Samples = None,
    max_new_tokens: options.NewTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare rules even if they do not reject equally often.")
    ] = False,
    out: options.Out = Path("runs/evaluate"),
) -> None:
    """Evaluate rules on many prompts before judges, at matched rejection: the paper's Table 1 for your own pair.

    Rows in OUT: texts.jsonl, judgements/, results.jsonl; reports: report.html, report.md, report.png. Options
    replace what CONFIG says. Several GPUs: accelerate launch --no_python tradeoff evaluate ...
    """
    run_study(
        configuration,
        lambda: {
            "pair.target": target,
            "pair.draft": draft,
            "pair.dtype": dtype,
            "pair.device": device,
            "prompts.source": prompts,
            "prompts.column": column,
            "prompts.limit": limit,
            "texts.samples": samples,
            "texts.max_new_tokens": max_new_tokens,
            "texts.temperature": temperature,
            "texts.top_p": top_p,
            "texts.top_k": top_k,
            "texts.batch_size": batch_size,
            "seed": seed,
        },
        out,
        threads,
        forced=force,
    )


def run_study(
    configuration: str, overrides: Callable[[], dict[str, Any]], out: Path, threads: int | None, *, forced: bool = False
) -> None:
    """Run a configuration, shipped or a file, with what the command line says instead; reports go to `out`."""
    with one_line_errors("interrupted; finished texts and judgements are kept, the same command goes on from there"):
        check_options(None, threads)  # the configuration's own reader names its dtype
        from decoding.evaluation.files.stamp import write_stamp
        from decoding.evaluation.study.configuration import read_configuration
        from decoding.evaluation.study.judging import judges_of
        from decoding.evaluation.study.page import write_page
        from decoding.evaluation.study.processes import device_here, processes_here
        from decoding.evaluation.study.report import figure, print_results, write_markdown
        from decoding.evaluation.study.result_rows import write_rows
        from decoding.evaluation.study.run import Study, silent

        read = read_configuration(configuration, overrides())
        pair = read.pair
        processes, device = processes_here(pair.device), device_here(pair.device)
        study = Study(
            read,
            out,
            processes=processes,
            load=lambda: load(pair.target, pair.draft, pair.dtype, device, threads),
            say=say,
            track=track if processes.rank == 0 else silent,
        )
        results = study.run(judges_of(read.judges, device, pair_device=pair.device), forced=forced)
        if results is None:
            return
        write_rows(results, out / "results.jsonl")
        write_stamp(out / "stamp.json")
        figure(results, out / "report.png")
        write_markdown(results, out / "report.md")
        write_page(results, out / "report.html")
        print_results(results, screen())
        say(
            f"rows: {out / 'results.jsonl'}, {out / 'texts.jsonl'}, {out / 'judgements'}; "
            f"figure: {out / 'report.png'}; report: {out / 'report.html'} (and .md)"
        )
