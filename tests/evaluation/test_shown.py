"""Names from outside: fit for terminals and figures, whatever they hold."""

import io
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from map_files import logits_file, run
from matplotlib.text import Text
from rich.console import Console
from study_results import WON, made_up

import tradeoff
from decoding.cli import terminal
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


@HOSTILE
def test_a_study_of_models_and_a_judge_of_any_name_is_drawn_and_printed(name, tmp_path):
    results = replace(made_up(won={name: WON["gpt-4"]}), title=name)
    study.figure(results, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000
    file = io.StringIO()
    study.print_results(results, Console(file=file, width=200))
    assert "\x1b" not in file.getvalue()
    assert one_line(name)[:100] in file.getvalue().replace("\n", "")


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
