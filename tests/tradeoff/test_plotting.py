"""Figures show the numbers of the front and of the rules, nothing else."""

from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import array_api_strict
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from laws import random_pair
from tolerances import assert_close

from solvers.divergences import DIVERGENCES
from tradeoff import InputError, evaluate, solve_multi_draft_pareto, solve_pareto
from tradeoff.fronts.plotting import plot_fronts
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rules import (
    CommonPrice,
    DecodingOPT,
    DecodingUNO,
    KSeq,
    RatioClip,
    RecursiveRejection,
    SpeculativeSampling,
)

DRAFT = np.array([0.7, 0.2, 0.1])
TARGET = np.array([0.4, 0.4, 0.2])
LEAKY_TARGET = np.array([0.0, 0.5, 0.5])
RULES = {
    "OPT": DecodingOPT(epsilon=0.1),
    "UNO": DecodingUNO(epsilon=0.1),
    "lossless": SpeculativeSampling(),
    "clip": RatioClip(ceiling=1.3),
    "price": CommonPrice(price=0.5),
}


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def lines(ax: Any, name: str) -> list[Any]:
    return [line for line in ax.get_lines() if line.get_label() == name]


def points(ax: Any, name: str) -> np.ndarray:
    """What is drawn to scale under a name, `[points, 2]`."""
    found = [line.get_xydata() for line in lines(ax, name) if line.get_transform() == ax.transData]
    return np.concatenate(found) if found else np.empty((0, 2))


def notes(ax: Any) -> list[str]:
    return [text.get_text().removeprefix(r"$\uparrow$ ") for text in ax.texts]


def legend_of(ax: Any) -> list[Any]:
    return ax.get_legend().get_texts()


def batch():
    pairs = [random_pair(seed, vocab=6) for seed in range(4)]
    return (np.stack(laws) for laws in zip(*pairs, strict=True))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_line_is_the_front(name):
    front = solve_pareto(DRAFT, TARGET, divergence=name)
    ax = front.plot()
    (line,) = ax.get_lines()
    assert np.asarray(line.get_xdata()).tolist() == front.rejection.tolist()
    assert np.asarray(line.get_ydata()).tolist() == front.divergence.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rejection probability", front.measure.label)
    assert ax.get_xlim()[0] == ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > front.divergence[0]
    region: Any = ax.collections[0]
    assert len(ax.collections) == 1
    assert region.get_label() == "unattainable"
    assert_close(region.get_paths()[0].vertices[:, 1].max(), front.divergence.max(), "mass")
    ax.figure.canvas.draw()


@pytest.mark.parametrize("name", [*DIVERGENCES, "alpha=0.5"])
def test_rules_are_where_evaluate_puts_them(name):
    front = solve_pareto(DRAFT, TARGET, divergence=name)
    ax = front.plot(rules=RULES)
    for rule_name, rule in RULES.items():
        outcome = evaluate(rule, DRAFT, TARGET)
        ((x, y),) = points(ax, rule_name)
        assert_close(x, outcome.rejection, "mass")
        assert_close(y, front.measure.value(outcome.output_law, TARGET), "divergence")
        assert x <= ax.get_xlim()[1]
        assert y <= ax.get_ylim()[1]
    legend = [text.get_text() for text in legend_of(ax)]
    assert legend == ["front: least divergence", "unattainable", *RULES]


@pytest.mark.parametrize("convert", [torch.asarray, array_api_strict.asarray])
def test_any_array_library_is_drawn_like_numpy(convert):
    expected = solve_pareto(DRAFT, TARGET, divergence="js").plot(rules=RULES)
    ax = solve_pareto(convert(DRAFT), convert(TARGET), divergence="js").plot(rules=RULES)
    for line, wanted in zip(ax.get_lines(), expected.get_lines(), strict=True):
        assert_close(np.asarray(line.get_xydata()), np.asarray(wanted.get_xydata()), "divergence")


def test_a_front_is_drawn_into_the_given_axes():
    _, axes = plt.subplots(1, 2)
    front = solve_pareto(DRAFT, TARGET)
    assert front.plot(axes[1]) is axes[1]
    assert len(axes[1].get_lines()) == 1
    assert not axes[0].get_lines()


def test_a_second_front_in_the_same_axes_hides_nothing_of_the_first():
    wide = solve_pareto(DRAFT, TARGET)
    ax = wide.plot()
    limits = ax.get_xlim(), ax.get_ylim()
    solve_pareto(DRAFT, (DRAFT + TARGET) / 2).plot(ax)
    assert (ax.get_xlim(), ax.get_ylim()) == limits


