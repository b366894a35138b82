"""The tables, the Markdown and the figure of a study say what its results say, of every odd kind of results."""

import html
import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.cbook import is_math_text
from rich.console import Console
from scipy.stats import binom, binomtest
from study_results import HOSTILE, LEVELS, PROMPTS, RULES, STEERING, WON, made_up, refused, shapes, tokens, win_rate

from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.study.page_parts import published_line, spread, verdict
from decoding.evaluation.study.report import draw, figure, markdown, print_results, write_markdown
from solvers.errors import InputError
from solvers.shown import visible

SHAPES = shapes()


def printed(results, width=300):
    file = io.StringIO()
    print_results(results, Console(file=file, width=width))
    return file.getvalue()


def written(escaped):
    """What a reader sees of escaped Markdown."""
    return html.unescape(re.sub(r"\\([^A-Za-z0-9\s])", r"\1", escaped.replace("<br>", "\n")))


def cells_of(line):
    return [written(cell.strip()) for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def tables(text):
    """Tables of Markdown by the heading above them, each as rows of columns by name."""
    found, heading, block = {}, "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("|"):
            block.append(line)
        elif block:
            head, rule, *rows = map(cells_of, block)
            assert all(re.fullmatch("---:?", cell) for cell in rule)
            assert {len(rule), *map(len, rows)} == {len(head)}
            found.setdefault(heading, []).append([dict(zip(head, row, strict=True)) for row in rows])
            block = []
    return found


def judge_rows(text):
    found = tables(text)
    return [row for heading in found if heading.startswith("Judge ") for row in found[heading][0]]


def cell_rows(text):
    (rows,) = tables(text)["What each rule's texts cost and gave away"]
    return rows


def exact_power(prompts, rate, level):
    """Power of the exact two-sided sign test, by adding up the outcomes it rejects."""
    wins = np.arange(prompts + 1)
    rejected = np.array([binomtest(int(each), prompts).pvalue <= level for each in wins])
    return float(binom.pmf(wins[rejected], prompts, rate).sum())


def test_a_verdict_follows_the_adjusted_p_value_and_the_side():
    comparison = made_up().comparisons[0]
    above, below = win_rate(140), win_rate(60)
    for found, adjusted, said in (
        (above, 0.049, "first better"),
        (below, 0.049, "second better"),
        (above, 0.05, "within noise"),
        (below, 0.9, "within noise"),
    ):
        assert verdict(replace(comparison, found=found, adjusted_p=adjusted)) == said
    assert verdict(replace(refused(comparison), refused="too far")) == "refused: too far"
    assert verdict(replace(refused(comparison), refused=None)) == "nothing judged"


def test_a_value_stands_with_half_its_interval_or_with_its_ends_if_one_is_infinite():
    assert spread(Estimate(value=0.25, low=0.2, high=0.28), ".3f") == "0.250 ±0.040"
    assert spread(Estimate(value=0.25, low=0.2, high=0.28), "+.2f") == "+0.25 ±0.04"
    assert spread(Estimate(value=0.25, low=0.2, high=math.inf), ".2f") == "0.25 [0.20, inf]"
    assert spread(Estimate(value=0.25, low=math.nan, high=math.nan), ".2f") == "0.25"
    assert spread(Estimate(value=math.inf, low=0.2, high=math.inf), ".2f") == "inf"
    assert spread(Estimate(value=math.nan, low=math.nan, high=math.nan), ".2f") == "undefined"


def test_markdown_holds_every_number_of_every_cell():
    results = made_up()
    found = cell_rows(markdown(results))
    assert len(found) == len(results.cells)
    for row, cell in zip(found, results.cells, strict=True):
        assert (row["rule"], row["level"]) == (cell.rule, cell.level or "")
        assert row["knob"] == ", ".join(f"{name} {value:g}" for name, value in cell.knob.items())
        assert float(row["calibrated"]) == pytest.approx(cell.calibrated, abs=5e-4)
        best = cell.kl_over_best
        assert row["KL over the best"] == (f"{best.value:.2f} [{best.low:.2f}, {best.high:.2f}]" if best else "")
        assert (int(row["texts"]), int(row["errors"])) == (cell.texts, cell.errors)
        for column, name in (
            ("rejection", "rejection"),
            ("tokens per call", "tokens_per_target_call"),
            ("TV", "tv"),
            ("KL per verified token", "kl"),
            ("KL per generated token", "kl_per_token"),
            ("log-likelihood per token", "log_likelihood"),
            ("lossless rejection", "total_variation"),
            ("tokens per text", "length"),
        ):
            value, half = row[column].split(" ±")
            mean = cell.means[name]
            digits = 10.0 ** -len(value.partition(".")[2])
            assert float(value) == pytest.approx(mean.value, abs=0.51 * digits)
            assert float(half) == pytest.approx((mean.high - mean.low) / 2, abs=0.51 * digits)


def test_markdown_holds_every_number_of_every_comparison():
    results = made_up()
    rows = judge_rows(markdown(results))
    assert len(rows) == len(results.comparisons)
    rules = {cell.cell: cell.rule for cell in results.cells}

    def percent(estimate):
        return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"

    def p(value):
        return f"{value:.3f}" if value >= 0.001 else "<0.001"

    for row, each in zip(rows, results.comparisons, strict=True):
        found, published = each.found, each.published
        assert found
        assert published
        assert row["level"] == each.level
        assert row["first vs second"] == f"{rules[each.first]} vs {rules[each.second]}"
        assert row["majority win rate"] == percent(found.majority)
        assert row["pairwise win rate"] == percent(found.pairwise)
        assert row["p"] == p(found.p_value)
        assert row["adjusted p"] == p(each.adjusted_p)
        assert row["prompts needed"] == (f"{found.prompts_needed:,}" if found.prompts_needed else "no number")
        assert (row["prompts"], row["tied"]) == (str(found.prompts), str(found.tied))
        assert row["published win rate"] == percent(published.found.majority)
        assert row["published p"] == p(published.found.p_value)
        assert row["published adjusted p"] == p(published.adjusted_p)
        assert row["rejection gap"] == "+0.003 ±0.006"
        assert row.get("score gap", "") == ("" if each.difference is None else "+0.120 ±0.200")
    # by hand: 131 of 200 won and 1 tied, 60 of 200 won
    said = {row["majority win rate"][:6]: row["verdict"] for row in rows}
    assert (said["65.8 %"], said["30.0 %"], said["53.0 %"]) == ("first better", "second better", "within noise")


def test_a_wide_terminal_shows_what_markdown_holds():
    results = made_up()
    text = printed(results)
    assert "Left out" not in text
    for row in (*judge_rows(markdown(results)), *cell_rows(markdown(results))):
        for cell in row.values():
            assert all(part in text for part in cell.split(" ")), cell
    assert "commit abc1234, torch 2.11.0, python 3.11" in text
    assert "1,234,567" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_leaves_out_columns_says_which_and_keeps_what_matters(width):
    text = printed(made_up(), width)
    assert "…" not in text
    for table, kept in (("Judge gpt-4", "[47.3, 61.5] 0.917 within noise"), ("What each", "0.308 ±0.012")):
        block = text[text.index(table) :]
        block = block[: block.index("Left out of this narrow terminal")]
        assert all(word in block for word in kept.split())
    left = " ".join(text[text.index("Left out of this narrow terminal") :].split())
    assert "lossless rejection" in left
    widths = [len(line.rstrip()) for line in printed(made_up(), 130).splitlines()]
    assert max(widths) <= 130


def test_a_long_reason_is_folded_rather_than_paid_for_with_columns():
    results = made_up()
    reason = " ".join(["mean rejections differ by 0.0512"] * 5)
    long = replace(results, comparisons=[replace(refused(each), refused=reason) for each in results.comparisons])
    assert max(len(line.rstrip()) for line in printed(long, 100).splitlines()) <= 100
    assert "0.0512" in printed(long, 100)


@pytest.mark.parametrize("said", ["terminal", "markdown"])
def test_a_refused_comparison_shows_its_reason_and_no_win_rate(said):
    results = made_up()
    comparisons = list(results.comparisons)
    comparisons[1] = refused(comparisons[1])  # the one at 65.8 %
    results = replace(results, comparisons=comparisons)
    text = printed(results) if said == "terminal" else markdown(results)
    assert "65.8" not in text
    assert "58.5" not in text
    assert "rejections are" in text
    row = judge_rows(markdown(results))[1]
    assert row["verdict"] == "refused: rejections are too far apart"
    numbers = {name for name, cell in row.items() if re.search(r"\d", cell)}
    assert numbers == {"level", "rejection gap"}


def test_published_rates_are_counted_once_and_against_their_own_noise():
    results = made_up()
    # each of the four stands beside two readings of a rule
    assert sum(each.published is not None for each in results.comparisons) == 8
    line = published_line(results)
    assert line is not None
    assert line.startswith("Of 4 published win rates, 4 are within noise at their 200 prompts")
    assert line in printed(results)
    changed = [
        replace(each, published=replace(each.published, adjusted_p=p))
        for each, p in zip(results.comparisons, [0.04, 0.04, 0.049, 0.049, 0.05, 0.05, 0.001, 0.001], strict=True)
        if each.published
    ]
    line = published_line(replace(results, comparisons=changed))
    assert line is not None
    assert line.startswith("Of 4 published win rates, 1 is within noise")
    assert published_line(made_up(published={})) is None
    assert "ublished" not in markdown(made_up(published={}))


def test_what_the_prompts_could_settle_agrees_with_exact_power():
    text = markdown(made_up())
    found = re.search(
        r"200 prompts settle .*? of ([\d.]+) % or more, or ([\d.]+) % or less.* ([\d.]+) % or more\.", text
    )
    assert found
    alone, below, corrected = (float(each) / 100 for each in found.groups())
    assert alone + below == pytest.approx(1)
    # the power of a test of whole numbers is not smooth in the prompts: a point of percent either way is enough
    for rate, level in ((alone, 0.05), (corrected, 0.05 / 4)):
        assert exact_power(PROMPTS, rate + 0.01, level) >= 0.8 > exact_power(PROMPTS, rate - 0.01, level)
    few = made_up(won={"gpt-4": (3, 2)}, published={})
    few = replace(few, comparisons=[replace(each, found=win_rate(3, 5)) for each in few.comparisons])
    assert "5 prompts cannot settle any win rate" in markdown(few)


@pytest.mark.parametrize("name", SHAPES)
def test_every_odd_kind_of_results_is_reported_whole(name, tmp_path):
    results = SHAPES[name]
    text = markdown(results)
    for width in (70, 300):
        printed(results, width)
    assert len(judge_rows(text)) == len(results.comparisons)
    found = cell_rows(text)
    assert len(found) == len(results.cells)
    figure(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_odd_results_are_said_in_words():
    assert "No two of them were compared before a judge." in markdown(SHAPES["no comparisons"])
    assert {row["verdict"] for row in judge_rows(markdown(SHAPES["nothing judged"]))} == {"nothing judged"}
    assert "Majority: prompts" not in markdown(SHAPES["all refused"])
    assert "## What the judges did" not in markdown(SHAPES["no judges"])
    assert "## Texts side by side" not in markdown(SHAPES["no examples"])
    assert "| *no tokens* |" in markdown(SHAPES["text of no tokens"])
    found = cell_rows(markdown(SHAPES["infinite and unknown"]))
    assert (found[0]["KL per verified token"], found[0]["TV"], found[0]["errors"]) == ("inf", "0.100", "3")
    assert found[1]["KL per generated token"] == "0.1000 [0.0800, inf]"
    assert "3 of 7000 texts ended in an error" in markdown(SHAPES["infinite and unknown"])
    assert "knobs" not in markdown(SHAPES["only rules without a knob"]).split("##")[0]
    forced = replace(made_up(), calibration={"positions": 9, "tolerance": 0.02, "forced": True})
    assert "compared all the same: forced" in printed(forced).replace("\n", " ")
    assert "compared all the same" not in printed(made_up())


def test_texts_stand_side_by_side_and_hostile_ones_as_they_are():
    results = made_up(prompts=(HOSTILE, "plain"), won={HOSTILE: WON["gpt-4"]})
    shown = [replace(token, text=HOSTILE) for token in tokens(0, 2)]
    first = results.examples[0]
    label = next(iter(first.texts))
    results = replace(
        results,
        title=HOSTILE,
        examples=[replace(first, texts=first.texts | {label: shown}), *results.examples[1:]],
    )
    text = markdown(results)
    assert "<" not in text.split("```")[0].replace("<br>", "")
    found = tables(text)["Texts side by side"]
    assert len(found) == len(results.examples)
    for table, example in zip(found, results.examples, strict=True):
        (row,) = table
        written_texts = ["".join(token.text for token in each).strip() for each in example.texts.values()]
        assert list(row.values()) == written_texts
    prompts = [written(line.split(": ", 1)[1]) for line in text.splitlines() if line.startswith("Prompt at")]
    assert prompts == [HOSTILE, "plain"] * 2


def test_characters_that_steer_a_terminal_are_spelt_out():
    assert visible(STEERING) == "\\u001b[31m\\u202ead\\u2066\\ud800\\u0000"
    assert visible("a\tb\nc \U0001f468\u200d\U0001f469 \u05e9") == "a\tb\nc \U0001f468\u200d\U0001f469 \u05e9"
    results = made_up(prompts=(STEERING,), won={STEERING: WON["gpt-4"]})
    results = replace(results, title=STEERING, provenance=[{"commit": STEERING}])
    for text in (printed(results), markdown(results)):
        assert not set(text) & set("\x1b\u202e\u2066\ud800\x00")
        assert text.count("\\u202ead") >= 3


@pytest.mark.parametrize("value", ["plain", "a ````` fence", "\u202eturned \x1b[31m", "caf\u00e9"])
def test_the_configuration_at_the_end_can_be_read_again(value, tmp_path):
    configuration = {"prompts": {"template": value, "limit": None}, "at": {"epsilon": [0.1, 1e-05]}}
    results = replace(made_up(), configuration=configuration | {"hash": "0123456789abcdef"})
    write_markdown(results, tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text == markdown(results)
    assert "Hash: 0123456789abcdef" in text
    fence = re.search(r"\n(`{3,})yaml\n", text)
    assert fence
    block = text[fence.end() :]
    assert block.endswith(f"{fence[1]}\n")
    assert fence[1] not in block.removesuffix(f"{fence[1]}\n")
    assert yaml.safe_load(block.removesuffix(f"{fence[1]}\n")) == configuration
    assert not set(text) & set("\u202e\x1b")
    assert ("caf\u00e9" in block) == (value == "caf\u00e9")


def test_the_figure_draws_every_cell_and_every_comparison_at_its_place():
    results = made_up()
    left, middle, right = draw(results).axes
    points = sorted(
        (float(x), float(y)) for container in left.containers for x, y in zip(*container[0].get_data(), strict=True)
    )
    means = [cell.means for cell in results.cells]
    wanted = sorted((each["rejection"].value, each["kl_per_token"].value) for each in means)
    assert np.array(points) == pytest.approx(np.array(wanted))
    patches: list[Any] = list(middle.patches)
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in patches]
    multiples = {cell.cell: cell.kl_over_best and cell.kl_over_best.value for cell in results.cells}
    heights = [multiples[f"{rule} at epsilon {level:g}"] for rule in RULES for level in LEVELS]
    assert [height for _, height in bars] == heights
    assert [round(float(x)) for x, _ in bars] == [0, 1] * len(RULES)
    assert [text.get_text() for text in middle.texts] == [f"{height:.2f}" for height in heights]
    assert len(right.containers) == 2 * len(results.comparisons)
    labels = [each.get_text() for each in right.get_yticklabels()]
    assert [label for label in labels if label in WON] == list(WON)
    places = [place for place, label in enumerate(labels) if label not in WON]
    for place, each in zip(places, results.comparisons, strict=True):
        assert labels[place].startswith(f"{each.level}, decoding_uno")
        assert each.found
        assert each.published
        for at, found, hollow in ((place, each.found, False), (place + 0.3, each.published.found, True)):
            (marker, _, (bar,)) = next(c for c in right.containers if c[0].get_data()[1][0] == at)
            low, high = bar.get_segments()[0][:, 0]
            wanted = [100 * end for end in (found.majority.low, found.majority.value, found.majority.high)]
            assert [low, marker.get_data()[0][0], high] == pytest.approx(wanted)
            assert (marker.get_markerfacecolor() == "white") == hollow
            assert right.get_xlim()[0] < low <= high < right.get_xlim()[1]
    halves = [line for line in right.lines if np.array_equal(np.asarray(line.get_xdata()), [50, 50])]
    assert len(halves) == 1


def test_the_figure_says_refused_and_what_it_cannot_draw():
    *_, right = draw(SHAPES["all refused"]).axes
    assert [text.get_text().strip() for text in right.texts] == ["refused"] * 8
    left = draw(SHAPES["infinite and unknown"]).axes[0]
    assert left.get_legend_handles_labels()[1][0] == "decoding_opt (1 of 2 not finite)"
    assert len(draw(SHAPES["infinite and unknown"]).axes[1].patches) == 5
    assert len(draw(SHAPES["no comparisons"]).axes) == 2
    assert len(draw(SHAPES["only rules without a knob"]).axes) == 1


def test_a_figure_of_many_judges_and_levels_has_no_labels_on_each_other():
    judges = {f"judge {place} at $5 and $6 \U0001f642 {'long ' * place}": WON["gpt-4"] for place in range(6)}
    drawn = draw(made_up(levels=(0.05, 0.1, 0.2, 0.4, 0.8), won=judges, published={}))
    assert len(drawn.axes) == 4
    with pytest.warns(UserWarning, match="Glyph"):
        drawn.draw_without_rendering()
    count = 0
    for ax in drawn.axes[2:]:
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        count += len(boxes)
        assert not any(is_math_text(label.get_text()) for label in ax.get_yticklabels())
        assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:], strict=False))
        assert min(box.x0 for box in boxes) >= 0
        assert ax.get_window_extent().width > 200
    assert count == 6 * (1 + 5 * 2)
    assert drawn.get_figheight() < 0.3 * count  # two columns


@pytest.mark.parametrize("write", [figure, write_markdown])
def test_a_report_that_cannot_be_written_is_an_input_error(write, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write(made_up(), tmp_path / "missing" / "report")


def test_levels_stand_together_whatever_order_they_come_in():
    results = made_up()
    shuffled = replace(results, cells=results.cells[::-1], comparisons=results.comparisons[::-1])
    assert [row["level"] for row in cell_rows(markdown(shuffled))] == [""] + ["epsilon 0.4"] * 3 + ["epsilon 0.1"] * 3
    mixed = [results.cells[place] for place in (0, 3, 1, 4, 2, 5, 6)]
    found = cell_rows(markdown(replace(results, cells=mixed)))
    assert [row["level"] for row in found] == ["epsilon 0.1"] * 3 + ["epsilon 0.4"] * 3 + [""]
