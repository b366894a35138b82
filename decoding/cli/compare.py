"""`tradeoff compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decoding.cli.terminal import check_options, console, load, numbers, one_line_errors, progress_bars, say, screen
from solvers.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.evaluation.comparison.texts import Folder, Settings
    from decoding.huggingface.pair import Pair


def compare_rules(
    target: Annotated[str | None, typer.Option(help="Target model: hub name or folder.")] = None,
    draft: Annotated[str | None, typer.Option(help="Draft model, with the target's vocabulary.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="File of prompts: one to a line, or a JSON list.")] = None,
    rejection: Annotated[str, typer.Option(help="Mean rejection rates to compare at.")] = "0.2,0.1,0.05",
    samples: Annotated[int, typer.Option(help="Texts per prompt and rule.")] = 2,
    limit: Annotated[int | None, typer.Option(help="Use only this many prompts, the first ones.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens per text.")] = 40,
    draft_length: Annotated[int, typer.Option(help="Tokens drafted per round.")] = 4,
    calibration_positions: Annotated[int, typer.Option(help="Positions on which knobs are set.")] = 1500,
    seed: Annotated[int, typer.Option(help="The same seed writes the same texts.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default 1 for the embedded pair, else torch's choice.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for rows and figure; an interrupted run continues there.")] = Path(
        "runs/compare"
    ),
) -> None:
    """Compare OPT, UNO, the ratio clip and the common price at equal rejection, on the embedded pair or your own.

    A knob makes a rule stricter or looser. Knobs are first set on positions of the target's texts, so that all rules
    reject equally often. Then each rule writes texts from the same prompts and seeds, and its exact divergence from the
    target is added up at every token.
    """
    with one_line_errors("interrupted; finished rows are kept, the same command goes on from there"):
        check_options(dtype, threads)
        rates = numbers(rejection)
        if limit is not None and limit < 1:
            raise InputError(f"limit: expected at least 1; got {limit}")
        from decoding import embedded
        from decoding.evaluation.comparison.texts import Folder, Settings
        from decoding.evaluation.files.kept import locked
        from decoding.evaluation.positions.collect import encode_prompts
        from decoding.evaluation.prompts import read_prompts
        from decoding.huggingface.pair import check_different, pair_name

        check_different(target, draft)
        texts = read_prompts(prompts or embedded.PROMPTS, limit)
        settings = Settings(
            pair=pair_name(target, draft),
            prompts=tuple(texts),
            rejection=rates,
            samples=samples,
            max_new_tokens=max_new_tokens,
            draft_length=draft_length,
            calibration_positions=calibration_positions,
            seed=seed,
            dtype=dtype,
            device=device,
        )
        with console.status("loading models"):
            pair = load(target, draft, dtype, device, threads)
        encoded = encode_prompts(pair, texts, max_new_tokens)
        with locked(out):
            _run(pair, encoded, settings, Folder(out, settings))


def _run(pair: "Pair", prompts: "list[Tensor]", settings: "Settings", folder: "Folder") -> None:
    from decoding.evaluation.comparison.report import figure, print_table, write_rows
    from decoding.evaluation.comparison.summary import summarise
    from decoding.evaluation.comparison.texts import (
        calibrate_cells,
        calibration_steps,
        generate_rows,
        row_key,
        texts_of,
    )
    from decoding.evaluation.files.stamp import write_stamp

    with progress_bars() as progress:
        task = progress.add_task("calibrating", total=calibration_steps(settings))
        cells = calibrate_cells(pair, prompts, settings, progress=lambda: progress.advance(task))
        wanted = texts_of(cells, settings)
        rows = folder.rows(wanted)
        todo = {key: cell for key, cell in wanted.items() if key not in rows}
        if rows:
            say(f"going on in {folder.path}: {len(rows)} texts are there, {len(todo)} to write")
        task = progress.add_task("writing texts", total=len(wanted), completed=len(rows))
        for row in generate_rows(pair, prompts, settings, todo):
            folder.append(row)
            rows[row_key(row)] = row
            progress.advance(task)
    results = summarise([rows[key] for key in wanted], cells, prompts=len(prompts), seed=settings.seed)
    write_rows(results, settings, folder.results)
    write_stamp(folder.stamp)
    figure(results, settings, folder.figure)
    print_table(results, settings, screen())
    say(f"rows: {folder.results} (and every text in {folder.samples.name}); figure: {folder.figure}")
