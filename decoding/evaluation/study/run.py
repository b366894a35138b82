"""A study from beginning to end: calibrate, write, judge, report; each step goes on where it was left."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from decoding.evaluation.files.kept import Row, check_settings, locked
from decoding.evaluation.files.stamp import commit
from decoding.evaluation.judges import ChatJudge, Judge
from decoding.evaluation.judges.doors import check_name
from decoding.evaluation.prompts import load_prompts
from decoding.evaluation.study.calibration_texts import calibration_positions, number_of
from decoding.evaluation.study.cells import Cell, calibrated_cells, calibration_steps, read_cells, write_cells
from decoding.evaluation.study.configuration import Configuration
from decoding.evaluation.study.findings import Findings, examples, judge_account, provenances
from decoding.evaluation.study.judging import Case, ask, cases, judgement_table, question, unanswered
from decoding.evaluation.study.limits import check_amount
from decoding.evaluation.study.processes import Processes, device_here, processes_here, share
from decoding.evaluation.study.results import Comparison, JudgeAccount, Results
from decoding.evaluation.study.sections import PairSettings
from decoding.evaluation.study.store import Table
from decoding.evaluation.study.texts import batches, check_texts, text_key, text_order, write_texts
from decoding.huggingface.pair import Pair, load_pair, pair_name
from solvers.errors import InputError

Track = Callable[[str, int, int], AbstractContextManager[Callable[[int], object]]]
"""(what, how many in all, how many are done) -> a context with `advance(count)`: a progress bar."""


@contextmanager
def silent(what: str, total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Show no progress."""
    yield lambda count: None


def _load(wanted: PairSettings) -> Pair:
    import torch

    device = device_here(wanted.device)
    return load_pair(target=wanted.target, draft=wanted.draft, dtype=getattr(torch, wanted.dtype), device=device)


