"""A point's own rule reaches the point, through the door that every rule goes through."""

import re

import numpy as np
import pytest
import torch
from laws import random_pair
from tolerances import assert_close

from tradeoff import InputError, evaluate, f_divergence, solve_multi_draft_pareto, solve_pareto
from tradeoff.rules import CommonPrice, RatioClip

PAIRS = [random_pair(seed, vocab=6, masked=False) for seed in range(4)]
DRAFTS, TARGETS = (np.stack(laws) for laws in zip(*PAIRS, strict=True))
CONVEX = ("kl", "reverse_kl", "js")
OWN = f_divergence(lambda ratio: (ratio - 1.0) ** 2, lambda ratio: 2.0 * (ratio - 1.0), strictly_convex=True)


def _reached(point):
    outcome = evaluate(point.rule, point.draft, point.target)
    # a rejection that a price leads to is as exact as the root of the price
    assert_close(outcome.rejection, point.rejection, "price root")
    assert_close(outcome.divergence_in(point.measure), point.divergence, "price root")
    return point.rule


@pytest.mark.parametrize("divergence", ["tv", *CONVEX])
def test_one_budget_at_every_position_is_a_ratio_clip(divergence):
    front = solve_pareto(DRAFTS, TARGETS, divergence=divergence, rejection=0.1)
    assert _reached(front.at(rejection=0.15)) == RatioClip(rejection=0.15)
    assert _reached(front.at(rejection=1.0)) == RatioClip(rejection=1.0)


@pytest.mark.parametrize("divergence", CONVEX)
def test_one_price_at_every_position_is_a_common_price(divergence):
    front = solve_pareto(DRAFTS, TARGETS, divergence=divergence, rejection=0.1)
    for price in (0.0, 0.4, 3.0):
        rule = _reached(front.at(price=price))
        assert isinstance(rule, CommonPrice)
        assert rule.price == price
        assert solve_pareto(DRAFTS, TARGETS, divergence=rule.divergence).measure.name == front.measure.name


@pytest.mark.parametrize("asked", [{"rejection": 0.1}, {"rejection": 0.02}, {"divergence": 0.05}, {"price": 0.7}])
@pytest.mark.parametrize("divergence", CONVEX)
def test_positions_that_share_a_budget_pay_one_price(divergence, asked):
    front = solve_pareto(DRAFTS, TARGETS, divergence=divergence, budget="mean", weights=[1, 2, 0, 3], rejection=0.1)
    assert isinstance(_reached_where_it_occurs(front.at(**asked)), CommonPrice)


def _reached_where_it_occurs(point):
    outcome, occurs = evaluate(point.rule, point.draft, point.target), point.weights > 0
    assert_close(outcome.rejection[occurs], point.rejection[occurs], "price root")
    assert_close(outcome.divergence_in(point.measure)[occurs], point.divergence[occurs], "price root")
    return point.rule


@pytest.mark.parametrize("asked", [{"rejection": 0.1}, {"divergence": 0.05}, {"price": 0.7}])
def test_a_pair_alone_has_a_rule_whatever_was_asked(asked):
    for kind in (np.asarray, torch.asarray):
        point = solve_pareto(*(kind(law) for law in PAIRS[0]), divergence="kl").at(**asked)
        _reached(point)


def test_a_divergence_of_ones_own_goes_with_the_rule():
    point = solve_pareto(DRAFTS, TARGETS, divergence=OWN).at(price=0.4)
    rule = _reached(point)
    assert isinstance(rule, CommonPrice)
    assert rule.divergence is OWN
    assert repr(point.rule) == "CommonPrice(price=0.4, divergence=Divergence('custom'))"


def test_cvxpy_points_have_rules_too():
    point = solve_pareto(DRAFTS, TARGETS, divergence="kl", budget="mean", solver="cvxpy", rejection=0.1).at(
        rejection=0.1
    )
    outcome = evaluate(point.rule, DRAFTS, TARGETS)
    assert_close(outcome.rejection, point.rejection, "interior point multiplier")


@pytest.mark.parametrize(
    ("front", "asked", "message"),
    [
        (
            solve_pareto(DRAFTS, TARGETS, divergence="kl"),
            {"divergence": 0.05},
            "rule: expected one budget or one price for all positions; got one divergence to a position; ask for one "
            "at(price=...), or use budget='mean'",
        ),
        (solve_pareto(DRAFTS, TARGETS), {"rejection": [0.1, 0.2, 0.1, 0.1]}, "got one rejection to a position"),
        (solve_pareto(DRAFTS, TARGETS), {"price": [0.1, 0.2, 0.1, 0.1]}, "got one price to a position"),
        (
            solve_pareto(DRAFTS, TARGETS, budget="mean"),
            {"rejection": 0.1},
            "rule: expected a point that one finite price leads to; got tv at price 1, where that leaves the split",
        ),
        (
            solve_multi_draft_pareto(DRAFTS, TARGETS, drafts=2),
            {"rejection": 0.1},
            "rule: expected a point of one draft; got one of several, which decoding has no rule for",
        ),
    ],
    ids=["divergence", "rejections", "prices", "tv", "several drafts"],
)
def test_a_point_that_no_rule_reaches_says_what_to_ask(front, asked, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        _ = front.at(**asked).rule
    assert "\n" not in str(caught.value)


def test_columns_label_the_positions():
    point = solve_pareto(DRAFTS, TARGETS, divergence="kl", budget="mean").at(rejection=0.1)
    columns = point.to_dict()
    assert columns["position"] == [0, 1, 2, 3]
    assert {len(each) for each in columns.values()} == {4}
    assert np.dot(columns["weights"], columns["rejection"]) == pytest.approx(0.1)
    assert "weights" not in solve_pareto(*PAIRS[0]).at(rejection=0.1).to_dict()
    assert "position" not in solve_pareto(DRAFTS, TARGETS, budget="mean").to_dict()
