"""The `tradeoff` command."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from solvers.errors import InputError, SolverError

if TYPE_CHECKING:
    from torch import Tensor

    from decoding.evaluation.comparison.texts import Folder, Settings
    from decoding.evaluation.position_file import Collection, StoredLogits
    from decoding.evaluation.rule_map.options import MapOptions
    from decoding.pairs import Pair

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"tradeoff {version('tradeoff')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """How much quality a speculative decoder gives away, and the rule that gives away least."""


def _numbers(text: str, name: str = "rejection") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{name}: expected numbers with commas, such as 0.2,0.1; got {text!r}") from None


def _question(**options: str | None) -> tuple[str | None, tuple[float, ...]]:
    """The one question that was asked, if any, and its numbers."""
    asked = {name: text for name, text in options.items() if text is not None}
    if len(asked) > 1:
        raise InputError("expected at most one of --rejection, --at-divergence and --price")
    for name, text in asked.items():
        wanted = _numbers(text, name)
        if not wanted:
            raise InputError(f"{name}: expected at least one number; got {text!r}")
        return name, wanted
    return None, ()


@app.command()
def front(
    laws: Annotated[
        Path,
        typer.Argument(
            metavar="LAWS.npz", help="Arrays draft and target, [..., vocab], or draft_logits and target_logits."
        ),
    ],
    divergence: Annotated[
        str, typer.Option(help="tv, kl, reverse_kl, chi2, reverse_chi2, hellinger, js, alpha=<order>, ...")
    ] = "tv,kl",
    rejection: Annotated[str | None, typer.Option(help="The least divergence at these rejections?")] = None,
    at_divergence: Annotated[str | None, typer.Option(help="The least rejection within these divergences?")] = None,
    price: Annotated[str | None, typer.Option(help="The best trade if a rejection costs so much divergence?")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="each position its own, or one mean for all; by default mean if there are several."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the softmax of logits; by default 1.")] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide every law by its sum.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(help='Write the grid and the answers, with proofs; infinity is "inf", undefined is null.'),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write a figure, one panel to a divergence.")] = None,
) -> None:
    """Solve the exact front between rejection and divergence for laws in a file.

    Ask at most one question, with several numbers if you like: --rejection, --at-divergence or --price. Without one,
    the table shows nine points from the draft itself to lossless decoding.
    """
    with _one_line_errors("interrupted"):
        question, wanted = _question(rejection=rejection, divergence=at_divergence, price=price)
        from decoding.front_report import answers, as_dict, print_front, solve, write_json, write_png
        from decoding.law_file import read_laws

        grid = question is None or json is not None or png is not None
        names = divergence.split(",")
        fronts = solve(*read_laws(laws, temperature), names, budget, normalise=normalise, grid=grid)
        found = [answers(each, question, wanted) for each in fronts]
        for each, points in zip(fronts, found, strict=True):
            print_front(each, points, question, _screen())
        if json is not None:
            write_json(as_dict(laws, fronts, found), json)
        if png is not None:
            write_png(fronts, png)


@app.command()
def compare(
    target: Annotated[str | None, typer.Option(help="Target model: hub name or folder.")] = None,
    draft: Annotated[str | None, typer.Option(help="Draft model over the same vocabulary.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts: text, one to a line, or a JSON list.")] = None,
    rejection: Annotated[str, typer.Option(help="Mean rejection rates to compare at.")] = "0.2,0.1,0.05",
    samples: Annotated[int, typer.Option(help="Texts per prompt and rule.")] = 2,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens per text.")] = 40,
    draft_length: Annotated[int, typer.Option(help="Tokens drafted per round.")] = 4,
    calibration_positions: Annotated[int, typer.Option(help="Real positions on which knobs are set.")] = 1500,
    seed: Annotated[int, typer.Option(help="Decides every text.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default 1 for the embedded pair, else torch's choice.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for rows and figure; an interrupted run goes on there.")] = Path(
        "runs/compare"
    ),
) -> None:
    """Compare OPT, UNO, the ratio clip and the common price at equal rejection, on the embedded pair or your own.

    Every rule's knob is first set on real positions so that all reject equally often; then each writes texts
    from the same prompts and seeds, and is charged the exact divergence of its output law at every token.
    """
    with _one_line_errors("interrupted; finished rows are kept, the same command goes on from there"):
        rates = _numbers(rejection)
        if limit is not None and limit < 1:
            raise InputError(f"limit: expected at least 1; got {limit}")
        from decoding import embedded
        from decoding.evaluation.comparison.texts import Folder, Settings, encode_prompts
        from decoding.evaluation.prompts import read_prompts

        texts = read_prompts(prompts or embedded.PROMPTS, limit)
        with console.status("loading models"):
            pair = _load(target, draft, dtype, device, threads)
        settings = Settings(
            pair=pair.name,
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
        encoded = encode_prompts(pair, texts, max_new_tokens)
        _run(pair, encoded, settings, Folder(out, settings))


@app.command("map")
def map_rules(
    target: Annotated[str | None, typer.Option(help="Target model: hub name or folder.")] = None,
    draft: Annotated[str | None, typer.Option(help="Draft model over the same vocabulary.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts: text, one to a line, or a JSON list.")] = None,
    positions: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Take draft_logits and target_logits from a file, not from models."),
    ] = None,
    rules: Annotated[
        str | None, typer.Option(help="Only these, such as lenience,cascade:variant=tok3; by default all.")
    ] = None,
    rejection: Annotated[str, typer.Option(help="Mean rejection rates at which rules are ranked.")] = "0.2,0.1,0.05",
    temperature: Annotated[float, typer.Option(help="Of both models' softmax.")] = 1.0,
    greedy_draft: Annotated[bool, typer.Option("--greedy-draft", help="Draft the likeliest token.")] = False,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many prompts.")] = None,
    count: Annotated[int | None, typer.Option(help="Real positions; by default 800, or all of a file.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens per text.")] = 20,
    seed: Annotated[int, typer.Option(help="Decides every text.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Of the models: cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default 1 for the embedded pair, else torch's choice.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for all files; an interrupted run goes on there.")] = Path(
        "runs/map"
    ),
) -> None:
    """Map every rule's rejection and divergence on real positions, and the front that no rule gets below.

    The logits are kept in OUT/positions.npz, which --positions and `tradeoff front` read. Results: rows in map.jsonl,
    the figure map.png, and map.html, a page to explore without a network.
    """
    with _one_line_errors("interrupted; finished texts and rows are kept, the same command goes on from there"):
        from decoding.evaluation.rule_map.options import MapOptions

        options = MapOptions.checked(_numbers(rejection), rules, temperature, greedy_draft=greedy_draft, seed=seed)
        if positions is not None:
            if any(each is not None for each in (target, draft, prompts, limit)):
                raise InputError("positions: expected no --target, --draft, --prompts or --limit beside a file")
            from decoding.evaluation.position_file import read_logits

            logits = read_logits(positions)
            logits = logits if count is None else logits.first(count)
            _map(positions.name, logits, options, out)
            return
        from decoding import embedded
        from decoding.evaluation.position_file import Collection
        from decoding.evaluation.prompts import read_prompts
        from decoding.pairs import pair_name

        if limit is not None and limit < 1:
            raise InputError(f"limit: expected at least 1; got {limit}")
        collection = Collection(
            pair=pair_name(target, draft),
            target=target,
            draft=draft,
            prompts=tuple(read_prompts(prompts or embedded.PROMPTS, limit)),
            positions=800 if count is None else count,
            new_tokens=max_new_tokens,
            seed=seed,
            dtype=dtype,
            device=device,
        )
        _map(collection.pair, _collected(collection, out / "positions.npz", threads), options, out)


@contextmanager
def _one_line_errors(interrupted: str) -> Iterator[None]:
    """Bad input is one line and exit code 2; an interruption is one line and exit code 130."""
    try:
        yield
    except (InputError, SolverError) as error:
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _say(interrupted)
        raise typer.Exit(130) from None


def _load(target: str | None, draft: str | None, dtype: str, device: str, threads: int | None) -> "Pair":
    import torch

    from decoding.huggingface import hide_progress_bars
    from decoding.pairs import load_pair

    hide_progress_bars()  # ours are enough
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"dtype: expected float32, bfloat16 or float16; got {dtype!r}")
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected at least 1; got {threads}")
    if threads is not None or target is None:
        # layers of a few hundred units: a second thread waits more than it works
        torch.set_num_threads(threads or 1)
    return load_pair(target, draft, dtype=getattr(torch, dtype), device=device)


def _run(pair: "Pair", prompts: "list[Tensor]", settings: "Settings", folder: "Folder") -> None:
    from decoding.evaluation.comparison.report import figure, print_table, write_rows
    from decoding.evaluation.comparison.summary import summarise
    from decoding.evaluation.comparison.texts import calibrate_cells, calibration_steps, generate_rows, missing

    with _progress() as progress:
        task = progress.add_task("calibrating", total=calibration_steps(settings))
        cells = calibrate_cells(pair, prompts, settings, progress=lambda: progress.advance(task))
        rows = folder.rows()
        todo = missing(cells, settings, rows)
        if rows:
            _say(f"going on in {folder.path}: {len(rows)} texts are there, {len(todo)} to write")
        task = progress.add_task("writing texts", total=len(rows) + len(todo), completed=len(rows))
        for row in generate_rows(pair, prompts, settings, todo):
            folder.append(row)
            rows.append(row)
            progress.advance(task)
    results = summarise(rows, cells, prompts=len(prompts), seed=settings.seed)
    write_rows(results, settings, folder.results)
    figure(results, settings, folder.figure)
    print_table(results, settings, _screen())
    _say(f"rows: {folder.results} (and every text in {folder.samples.name}); figure: {folder.figure}")


def _collected(collection: "Collection", path: Path, threads: int | None) -> "StoredLogits":
    """The positions of a pair, from the file if they are there: no model is loaded then."""
    from decoding.evaluation.comparison.texts import encode_prompts
    from decoding.evaluation.position_file import collect_logits, stored_logits

    found = stored_logits(path, collection)
    if found is not None:
        return found
    with console.status("loading models"):
        pair = _load(collection.target, collection.draft, collection.dtype, collection.device, threads)
    encoded = encode_prompts(pair, collection.prompts, collection.new_tokens)
    with _progress() as progress:
        task = progress.add_task("positions", total=collection.positions)
        return collect_logits(pair, encoded, collection, path, lambda each: progress.advance(task, each))


def _map(source: str, logits: "StoredLogits", options: "MapOptions", out: Path) -> None:
    from decoding.evaluation.rule_map.mapper import Mapper, map_steps
    from decoding.evaluation.rule_map.options import MapFolder
    from decoding.evaluation.rule_map.page import write_page
    from decoding.evaluation.rule_map.report import figure, print_rankings, rank, smallest_excess

    positions, settings = options.positions(source, logits)
    folder, curves = MapFolder(out, settings), options.curves
    lossless = float(positions.total_variation.mean())
    rates = [rate for rate in options.rates if rate < lossless]
    mapper, steps = Mapper(positions, settings, folder.rows()), map_steps(curves, rates)
    there = len(mapper.rows.keys() & set(steps))
    if there:
        _say(f"going on in {folder.path}: {there} rows are there, {len(steps) - there} to make")
    with _progress() as progress:
        task = progress.add_task("rules", total=len(steps), completed=there)
        for row in mapper.missing(curves, rates):
            folder.append(row)
            progress.advance(task)
    rows, specs = list(mapper.rows.values()), [curve.spec for curve in curves]
    figure(rows, specs, settings, folder.figure)
    write_page(rows, specs, settings, folder.page)
    print_rankings([rank(rows, specs, rate) for rate in rates], settings, smallest_excess(rows), _screen())
    for rate in options.rates:
        if rate not in rates:
            _say(f"rejection {rate:g}: not ranked; lossless decoding rejects no more than {lossless:.4f} here")
    _say(f"rows: {folder.results}; figure: {folder.figure}; page: {folder.page}")


def _screen() -> Console:
    # a file has room for every column; rich would take it for a terminal of 80
    roomy = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=1000 if roomy else None)


def _say(line: str) -> None:
    """One line on stderr, never folded: scripts and tests read it."""
    console.print(escape(line), highlight=False, soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:>13}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def main() -> None:
    """Entry point of the `tradeoff` command."""
    app()
