"""What every report of a study says, before it is drawn: tables of words, and sentences."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import yaml

from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.sheets import WORDS, Sheet, flat, sections
from decoding.evaluation.study.results import CellResult, Comparison, Results
from decoding.evaluation.study.win_rates import detectable
from solvers.shown import visible

SETTLED = 0.05
"""A comparison is settled where its adjusted p-value is below."""

NOISE, FIRST, SECOND, REFUSED = "within noise", "first better", "second better", "refused"

MEANS = {
    "rejection": ("rejection", ".3f"),
    "tokens\nper call": ("tokens_per_target_call", ".2f"),
    "TV": ("tv", ".3f"),
    "KL per\nverified token": ("kl", ".4f"),
    "KL per\ngenerated token": ("kl_per_token", ".4f"),
    "log-likelihood\nper token": ("log_likelihood", ".2f"),
    "lossless\nrejection": ("total_variation", ".3f"),
    "tokens\nper text": ("length", ".1f"),
}
"""Column, its name in `CellResult.means`, its format."""

HOW = (
    "Majority: prompts on which the first wins more than half of its comparisons, ties half; exact 95 % interval. "
    "Pairwise: comparisons won, 95 % bootstrap interval over prompts. p: exact two-sided sign test; adjusted: Holm's "
    "over the judge's comparisons. Prompts needed: to settle a win rate as large as this one, at 5 % with power 80 %."
)


def spread(estimate: Estimate, form: str) -> str:
    """A value with half the width of its interval, or with its ends where one is infinite."""
    if math.isnan(estimate.value):
        return "undefined"
    half = (estimate.high - estimate.low) / 2
    if math.isfinite(half):
        return f"{estimate.value:{form}} ±{half:{form.lstrip('+')}}"
    ends = "" if math.isnan(estimate.low + estimate.high) else f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return f"{estimate.value:{form}}" + (ends if math.isfinite(estimate.value) else "")


def rate(estimate: Estimate | None) -> str:
    """A win rate with its interval, in percent."""
    if estimate is None:
        return ""
    ends = (
        "" if math.isnan(estimate.low + estimate.high) else f"\n[{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    )
    return f"{100 * estimate.value:.1f} %{ends}"


def p_value(p: float | None) -> str:
    """A p-value to three digits."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def verdict(comparison: Comparison) -> str:
    """What a comparison settled, in words."""
    if comparison.refused is not None:
        return f"{REFUSED}: {comparison.refused}"
    if comparison.found is None or comparison.adjusted_p is None:
        return "nothing judged"
    if comparison.adjusted_p >= SETTLED:
        return NOISE
    return FIRST if comparison.found.majority.value > 0.5 else SECOND


def rule_names(results: Results) -> dict[str, str]:
    """Rules by the labels of their cells: beside a level the label says it twice."""
    return {cell.cell: cell.rule for cell in results.cells}


def by_judge(results: Results) -> dict[str, list[Comparison]]:
    """Comparisons of each judge that has any, in the judges' order, levels together."""
    names = [judge.name for judge in results.judges] + [each.judge for each in results.comparisons]
    levels = list(dict.fromkeys(each.level for each in results.comparisons))
    ordered = sorted(results.comparisons, key=lambda each: levels.index(each.level))
    found = {name: [each for each in ordered if each.judge == name] for name in dict.fromkeys(names)}
    return {name: group for name, group in found.items() if group}


