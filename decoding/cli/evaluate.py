"""`tradeoff evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decoding.cli.terminal import check_options, load, one_line_errors, say, screen, track

if TYPE_CHECKING:
    from decoding.evaluation.study.configuration import Configuration


def evaluate_rules(
    configuration: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml", help="A file, or a configuration that ships: small, table1.")
    ],
    target: Annotated[str | None, typer.Option(help="Target model: hub name or folder.")] = None,
    draft: Annotated[str | None, typer.Option(help="Draft model, with the target's vocabulary.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    prompts: Annotated[str | None, typer.Option(help="A file, a dataset's hub name, or: embedded.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of the prompts in it.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only this many prompts, the first ones.")] = None,
    samples: Annotated[int | None, typer.Option(help="Texts per prompt and rule.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens per text.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts written at once.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed writes the same texts.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default 1 for the embedded pair, else torch's choice.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare rules even if they do not reject equally often.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for all files; an interrupted run continues there.")] = Path(
        "runs/evaluate"
    ),
) -> None:
    """Evaluate rules on many prompts before judges, at matched rejection: the paper's Table 1 for your own pair.

    Rows in OUT: texts.jsonl, judgements/, results.jsonl; reports: report.html, report.md, report.png. Options
    replace what CONFIG says. Several GPUs: accelerate launch --no_python tradeoff evaluate ...
    """
    with one_line_errors("interrupted; finished texts and judgements are kept, the same command goes on from there"):
        check_options(None, threads)  # the configuration's own reader names its dtype
        from decoding.evaluation.study.configuration import read_configuration

        read = read_configuration(
            configuration,
            {
                "pair.target": target,
                "pair.draft": draft,
                "pair.dtype": dtype,
                "pair.device": device,
                "prompts.source": prompts,
                "prompts.column": column,
                "prompts.limit": limit,
                "texts.samples": samples,
                "texts.max_new_tokens": max_new_tokens,
                "texts.batch_size": batch_size,
                "seed": seed,
            },
        )
        _evaluate(read, out, threads, forced=force)


def _evaluate(configuration: "Configuration", out: Path, threads: int | None, *, forced: bool) -> None:
    from decoding.evaluation.files.stamp import write_stamp
    from decoding.evaluation.study.judging import judges_of
    from decoding.evaluation.study.page import write_page
    from decoding.evaluation.study.processes import device_here, processes_here
    from decoding.evaluation.study.report import figure, print_results, write_markdown
    from decoding.evaluation.study.result_rows import write_rows
    from decoding.evaluation.study.run import Study, silent

    wanted = configuration.pair
    processes, device = processes_here(wanted.device), device_here(wanted.device)
    study = Study(
        configuration,
        out,
        processes=processes,
        load=lambda: load(wanted.target, wanted.draft, wanted.dtype, device, threads),
        say=say,
        track=track if processes.rank == 0 else silent,
    )
    results = study.run(judges_of(configuration, device), forced=forced)
    if results is None:
        return
    write_rows(results, out / "results.jsonl")
    write_stamp(out / "stamp.json")
    figure(results, out / "report.png")
    write_markdown(results, out / "report.md")
    write_page(results, out / "report.html")
    print_results(results, screen())
    say(f"rows: {out / 'texts.jsonl'}, {out / 'judgements'}; report: {out / 'report.html'} (and .md, .png)")
