"""Names from outside: fit for terminals and figures, whatever they hold."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from map_files import logits_file, run
from matplotlib.text import Text
from rich.console import Console
from study_results import WON, made_up

import tradeoff
from decoding.cli import terminal
from decoding.evaluation.bootstrap import Estimate
from decoding.evaluation.comparison import report as comparison
from decoding.evaluation.comparison.summary import Result
from decoding.evaluation.comparison.texts import Cell, Settings
from decoding.evaluation.positions.calibration import FAMILIES, LOSSLESS, Calibration
from decoding.evaluation.study import report as study
from solvers.shown import literal, one_line, visible
from tradeoff.rules import SpeculativeSampling

NAMES = [
    "a$b_$c",
    r"$\frac{$",
    r"a\$b$c$",
    "_hidden",
    "[/nope]",
    "\x1b[31mred\x1b]0;title\x07",
    "\ud800\U0001f600",
    "x" * 5000,
    ":smile:",
]
HOSTILE = pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))


def drawn_texts(figure) -> list[str]:
    """What matplotlib draws of a figure's texts that are not read as mathematics."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    return [text._preprocess_math(text.get_text())[0] for text in texts]


@HOSTILE
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_a_label_is_drawn_as_it_is_read(name):
    figure, ax = plt.subplots()
    try:
        ax.plot([0], [0], label=literal(name, 60))
        ax.set_title(literal(name, 60))
        ax.legend()
        assert [text.strip() for text in drawn_texts(figure)].count(one_line(name, 60)) == 2  # title and legend
    finally:
        plt.close(figure)


def test_lines_are_cut_and_folded():
    assert one_line("a\n  b\tc  d ") == "a b c  d"
    assert one_line("abcdef", 4) == "abc…"
    assert literal("a$b\x1b") == r"a\$b\u001b"
    assert visible("\x1b[/nope]\n") == "\\u001b[/nope]\n"


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def result_of(family: str) -> Result:
    calibration = Calibration(
        family=family,
        knob={},
        requested=0.1,
        rejection=0.1,
        standard_error=0.0,
        divergences={},
        kl_by_prompt=np.ones(1),
        rejection_by_prompt=np.ones(1),
        rule=SpeculativeSampling(),
    )
    names = ("rejection", "tokens_per_target_call", "tv", "kl", "log_likelihood")
    means = {name: estimate(0.1) for name in names}
    over = estimate(1.0)
    return Result(cell=Cell(calibration=calibration), texts=1, means=means, kl_over_best=over, opt_wins=None)


@HOSTILE
def test_a_comparison_of_models_of_any_name_is_printed_and_drawn(name, tmp_path):
    settings = Settings(
        pair=name,
        prompts=("p",),
        rejection=(0.1,),
        samples=1,
        max_new_tokens=1,
        draft_length=1,
        calibration_positions=1,
        seed=0,
        dtype="float32",
        device="cpu",
    )
    results = [result_of(family) for family in (LOSSLESS, *FAMILIES)]
    comparison.figure(results, settings, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    file = io.StringIO()
    comparison.print_table(results, settings, Console(file=file, width=200))
    printed = file.getvalue()
    assert "\x1b" not in printed
    assert one_line(name)[:100] in printed.replace("\n", "")


@HOSTILE
def test_a_study_with_a_judge_of_any_name_is_drawn(name, tmp_path):
    study.figure(made_up(won={name: WON["gpt-4"]}), tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


@HOSTILE
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font", "ignore:constrained_layout not applied")
def test_a_front_with_rules_of_any_name_is_drawn(name):
    front = tradeoff.solve_pareto(np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2]), divergence="kl")
    ax = front.plot(rules={name: SpeculativeSampling()})
    try:
        assert one_line(name) in [text.strip() for text in drawn_texts(ax.figure)]
    finally:
        plt.close("all")


@HOSTILE
def test_a_terminal_gets_no_markup_and_no_escapes(name, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=file, width=6000, force_terminal=False))
    terminal.say(f"error: {name}")
    with terminal.track(f"asking {name}", 2, 0) as advance:
        advance(1)
    printed = file.getvalue()
    assert "\x1b" not in printed
    assert printed.count(one_line(name)) >= 2


def test_a_map_of_positions_in_a_file_of_any_name_is_printed_and_drawn(tmp_path):
    positions = logits_file(tmp_path / "[nope] $a_$\x1b\udcff b.npz")
    found = run(
        "--positions",
        positions,
        "--rules",
        "decoding_opt",
        "--rejection",
        "0.2",
        "--count",
        "12",
        "--out",
        tmp_path / "map",
    )
    assert found.exit_code == 0, found.output
    assert "[nope] $a_$\\u001b\\udcff b" in found.output
    assert "\x1b" not in found.output
    assert (tmp_path / "map" / "map.png").stat().st_size > 10_000