def opening(results: Results) -> tuple[str, str]:
    """What was compared, in two sentences."""
    rules = _listed(dict.fromkeys(cell.rule for cell in results.cells))
    levels = dict.fromkeys(cell.level for cell in results.cells if cell.level is not None)
    matched = f", with the rules' knobs set so that they match at {_listed(levels)}" if levels else ""
    how = (
        "Each judge says how often the first rule of a pair wins a prompt over the second: 50 % is no difference, and "
        "a rate counts as a difference only if the exact sign test gives p < 0.05 after Holm's correction over all "
        "comparisons of that judge."
    )
    return (
        f"Texts written by speculative decoding under {rules} continue the same prompts{matched}.",
        how if results.comparisons else "No two of them were compared before a judge.",
    )


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def cells_sheet(results: Results) -> Sheet:
    """One row to a rule at a level: what its texts cost and gave away."""
    levels = list(dict.fromkeys(cell.level for cell in results.cells))
    cells = sorted(results.cells, key=lambda cell: levels.index(cell.level))
    notes = [
        "Along each rule's own texts; TV and KL(output, target) are exact, in nats; generated tokens include bonus "
        "tokens. ±: half of a 95 % bootstrap interval over prompts. Lossless rejection: TV(draft, target) there. "
        f"Calibrated: mean rejection on the {results.calibration['positions']} positions that set the knobs. Rules "
        f"whose rejections along their texts differ by more than {results.calibration['tolerance']:g} are "
        + ("compared all the same: forced." if results.calibration["forced"] else "not compared.")
    ]
    if failed := sum(cell.errors for cell in results.cells):
        notes.append(f"{failed} of {sum(cell.texts for cell in cells)} texts ended in an error before their time.")
    means = list(MEANS)
    return Sheet(
        title="What each rule's texts cost and gave away",
        columns=("rule", "level", "knob", "rejection", "calibrated", *means[1:], "texts", "errors"),
        rows=tuple(_cell_row(cell) for cell in cells),
        sections=sections([cell.level for cell in cells]),
        spare=("lossless\nrejection", "tokens\nper text", "errors", "texts", "calibrated", "TV")
        + ("log-likelihood\nper token", "knob", "KL per\nverified token", "tokens\nper call"),
        notes=tuple(notes),
    )


def _cell_row(cell: CellResult) -> tuple[str, ...]:
    rejection, *others = (spread(cell.means[name], form) for name, form in MEANS.values())
    knob = ", ".join(f"{name} {value:.4g}" for name, value in cell.knob.items())
    calibrated = f"{cell.calibrated:.3f}"
    return (cell.rule, cell.level or "", knob, rejection, calibrated, *others, str(cell.texts), str(cell.errors))


def judge_sheets(results: Results) -> list[Sheet]:
    """One table to a judge that compared anything."""
    names = rule_names(results)
    sheets = [_judge_sheet(judge, group, names) for judge, group in by_judge(results).items()]
    if any(each.found is not None for each in results.comparisons):
        sheets[0] = replace(sheets[0], notes=(HOW, *sheets[0].notes))
    return sheets


def _judge_sheet(judge: str, group: Sequence[Comparison], names: dict[str, str]) -> Sheet:
    columns = {
        "level": [each.level for each in group],
        "first\nvs second": [
            f"{names.get(each.first, each.first)}\nvs {names.get(each.second, each.second)}" for each in group
        ],
        "majority\nwin rate": [rate(each.found.majority) if each.found else "" for each in group],
        "pairwise\nwin rate": [rate(each.found.pairwise) if each.found else "" for each in group],
        "p": [p_value(each.found.p_value) if each.found else "" for each in group],
        "adjusted\np": [p_value(each.adjusted_p) for each in group],
        "verdict": [verdict(each) for each in group],
        "prompts": [f"{each.found.prompts:,}" if each.found else "" for each in group],
        "tied": [f"{each.found.tied:,}" if each.found else "" for each in group],
        "comparisons": [f"{each.found.comparisons:,}" if each.found else "" for each in group],
        "prompts\nneeded": [_needed(each) for each in group],
        "published\nwin rate": [rate(each.published.found.majority) if each.published else "" for each in group],
        "published\nprompts": [f"{each.published.prompts:,}" if each.published else "" for each in group],
        "published\np": [p_value(each.published.found.p_value) if each.published else "" for each in group],
        "published\nadjusted p": [p_value(each.published.adjusted_p) if each.published else "" for each in group],
        "score\ngap": [_difference(each.difference) for each in group],
        "rejection\ngap": [_difference(each.mismatch) for each in group],
    }
    kept = {name: cells for name, cells in columns.items() if name in WORDS or any(cells)}
    spare = ("comparisons", "tied", "published\nprompts", "published\np", "rejection\ngap", "score\ngap")
    spare += ("prompts", "p", "published\nadjusted p", "prompts\nneeded", "pairwise\nwin rate", "published\nwin rate")
    return Sheet(
        title=f"Judge {flat(judge)}: how often the first wins",
        columns=tuple(kept),
        rows=tuple(zip(*kept.values(), strict=True)),
        sections=sections([each.level for each in group]),
        spare=tuple(name for name in spare if name in kept),
        notes=_judge_notes(group),
    )


