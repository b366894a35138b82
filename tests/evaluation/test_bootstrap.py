"""Intervals come from prompts, and ratios on the same positions are paired."""

import numpy as np
import pytest

from decoding.evaluation.bootstrap import Bootstrap, estimate


def over_least(rule, rejection, least, split, price=2.0):
    columns = {"rule": rule, "rejection": rejection, "least": least, "split": split}
    arrays = {name: np.asarray(each, dtype=float) for name, each in columns.items()}
    found = Bootstrap(len(rule), seed=0).over_least(**arrays, price=price)
    return found.value, found.low, found.high


def test_the_interval_of_a_ratio_lies_between_those_of_its_prompts():
    # 1/10 and 3/30 in one prompt, 12/60 in the other: resamples of one prompt alone are the ends
    found = estimate(*Bootstrap(2, seed=0).ratio(np.array([4.0, 12.0]), np.array([40.0, 60.0])))
    assert (found.value, found.low, found.high) == pytest.approx((16 / 100, 4 / 40, 12 / 60))


def test_the_bootstrap_interval_of_a_mean_covers_as_often_as_it_says():
    # 200 data sets of 40 prompts: coverage below 87 % has probability under 1e-5 if it is really 95 %,
    # and the percentile interval of 40 exponential means undercovers by about 2 points
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(40, seed=0)
    found = [estimate(*bootstrap.ratio(rng.exponential(size=40), np.ones(40))) for _ in range(200)]
    assert 0.87 * 200 <= sum(each.low <= 1.0 <= each.high for each in found) < 200


def test_ratios_on_the_same_positions_are_paired():
    # what makes a prompt hard is shared by both rules and must cancel in their ratio
    difficulty = np.random.default_rng(1).exponential(size=30)
    assert over_least(3 * difficulty, np.zeros(30), difficulty, np.zeros(30)) == pytest.approx((3, 3, 3))


@pytest.mark.parametrize(
    ("rejection", "high"),
    # on resamples of the first prompt alone the line is at 1 - 2 * 0.2, or below zero: then it bounds nothing
    [((0.5, 0.1), 3 / (1 - 2 * 0.2)), ((0.9, 0.1), np.inf)],
)
def test_the_ratio_is_taken_at_the_rules_own_rejection(rejection, high):
    # the best rule's divergence at another rejection lies on its tangent, whose slope is minus its price of 2
    found = over_least((3, 1), rejection, (1, 1), (0.3, 0.3))
    assert found == pytest.approx((4 / (2 - 2 * (sum(rejection) - 0.6)), 1 / (1 + 2 * 0.2), high))
