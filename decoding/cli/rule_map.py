"""`tradeoff map`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from decoding.cli import options
from decoding.cli.terminal import check_options, console, load, numbers, one_line_errors, progress_bars, say, screen
from solvers.errors import InputError

if TYPE_CHECKING:
    from decoding.evaluation.positions.file import Collection, StoredLogits
    from decoding.evaluation.rule_map.options import MapOptions


def map_rules(
    target: options.Target = None,
    draft: options.Draft = None,
    prompts: Annotated[Path | None, typer.Option(help="File of prompts: one to a line, or a JSON list.")] = None,
    positions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Read draft_logits and target_logits from a file instead of running models."
        ),
    ] = None,
    rules: Annotated[
        str | None, typer.Option(help="Draw only these, such as lenience,cascade:variant=tok3; by default all.")
    ] = None,
    rejection: Annotated[str, typer.Option(help="Mean rejection rates at which rules are ranked.")] = "0.2,0.1,0.05",
    temperature: Annotated[
        float | None,
        typer.Option(help="Of both models' laws, and of the texts that positions follow; by default the file's, or 1."),
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="The same: only the likeliest tokens of this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(help="The same: only so many of the likeliest tokens.")] = None,
    greedy_draft: Annotated[bool, typer.Option("--greedy-draft", help="Always draft the likeliest token.")] = False,
    limit: options.Limit = None,
    count: Annotated[int | None, typer.Option(help="Number of positions; by default 800, or all of a file.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens per text.")] = 20,
    seed: Annotated[int, typer.Option(help="The same seed writes the same texts.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Of the models: cpu, cuda, cuda:1, ...")] = "cpu",
    threads: options.Threads = None,
    out: options.Out = Path("runs/map"),
) -> None:
    """Map every rule's rejection and divergence on real positions, and the front that no rule gets below.

    Positions follow texts that the target writes losslessly, drawn at the temperature, top-p and top-k of the laws that
    are mapped. The raw logits are kept in OUT/positions.npz, which --positions and `tradeoff front` read. Results: rows
    in map.jsonl, the figure map.png, and map.html, a page to explore without a network.
    """
    with one_line_errors("interrupted; finished texts and rows are kept, the same command goes on from there"):
        from decoding.evaluation.files.kept import locked

        check_options(dtype, threads)
        from decoding.evaluation.rule_map.options import MapOptions
        from decoding.sampling.parameters import PLAIN, Sampling

        given = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        given = {name: value for name, value in given.items() if value is not None}
        wanted = MapOptions.checked(numbers(rejection), rules, Sampling(**given), greedy_draft=greedy_draft, seed=seed)
        if positions is not None:
            if any(each is not None for each in (target, draft, prompts, limit)):
                raise InputError("positions: expected no --target, --draft, --prompts or --limit beside a file")
            from decoding.evaluation.positions.file import read_logits

            logits = read_logits(positions)
            logits = logits if count is None else logits.first(count)
            wanted = replace(wanted, sampling=replace(logits.sampling or PLAIN, **given))
            with locked(out):
                _map(positions.name, logits, wanted, out)
            return
        from decoding import embedded
        from decoding.evaluation.positions.file import Collection
        from decoding.evaluation.prompts import read_prompts
        from decoding.huggingface.pair import check_different, pair_name

        check_different(target, draft)
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
            sampling=wanted.sampling,
        )
        with locked(out):
            _map(collection.pair, _collected(collection, out / "positions.npz", threads), wanted, out)


def _collected(collection: "Collection", path: Path, threads: int | None) -> "StoredLogits":
    """The positions of a pair, from the file if they are there: no model is loaded then."""
    from decoding.evaluation.positions.collect import encode_prompts
    from decoding.evaluation.positions.file import collect_logits, stored_logits

    found = stored_logits(path, collection)
    if found is not None:
        return found
    with console.status("loading models"):
        pair = load(collection.target, collection.draft, collection.dtype, collection.device, threads)
    encoded = encode_prompts(pair, collection.prompts, collection.new_tokens)
    with progress_bars() as progress:
        task = progress.add_task("positions", total=collection.positions)
        return collect_logits(pair, encoded, collection, path, lambda each: progress.advance(task, each))


def _map(source: str, logits: "StoredLogits", options: "MapOptions", out: Path) -> None:
    from decoding.evaluation.files.stamp import write_stamp
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
        say(f"going on in {folder.path}: {there} rows are there, {len(steps) - there} to make")
    with progress_bars() as progress:
        task = progress.add_task("rules", total=len(steps), completed=there)
        for row in mapper.missing(curves, rates):
            folder.append(row)
            progress.advance(task)
    rows, specs = list(mapper.rows.values()), [curve.spec for curve in curves]
    figure(rows, specs, settings, folder.figure)
    write_page(rows, specs, settings, folder.page)
    write_stamp(folder.stamp)
    print_rankings([rank(rows, specs, rate) for rate in rates], settings, smallest_excess(rows), screen())
    for rate in options.rates:
        if rate not in rates:
            say(f"rejection {rate:g}: not ranked; lossless decoding rejects no more than {lossless:.4f} here")
    say(f"rows: {folder.results}; figure: {folder.figure}; page: {folder.page}")