def _difference(estimate: Estimate | None) -> str:
    return "" if estimate is None else spread(estimate, "+z.3f").replace(" ", "\n", 1)


def _needed(comparison: Comparison) -> str:
    if comparison.found is None:
        return ""
    needed = comparison.found.prompts_needed
    return "no number" if needed is None else f"{needed:,}"


def _judge_notes(group: Sequence[Comparison]) -> tuple[str, ...]:
    found = [each.found for each in group if each.found is not None]
    notes = []
    if found:
        notes.append(_settles(max(each.prompts for each in found), len(found)))
    for each in dict.fromkeys((each.published.source, each.published.prompts) for each in group if each.published):
        notes.append(f"Published: {each[0]}, {each[1]:,} prompts; intervals and p-values from these numbers alone.")
    return tuple(notes)


def _settles(prompts: int, comparisons: int) -> str:
    """What so many prompts could have found."""
    alone, corrected = detectable(prompts), detectable(prompts, level=SETTLED / comparisons)
    if alone is None:
        return f"{prompts:,} prompts cannot settle any win rate at 5 % with power 80 %."
    text = f"{prompts:,} prompts settle a true win rate of {100 * alone:.1f} % or more, or {100 - 100 * alone:.1f} % "
    text += "or less, at 5 % with power 80 %"
    if comparisons == 1:
        return f"{text}."
    least = "none" if corrected is None else f"{100 * corrected:.1f} % or more"
    return f"{text}, if it is the only comparison; as the first of {comparisons} to be settled, {least}."


def published_line(results: Results) -> str | None:
    """How many published win rates are within noise; None where none stands beside ours.

    One that stands beside two comparisons, of a rule in two readings, counts once.
    """
    cells = {
        (each.judge, each.level, each.published.win_rate, each.published.prompts, each.published.source): each.published
        for each in results.comparisons
        if each.published is not None
    }
    if not cells:
        return None
    noise = sum(each.adjusted_p >= SETTLED for each in cells.values())
    prompts = " and ".join(f"{count:,}" for count in sorted({each.prompts for each in cells.values()}))
    return (
        f"Of {len(cells)} published win rates, {noise} {'is' if noise == 1 else 'are'} within noise at their "
        f"{prompts} prompts: exact sign test, Holm-adjusted p >= {SETTLED:g}."
    )


def accounts_sheet(results: Results) -> Sheet:
    """What the judges did and used."""
    details = list(dict.fromkeys(name for judge in results.judges for name in judge.details))
    rows = []
    for judge in results.judges:
        counts = [f"{count:,}" for count in (judge.judgements, judge.unreadable, judge.missing)]
        used = [_amount(judge.details[name]) if name in judge.details else "" for name in details]
        rows.append((flat(judge.name), "two texts" if judge.pairwise else "one text", *counts, *used))
    notes = (
        ["Questions without an answer are asked again by the next run."]
        if any(judge.missing for judge in results.judges)
        else []
    )
    if any(judge.details.get("cut_off") for judge in results.judges):
        notes.append(
            "Cut off: replies that reached their greatest length, or never ended their thinking, before a verdict; "
            "raise max_tokens or max_completion_tokens."
        )
    return Sheet(
        title="What the judges did",
        columns=("judge", "asked of", "judgements", "unreadable", "missing", *(n.replace("_", " ") for n in details)),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _amount(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.4f}"


def provenance_lines(results: Results) -> list[str]:
    """One line to a commit and its versions."""
    return [_facts(each) for each in results.provenance]


def _facts(facts: dict[str, Any]) -> str:
    words = []
    for name, value in facts.items():
        words.append(_facts(value) if isinstance(value, dict) else f"{name} {'unknown' if value is None else value}")
    return ", ".join(words)


def configuration_yaml(results: Results) -> str:
    """The configuration as it can be read again: without its hash, which stands beside it."""
    plain = {name: value for name, value in results.configuration.items() if name != "hash"}
    readable = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    return readable if visible(readable) == readable else yaml.safe_dump(plain, sort_keys=False, width=100)
