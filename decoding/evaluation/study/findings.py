"""From rows to results: means with intervals, and comparisons that are made only where rejections match."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from decoding.evaluation.bootstrap import Bootstrap, Estimate, estimate
from decoding.evaluation.files.kept import Row
from decoding.evaluation.study.cells import Cell
from decoding.evaluation.study.judging import pairs_of
from decoding.evaluation.study.results import CellResult, Comparison, Example, JudgeAccount, Published, TokenCost
from decoding.evaluation.study.sections import PublishedRate
from decoding.evaluation.study.win_rates import WinRate, from_counts, from_preferences, from_scores, holm

RATIOS = {
    "rejection": ("rejection", "verified"),
    "total_variation": ("total_variation", "verified"),
    "tv": ("tv", "verified"),
    "kl": ("kl", "verified"),
    "kl_per_token": ("kl", "generated"),
    "log_likelihood": ("log_likelihood", "generated"),
    "tokens_per_target_call": ("generated", "target_calls"),
    "length": ("generated", "texts"),
}
"""Every reported mean as numerator and denominator columns of the rows."""

ADDED = ("calls", "prompt_tokens", "completion_tokens", "cost", "cut_off")
"""Details of judgements that are summed up."""


class Findings:
    """Everything that is computed from a study's rows.

    Parameters
    ----------
    cells, prompts
        The study; `prompts` is how many there are.
    texts
        All texts' rows.
    samples, against, tolerance, published, seed
        As in `Configuration`.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        prompts: int,
        texts: Sequence[Row],
        *,
        samples: int,
        against: str,
        tolerance: float,
        published: Sequence[PublishedRate],
        seed: int,
    ) -> None:
        self._cells, self._prompts, self._samples = cells, prompts, samples
        self._against, self._tolerance, self._published = against, tolerance, published
        self._bootstrap = Bootstrap(prompts, seed)
        self._texts: dict[str, list[Row]] = {cell.label: [] for cell in cells}
        for row in texts:
            self._texts[row["cell"]].append(row)
        self._sums = {label: self._sums_by_prompt(rows) for label, rows in self._texts.items()}

    def cells(self) -> list[CellResult]:
        """What each cell's texts cost and gave away."""
        return [
            CellResult(
                cell=cell.label,
                rule=cell.rule,
                level=cell.level,
                knob=cell.knob,
                calibrated=cell.calibrated,
                kl_over_best=cell.kl_over_best,
                texts=len(self._texts[cell.label]),
                errors=sum(row["error"] is not None for row in self._texts[cell.label]),
                means={name: estimate(*self._mean(cell.label, name)) for name in RATIOS},
            )
            for cell in self._cells
        ]

    def comparisons(self, judge: str, *, pairwise: bool, rows: Sequence[Row], forced: bool) -> list[Comparison]:
        """Compare all pairs of cells before a judge.

        Parameters
        ----------
        judge, pairwise
            The judge.
        rows
            Its judgements.
        forced
            Compare also where rejections are further apart than the tolerance.
        """
        found = []
        scores = {} if pairwise else self._scores(rows)
        for first, second in pairs_of(self._cells, self._against):
            mismatch = self._mismatch(first, second)
            refused = None if forced else self._refusal(mismatch)
            result, difference = None, None
            if refused is None and pairwise:
                result = self._preferred(rows, first, second)
            elif refused is None:
                ours, theirs = (scores.get(cell.label, {}) for cell in (first, second))
                result, difference = self._scored(ours, theirs), self._difference(ours, theirs)
            found.append(
                Comparison(
                    judge=judge,
                    level=first.level or "",
                    first=first.label,
                    second=second.label,
                    mismatch=mismatch,
                    refused=refused,
                    found=result,
                    difference=difference,
                    adjusted_p=None,
                    published=None,
                )
            )
        return with_published(corrected(found), self._cells, self._published)

    def _sums_by_prompt(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        owner = np.array([row["prompt"] for row in rows], dtype=int)
        columns = {name for pair in RATIOS.values() for name in pair} - {"texts"}
        # null stands for what is infinite
        infinite = {name: -np.inf if name == "log_likelihood" else np.inf for name in columns}
        values = {name: [infinite[name] if row[name] is None else row[name] for row in rows] for name in columns}
        values["texts"] = [1.0] * len(rows)
        return {name: np.bincount(owner, weights=each, minlength=self._prompts) for name, each in values.items()}

    def _mean(self, label: str, name: str) -> tuple[float, np.ndarray]:
        top, bottom = RATIOS[name]
        return self._bootstrap.ratio(self._sums[label][top], self._sums[label][bottom])

    def _mismatch(self, first: Cell, second: Cell) -> Estimate:
        ours, theirs = (self._mean(cell.label, "rejection") for cell in (first, second))
        return estimate(ours[0] - theirs[0], ours[1] - theirs[1])

    def _refusal(self, mismatch: Estimate) -> str | None:
        if abs(mismatch.value) <= self._tolerance:
            return None
        return f"mean rejections differ by {abs(mismatch.value):.4f} along the texts, more than {self._tolerance:g}"

    def _scores(self, rows: Sequence[Row]) -> dict[str, dict[int, np.ndarray]]:
        """By cell and prompt the scores of all samples, `[samples]`, nan where there is none."""
        found: dict[str, dict[int, np.ndarray]] = {}
        for row in rows:
            by_prompt = found.setdefault(row["cell"], {})
            scores = by_prompt.setdefault(row["prompt"], np.full(self._samples, np.nan))
            scores[row["sample"]] = np.nan if row["score"] is None else row["score"]
        return found

    def _scored(self, ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> WinRate | None:
        none = np.full(self._samples, np.nan)
        first, second = ([each.get(prompt, none) for prompt in range(self._prompts)] for each in (ours, theirs))
        judged = any((~np.isnan(left + right)).any() for left, right in zip(first, second, strict=True))
        return from_scores(first, second, self._bootstrap) if judged else None

    def _difference(self, ours: Mapping[int, np.ndarray], theirs: Mapping[int, np.ndarray]) -> Estimate | None:
        """Mean over prompts judged on both sides of the difference of mean scores."""
        gaps, judged = np.zeros(self._prompts), np.zeros(self._prompts)
        for prompt in ours.keys() & theirs.keys():
            first, second = (each[prompt][~np.isnan(each[prompt])] for each in (ours, theirs))
            if len(first) and len(second):
                gaps[prompt], judged[prompt] = first.mean() - second.mean(), 1
        return estimate(*self._bootstrap.ratio(gaps, judged)) if judged.any() else None

    def _preferred(self, rows: Sequence[Row], first: Cell, second: Cell) -> WinRate | None:
        asked = [
            row
            for row in rows
            if row["cell"] == first.label and row["against"] == second.label and row["score"] is not None
        ]
        if not asked:
            return None
        prompt = np.array([row["prompt"] for row in asked], dtype=int)
        return from_preferences(prompt, np.array([row["score"] for row in asked], dtype=float), self._bootstrap)


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Add Holm's p-values over one judge's comparisons."""
    adjusted = iter(holm([each.found.p_value for each in comparisons if each.found is not None]))
    return [each if each.found is None else replace(each, adjusted_p=next(adjusted)) for each in comparisons]


def with_published(
    comparisons: Sequence[Comparison], cells: Sequence[Cell], published: Sequence[PublishedRate]
) -> list[Comparison]:
    """Set published win rates beside the comparisons they belong to, each with its own interval and p-value."""
    by_label = {cell.label: cell for cell in cells}
    judge = comparisons[0].judge if comparisons else None
    rates = [rate for rate in published if rate.judge == judge]
    counts = [from_counts(rate.win_rate, rate.prompts) for rate in rates]
    # a reading of a rule that is not the one published with is the same number once more, not another test
    tests = {(rate.at, rate.win_rate, rate.source): found.p_value for rate, found in zip(rates, counts, strict=True)}
    adjusted = dict(zip(tests, holm(list(tests.values())), strict=True))
    beside = {
        (rate.at, rate.rule): Published(
            win_rate=rate.win_rate,
            prompts=rate.prompts,
            source=rate.source,
            found=found,
            adjusted_p=adjusted[rate.at, rate.win_rate, rate.source],
        )
        for rate, found in zip(rates, counts, strict=True)
    }

    def value(each: Comparison) -> tuple[float, str]:
        return float(each.level.rpartition(" ")[2]), by_label[each.second].rule

    return [replace(each, published=beside.get(value(each))) for each in comparisons]


def examples(shown: Sequence[Row], cells: Sequence[Cell], prompts: Sequence[str], count: int) -> list[Example]:
    """The first texts of the first so many prompts, level by level, rules without a knob in every one."""
    tokens = {(row["cell"], row["prompt"]): tuple(_token(each) for each in row["tokens"]) for row in shown}
    names = dict.fromkeys(cell.level for cell in cells if cell.level is not None) or {None: None}
    return [
        Example(
            prompt=prompts[prompt],
            level=level,
            texts={
                cell.label: tokens[cell.label, prompt]
                for cell in cells
                if cell.level in (None, level) and (cell.label, prompt) in tokens
            },
        )
        for prompt in range(min(count, len(prompts)))
        for level in names
    ]


def _token(row: Row) -> TokenCost:
    costs = ("cost", "divergence") if row.get("rejected") is None else ("cost", "divergence", "rejected_cost")
    read: dict[str, Any] = row | {name: np.inf if row[name] is None else row[name] for name in costs}
    return TokenCost(**read)


def judge_account(name: str, *, pairwise: bool, rows: Sequence[Row], asked: int) -> JudgeAccount:
    """Count a judge's answers."""
    details: dict[str, float] = {}
    for column in ADDED:
        values = [row[column] for row in rows if row.get(column) is not None]
        if values:
            details[column] = float(sum(values))
    return JudgeAccount(
        name=name,
        pairwise=pairwise,
        judgements=len(rows),
        unreadable=sum(row["score"] is None for row in rows),
        missing=asked - len(rows),
        details=details,
    )


def provenances(rows: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Distinct origins of rows, in order of appearance."""
    found = dict.fromkeys(tuple(row[column] for column in columns) for row in rows)
    return [dict(zip(columns, values, strict=True)) for values in found]