def test_a_batch_is_one_line_per_pair():
    rng = np.random.default_rng(0)
    draft, target = torch.asarray(rng.dirichlet(np.ones(5), size=(2, 2, 3)))
    front = solve_pareto(draft, target, divergence="kl", rejection=[0.0, 0.01])
    ax = front.plot()
    found = ax.get_lines()
    assert len(found) == 6
    assert not ax.collections, "positions have no unattainable region in common"
    for line, (i, j) in zip(found, np.ndindex(2, 3), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == front.rejection[:, i, j].tolist()
        assert np.asarray(line.get_ydata()).tolist() == front.divergence[:, i, j].tolist()


def test_a_rule_is_one_point_to_a_position_of_a_batch():
    draft, target = batch()
    ax = solve_pareto(draft, target, divergence="js").plot(rules=RULES)
    for name, rule in RULES.items():
        outcome = evaluate(rule, draft, target)
        expected = np.stack([outcome.rejection, DIVERGENCES["js"].value(outcome.output_law, target)], axis=-1)
        assert_close(points(ax, name), expected, "divergence")


def test_a_shared_budget_has_one_line_and_one_point_per_rule_at_the_weighted_means():
    draft, target = batch()
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    front = solve_pareto(draft, target, divergence="js", budget="mean", weights=weights)
    ax = front.plot(rules=RULES)
    (line,) = lines(ax, "front: least divergence")
    assert line.get_xydata().tolist() == np.stack([front.rejection, front.divergence], axis=-1).tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mean rejection probability", f"mean {front.measure.label}")
    for name, rule in RULES.items():
        outcome = evaluate(rule, draft, target)
        divergence = DIVERGENCES["js"].value(outcome.output_law, target)
        assert_close(points(ax, name), [[weights @ outcome.rejection, weights @ divergence]], "divergence")


def test_where_the_front_is_infinite_the_whole_height_is_unattainable():
    front = solve_pareto(np.array([0.5, 0.4, 0.1]), np.array([0.0, 0.3, 0.7]), divergence="kl")
    ax = front.plot()
    x, y = lines(ax, "front: least divergence")[0].get_xydata().T
    assert np.isfinite(y).all()
    assert (np.diff(x) > 0).all()
    known = np.isfinite(front.divergence)
    assert 0 < known.sum() < known.size
    at = np.isin(x, front.rejection[known])
    assert y[at].tolist() == front.divergence[known].tolist()
    wall: Any = ax.patches[0]
    # no law with less rejection than the draft's mass off the support has a finite divergence
    assert_close(wall.get_x() + wall.get_width(), 0.5, "mass")
    assert_close(x[0], 0.5, "mass")
    for extra, value in zip(x[~at], y[~at], strict=True):
        assert_close(value, front.at(rejection=extra).divergence, "divergence")
    ax.figure.canvas.draw()


def test_a_front_that_comes_down_from_infinity_at_zero_leaves_the_picture_at_the_top():
    front = solve_pareto(np.array([0.5, 0.5, 0.0]), TARGET, divergence="reverse_kl")
    assert np.isinf(front.divergence[0])
    ax = front.plot()
    x, y = lines(ax, "front: least divergence")[0].get_xydata().T
    assert y.max() > ax.get_ylim()[1] > front.divergence[1]
    assert x[0] < 1e-6


def test_a_rule_with_infinite_divergence_is_marked_at_the_top_edge_with_a_note():
    front = solve_pareto(DRAFT, LEAKY_TARGET, divergence="kl")
    ax = front.plot(rules=RULES)
    ax.figure.canvas.draw()
    outcomes = {name: evaluate(rule, DRAFT, LEAKY_TARGET) for name, rule in RULES.items()}
    infinite = [name for name, outcome in outcomes.items() if np.isinf(outcome.kl)]
    assert infinite == ["OPT", "UNO"]
    assert notes(ax) == ["infinite", "infinite"]
    heights = []
    for name in infinite:
        (mark,) = lines(ax, name)
        assert_close(mark.get_xdata(), [outcomes[name].rejection], "mass")
        place = mark.get_transform().transform(mark.get_xydata())[0]
        heights.append(ax.transAxes.inverted().transform(place)[1])
    assert 0.8 < heights[1] < heights[0] < 1, "at the same rejection, one below the other"
    assert all(len(points(ax, name)) == 1 for name in RULES if name not in infinite)


def test_in_a_batch_the_note_counts_the_infinite_positions():
    draft, target = np.stack([DRAFT, DRAFT]), np.stack([TARGET, LEAKY_TARGET])
    ax = solve_pareto(draft, target, divergence="kl").plot(rules={"OPT": RULES["OPT"]})
    assert notes(ax) == ["infinite"]
    assert len(points(ax, "OPT")) == 1
    both = solve_pareto(np.stack([DRAFT] * 2), np.stack([LEAKY_TARGET] * 2), divergence="kl")
    assert notes(both.plot(rules={"OPT": RULES["OPT"]})) == ["infinite: 2 positions"]


def test_a_rule_far_worse_than_the_draft_does_not_press_the_front_flat():
    draft, target = np.array([0.5, 0.5 - 1e-9, 1e-9]), np.array([0.5 - 1e-9, 0.5, 1e-9])
    rule = DecodingUNO(epsilon=0.0, residual="draft")
    front = solve_pareto(draft, target)
    worse = RatioClip(ceiling=1.0)
    assert notes(front.plot(rules={"clip": worse})) == []

    class Worst:
        def acceptance(self, draft, target):
            return 0 * draft

        def residual(self, draft, target):
            return np.array([0.0, 0.0, 1.0])

    ax = front.plot(rules={"worst": Worst(), "UNO": rule})
    assert notes(ax) == ["1"]
    assert ax.get_ylim()[1] < 1e-6


def test_equal_laws_and_single_points_can_be_drawn():
    for front in (
        solve_pareto(DRAFT, DRAFT),
        solve_pareto(DRAFT, TARGET, rejection=0.1),
        solve_pareto(np.array([1.0, 0.0]), np.array([0.0, 1.0]), divergence="kl"),
        solve_pareto(DRAFT, LEAKY_TARGET, divergence="kl", rejection=0.1),
    ):
        ax = front.plot(rules=RULES)
        assert ax.get_xlim()[1] > 0
        assert ax.get_ylim()[1] > 0
        ax.figure.canvas.draw()


def test_several_divergences_share_axis_rules_and_legend():
    fronts = [solve_pareto(DRAFT, LEAKY_TARGET, divergence=name) for name in ("kl", "tv", "js", "chi2", "hellinger")]
    figure = plot_fronts(fronts, rules=RULES)
    assert len(figure.axes) == len(fronts)
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    for front, ax in zip(fronts, figure.axes, strict=True):
        assert ax.get_ylabel() == front.measure.label
        assert ax.get_legend() is None
        for name in RULES:
            colours = {line.get_color() for panel in figure.axes for line in lines(panel, name)}
            assert len(colours) == 1
            assert len(lines(ax, name)) == 1
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["front: least divergence", "unattainable", *RULES]
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_no_front_is_an_error():
    with pytest.raises(InputError, match="at least one front"):
        plot_fronts([])


def test_a_rule_that_is_none_is_an_error():
    class Wrong:
        def acceptance(self, draft, target):
            return 2 + 0 * draft

        def residual(self, draft, target):
            return target

    with pytest.raises(InputError, match="acceptance probabilities"):
        solve_pareto(DRAFT, TARGET).plot(rules={"wrong": Wrong()})


def test_several_drafts_are_drawn_with_rules_of_their_own_kind():
    front = solve_multi_draft_pareto(DRAFT, TARGET, drafts=2, divergence="kl")
    ax = front.plot(rules=["k_seq", "recursive_rejection"])
    for name, rule in (("k_seq", KSeq()), ("recursive_rejection", RecursiveRejection())):
        outcome = evaluate_multi_draft(rule, DRAFT, TARGET, drafts=2)
        assert_close(points(ax, name), [[outcome.rejection, outcome.kl]], "mass")
    (line,) = lines(ax, "front: least divergence")
    assert_close(line.get_ydata(), np.sort(front.divergence)[::-1], "mass")
    with pytest.raises(InputError, match="plot: expected a rule that chooses among several drafts; got Speculative"):
        front.plot(rules={"one": SpeculativeSampling()})


def test_a_spec_is_drawn_under_its_own_name_and_a_block_rule_is_refused():
    ax = solve_pareto(DRAFT, TARGET).plot(rules=["decoding_opt:epsilon=0.1"])
    outcome = evaluate(RULES["OPT"], DRAFT, TARGET)
    assert_close(points(ax, "decoding_opt:epsilon=0.1"), [[outcome.rejection, outcome.tv]], "mass")
    with pytest.raises(InputError, match="plot: expected a rule that judges one token at a time; got fly; block rules"):
        solve_pareto(DRAFT, TARGET).plot(rules=["fly"])
