"""Putting a study's texts before its judges, in batches of fixed content."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decoding.evaluation.files.kept import Row
from decoding.evaluation.judges import ChatJudge, Judge, LogLikelihood, Question, RewardModel, SequenceKL
from decoding.evaluation.study.cells import Cell
from decoding.evaluation.study.judge_settings import AccountSettings, JudgeSettings, RewardModelSettings, file_name
from decoding.evaluation.study.store import Table
from solvers.errors import InputError

BATCH = 64
"""Questions put to a judge at once; its own batches may be smaller."""


class Case(NamedTuple):
    """One question of a study: a text, or for a pairwise judge two that have the same number.

    Parameters
    ----------
    first, second
        Labels of the cells that wrote them; no second for one text.
    prompt, sample
        Which of their texts.
    """

    first: str
    second: str | None
    prompt: int
    sample: int


def judges_of(wanted: Sequence[JudgeSettings], device: str, *, pair_device: str) -> list[tuple[Judge, int | None]]:
    """Make judges, each with how many of a prompt's samples a pairwise one is asked about.

    Parameters
    ----------
    wanted
        What the configuration says of them.
    device
        Of this process: a reward model on the pair's device goes there.
    pair_device
        The pair's, as the configuration names it.
    """
    made: list[tuple[Judge, int | None]] = []
    for each in wanted:
        if isinstance(each, AccountSettings):
            made.append((LogLikelihood() if each.kind == "log_likelihood" else SequenceKL(), None))
        elif isinstance(each, RewardModelSettings):
            here = device if each.device == pair_device else each.device
            model = RewardModel(
                each.model,
                device=here,
                dtype=each.dtype,
                batch_size=each.batch_size,
                template=each.template,
                name=each.name,
            )
            made.append((model, None))
        else:
            arguments = {name: value for name, value in vars(each).items() if name not in ("kind", "comparisons")}
            made.append((ChatJudge(**arguments), each.comparisons))
    return made


def cases(
    judge: Judge, comparisons: int | None, cells: Sequence[Cell], prompts: int, *, samples: int, against: str
) -> list[Case]:
    """All questions to a judge.

    Parameters
    ----------
    judge
        Of one text, or of two.
    comparisons
        How many of a prompt's samples a pairwise judge is asked about; None for all.
    cells, prompts
        The study; `prompts` is how many there are.
    samples, against
        As in `Configuration`.
    """
    if not judge.pairwise:
        return [
            Case(cell.label, None, prompt, sample)
            for cell in cells
            for prompt in range(prompts)
            for sample in range(samples)
        ]
    asked = samples if comparisons is None else min(samples, comparisons)
    return [
        Case(first.label, second.label, prompt, sample)
        for first, second in pairs_of(cells, against)
        for prompt in range(prompts)
        for sample in range(asked)
    ]


def pairs_of(cells: Sequence[Cell], against: str) -> list[tuple[Cell, Cell]]:
    """Cells that are compared: at every level the rule of `against` with each of the others."""
    return [
        (first, second)
        for first in cells
        for second in cells
        if first.level == second.level is not None and first.rule == against != second.rule
    ]


def judgement_key(row: Row) -> Case:
    """Which question a row answers."""
    return Case(row["cell"], row.get("against"), row["prompt"], row["sample"])


def judgement_table(folder: Path, judge: Judge) -> Table:
    """The judge's rows in a study's folder."""
    return Table(folder / "judgements" / f"{file_name(judge.name)}.jsonl", judgement_key)


def judge_hash(judge: Judge) -> str:
    """What decides a judge's scores, in 16 hex digits."""
    return hashlib.sha256(json.dumps(judge.settings, sort_keys=True).encode()).hexdigest()[:16]


def unanswered(judge: Judge, asked: Sequence[Case], found: Mapping[Any, Row]) -> list[list[Case]]:
    """Batches with a question that has no answer yet.

    A pairwise judge is asked just those; for one of single texts, whose rounding may depend on the batch, the whole
    batch is done again.

    Raises
    ------
    InputError
        There are answers of a judge of the same name with other settings.
    """
    wanted = judge_hash(judge)
    if any(row["judge_settings"] != wanted for row in found.values()):
        raise InputError(
            f"judge {judge.name}: expected answers given under these settings; the folder holds others; give this "
            f"judge another name, or delete judgements/{file_name(judge.name)}.jsonl"
        )
    blocks = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
    if judge.pairwise:
        blocks = [[case for case in block if case not in found] for block in blocks]
    return [list(block) for block in blocks if any(case not in found for case in block)]


def ask(
    judge: Judge,
    todo: Sequence[Sequence[Case]],
    prompts: Sequence[str],
    texts: Mapping[Any, Row],
    provenance: dict[str, Any],
) -> Iterator[tuple[list[Row], int]]:
    """Ask batch after batch: rows of the answers, and how many questions stay without one."""
    settings = judge_hash(judge)
    for block in todo:
        answers = judge.judge([question(case, prompts, texts) for case in block])
        rows = []
        for case, answer in zip(block, answers, strict=True):
            if answer is None:
                continue
            score = answer.score if answer.score is None or math.isfinite(answer.score) else None
            against = {} if case.second is None else {"against": case.second}
            rows.append(
                {"judge": judge.name, "cell": case.first, **against, "prompt": case.prompt, "sample": case.sample}
                | {"score": score}
                | answer.details
                | {"judge_settings": settings}
                | provenance
            )
        yield rows, len(block) - len(rows)


def question(case: Case, prompts: Sequence[str], texts: Mapping[Any, Row]) -> Question:
    """What a judge is asked, with the texts themselves."""
    labels = [case.first] if case.second is None else [case.first, case.second]
    return Question(
        prompt=prompts[case.prompt],
        texts=tuple(texts[label, case.prompt, case.sample] for label in labels),
    )