class Study:
    """A configuration and the folder its rows go to.

    Parameters
    ----------
    configuration
        What to do.
    folder
        Where: settings.json, calibration_texts.jsonl, calibration.json, texts.jsonl, tokens.jsonl, and
        the judges' rows in judgements.
    processes
        Who does it; by default all that were launched together.
    load
        Loads the pair of the configuration, by default as it is; not called if all texts are there.
    say
        Prints one line, by default nothing.
    track
        Shows progress, by default none.
    """

    def __init__(
        self,
        configuration: Configuration,
        folder: Path,
        *,
        processes: Processes | None = None,
        load: Callable[[], Pair] | None = None,
        say: Callable[[str], None] = lambda line: None,
        track: Track = silent,
    ) -> None:
        self.configuration, self.folder = configuration, folder
        self._processes = processes = processes or processes_here(configuration.pair.device)
        self._load, self._say, self._track = load or partial(_load, configuration.pair), say, track
        self._texts = Table(folder / "texts.jsonl", text_key)
        self._tokens = Table(folder / "tokens.jsonl", text_key)
        self._calibration_texts = Table(folder / "calibration_texts.jsonl", number_of)
        self._knobs = folder / "calibration.json"
        self.prompts = self._in_turn(self._read_prompts)
        cells = len(configuration.rules) * len(configuration.at[1])
        check_amount(len(self.prompts), configuration.texts.samples, cells)
        self._main = processes.rank == 0

    def run(self, judges: Sequence[tuple[Judge, int | None]], *, forced: bool) -> Results | None:
        """Do what is left to do.

        Parameters
        ----------
        judges
            Each with how many of a prompt's samples it is asked about if it is pairwise, None for all.
        forced
            Compare also where rejections are further apart than the tolerance.

        Returns
        -------
        Results or None
            None in all processes but the first.

        Raises
        ------
        InputError
            The folder belongs to other settings, another run is at work there, a file in it is not as it was written
            or cannot be written; a rejection cannot be met; a judge has a name that cannot be shown or cannot be asked
            at all. Rows that are finished are kept.
        """
        for judge, _ in judges:
            check_name(judge.name)
        if not self._main:
            self._work(judges)
            return None
        with locked(self.folder):
            check_settings(self.folder, self._settings(), self._made())
            answers = self._work(judges)
            return self._results(judges, answers, forced=forced)

    def _work(self, judges: Sequence[tuple[Judge, int | None]]) -> list[list[Row]]:
        cells = self._calibrate()
        self._write(cells)
        texts = self._texts.rows()
        answers = []
        for judge, comparisons in judges:
            answers.append(self._judge(judge, self._cases(judge, comparisons, cells), texts))
        return answers

    def _read_prompts(self) -> list[str]:
        wanted = self.configuration.prompts
        return load_prompts(
            wanted.source,
            column=wanted.column,
            name=wanted.name,
            split=wanted.split,
            revision=wanted.revision,
            limit=wanted.limit,
            template=wanted.template,
        )

    def _settings(self) -> dict[str, Any]:
        prompts = hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()[:16]
        return self.configuration.texts_part() | {"prompts_sha256": prompts}

    def _made(self) -> list[Path]:
        """What only a run makes."""
        tables = [self._texts, self._tokens, self._calibration_texts]
        files = [path for table in tables for path in (table.path, table.parts)]
        return [*files, self._knobs, self.folder / "judgements"]

    def _in_turn(self, read: Callable[[], Any]) -> Any:
        """Read in the first process, which may download or repair, and then in the others."""
        if self._processes.rank > 0:
            self._processes.wait()
            return read()
        try:
            return read()
        finally:
            self._processes.wait()

    @cached_property
    def _loaded(self) -> tuple[Pair, list[Any]]:
        from decoding.evaluation.positions.collect import encode_prompts

        pair = self._load()
        longest, chat = self.configuration.texts.max_new_tokens, self.configuration.prompts.chat
        return pair, encode_prompts(pair, self.prompts, longest, chat=chat)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return {"seed": self.configuration.seed, "configuration": self.configuration.texts_hash, "commit": commit()} | {
            name: version(name) for name in ("tradeoff", "torch", "transformers")
        }

    def _calibrate(self) -> list[Cell]:
        path, table, told = self._knobs, self._calibration_texts, self.configuration
        if self._main and not path.exists():
            pair, prompts = self._loaded
            steps = told.calibration.positions + calibration_steps(told.rules, told.at)
            with self._track("calibrating", steps, 0) as advance:
                positions = calibration_positions(
                    pair,
                    prompts,
                    told.texts,
                    table,
                    self._provenance,
                    positions=told.calibration.positions,
                    seed=told.seed,
                    progress=advance,
                )
                write_cells(calibrated_cells(positions, told.rules, told.at, told.seed, advance), path)
        self._processes.wait()
        if not path.exists():
            raise InputError(
                f"out: expected a folder that every process sees; {path} is missing in process {self._processes.rank}; "
                "choose one on a shared file system"
            )
        return read_cells(path, told.rules, told.at)

    def _write(self, cells: Sequence[Cell]) -> None:
        found, shown = (self._in_turn(table.rows) for table in (self._texts, self._tokens))
        told, prompts = self.configuration, len(self.prompts)
        check_texts(found, cells, prompts, told.texts.samples, self._texts.path)
        every = batches(cells, prompts, told.texts)
        todo = [
            batch
            for batch in every
            if any(key not in found for key in batch.keys)
            or any(key not in shown for key in batch.shown(told.examples))
        ]
        left = sum(len(batch.texts) for batch in todo)
        total = sum(len(batch.texts) for batch in every)
        if found and self._main:
            self._say(f"going on in {self.folder}: {total - left} texts are there, {left} to write")
        del found, shown
        self._processes.wait()
        if todo:
            mine = share(todo, self._processes)
            written = write_texts(
                *self._loaded, told.texts, mine, self._provenance, seed=told.seed, examples=told.examples
            )
            with self._track("writing texts", total, total - left) as advance:
                for rows, shown in written:
                    # tokens first: a text that is there has them
                    self._tokens.append(shown, self._processes.rank)
                    self._texts.append(rows, self._processes.rank)
                    advance(len(rows) * self._processes.count)
        self._processes.wait()
        if self._main:
            order = text_order(cells, prompts, told.texts.samples)
            there = len(self._texts.merge(order))
            self._tokens.merge(order)
            if there < len(order):
                raise InputError(
                    f"{self._texts.path}: expected {len(order)} texts; {there} are there; run the same command again"
                )
        self._processes.wait()

    def _cases(self, judge: Judge, comparisons: int | None, cells: Sequence[Cell]) -> list[Case]:
        told = self.configuration
        return cases(judge, comparisons, cells, len(self.prompts), samples=told.texts.samples, against=told.against)

    def _judge(self, judge: Judge, asked: Sequence[Case], texts: dict[Any, Row]) -> list[Row]:
        table = judgement_table(self.folder, judge)
        found = self._in_turn(table.rows)
        todo = unanswered(judge, asked, found)
        left = sum(len(block) for block in todo)
        self._processes.wait()
        # an endpoint is one for all, with one limit
        mine = share(todo, self._processes) if not judge.pairwise else todo if self._main else []
        if self._main and todo:
            self._announce(judge, todo, texts)
        missing = 0
        with self._track(f"asking {judge.name}", len(asked), len(asked) - left) as advance:
            for rows, failed in ask(judge, mine, self.prompts, texts, self._provenance):
                table.append(rows, self._processes.rank)
                missing += failed
                advance(len(rows) * (1 if judge.pairwise else self._processes.count))
        self._processes.wait()
        if missing:
            self._say(f"judge {judge.name}: {missing} questions have no answer; the same command asks them again")
        return table.merge(asked) if self._main else []

    def _announce(self, judge: Judge, todo: Sequence[Sequence[Case]], texts: dict[Any, Row]) -> None:
        """Say what a judge that may cost money will cost, before it is asked."""
        if isinstance(judge, ChatJudge):
            asked = [question(case, self.prompts, texts) for block in todo for case in block]
            wanted = judge.estimate(asked)
            cost = "no prices given" if wanted.cost is None else f"about {wanted.cost:.2f} USD"
            self._say(
                f"judge {judge.name}: {wanted.calls} calls, about {wanted.prompt_tokens} tokens of prompts and at most "
                f"{wanted.completion_tokens} of replies: {cost}"
            )

    def _results(
        self, judges: Sequence[tuple[Judge, int | None]], answers: Sequence[list[Row]], *, forced: bool
    ) -> Results:
        told = self.configuration
        cells = read_cells(self._knobs, told.rules, told.at)
        texts = list(self._texts.rows().values())
        findings = Findings(
            cells,
            len(self.prompts),
            texts,
            samples=told.texts.samples,
            against=told.against,
            tolerance=told.calibration.tolerance,
            published=told.published,
            seed=told.seed,
        )
        comparisons: list[Comparison] = []
        accounts: list[JudgeAccount] = []
        for (judge, count), rows in zip(judges, answers, strict=True):
            asked = len(self._cases(judge, count, cells))
            accounts.append(judge_account(judge.name, pairwise=judge.pairwise, rows=rows, asked=asked))
            comparisons += findings.comparisons(judge.name, pairwise=judge.pairwise, rows=rows, forced=forced)
        pair = pair_name(told.pair.target, told.pair.draft)
        shown = list(self._tokens.rows().values())
        return Results(
            title=f"{pair}: {len(self.prompts)} prompts x {told.texts.samples} texts",
            configuration=told.to_dict() | {"hash": told.texts_hash},
            provenance=provenances([*texts, *chain.from_iterable(answers)], tuple(self._provenance)),
            calibration=vars(told.calibration) | {"forced": forced},
            cells=findings.cells(),
            comparisons=comparisons,
            judges=accounts,
            examples=examples(shown, cells, self.prompts, told.examples),
        )
