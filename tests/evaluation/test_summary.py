"""Results are ratios of sums, intervals come from prompts, wins from pairs of texts."""

import numpy as np
import pytest

from decoding.evaluation.bootstrap import Bootstrap
from decoding.evaluation.comparison.summary import summarise
from decoding.evaluation.comparison.texts import Cell
from decoding.evaluation.positions.calibration import Calibration
from tradeoff.rules import SpeculativeSampling

COLUMNS = ("generated", "verified", "rejected", "target_calls", "rejection", "total_variation", "log_likelihood")
DIVERGENCES = ("tv", "kl", "reverse_kl", "chi2", "hellinger")


def cell(family, requested=0.1, kl=(1.0, 1.0), rejection=None):
    return Cell(
        calibration=Calibration(
            family=family,
            knob={"price": 2.0},
            requested=requested,
            rejection=requested,
            standard_error=0.0,
            divergences={},
            kl_by_prompt=np.array(kl),
            rejection_by_prompt=np.zeros(len(kl)) if rejection is None else np.array(rejection),
            rule=SpeculativeSampling(),
        )
    )


def row(of, prompt, **values):
    return {"cell": of.label, "prompt": prompt} | dict.fromkeys(COLUMNS + DIVERGENCES, 1.0) | values


OPT, PRICE = cell("DecodingOPT"), cell("CommonPrice")


def test_means_are_ratios_of_sums_over_all_texts():
    rows = [
        row(OPT, 0, verified=10, rejection=1.0, generated=12, target_calls=3, kl=2.0),
        row(OPT, 0, verified=30, rejection=9.0, generated=36, target_calls=9, kl=6.0),
        row(OPT, 1, verified=60, rejection=5.0, generated=70, target_calls=20, kl=12.0),
    ]
    (result,) = summarise(rows, [OPT], prompts=2, seed=0)
    assert result.texts == 3
    assert result.means["rejection"].value == pytest.approx(15 / 100)
    assert result.means["tokens_per_target_call"].value == pytest.approx(118 / 32)
    # the KL per verified token is 0.2 in both prompts: no resample can differ
    kl = result.means["kl"]
    assert (kl.value, kl.low, kl.high) == pytest.approx((0.2, 0.2, 0.2))
    rejection = result.means["rejection"]
    assert rejection.low == pytest.approx(5 / 60)
    assert rejection.high == pytest.approx(10 / 40)


def test_the_bootstrap_interval_of_a_mean_covers_as_often_as_it_says():
    # 200 data sets of 40 prompts: coverage below 87 % has probability under 1e-5 if it is really 95 %,
    # and the percentile interval of 40 exponential means undercovers by about 2 points
    rng = np.random.default_rng(0)
    bootstrap = Bootstrap(40, seed=0)
    covered = 0
    for _ in range(200):
        resampled = bootstrap.ratio(rng.exponential(size=40), np.ones(40))[1]
        covered += np.quantile(resampled, 0.025) <= 1.0 <= np.quantile(resampled, 0.975)
    assert 0.87 * 200 <= covered < 200


def test_ratios_on_the_same_positions_are_paired():
    # what makes a prompt hard is shared by both rules and must cancel in their ratio
    difficulty = np.random.default_rng(1).exponential(size=30)
    cells = [cell("DecodingOPT", kl=3 * difficulty), cell("CommonPrice", kl=difficulty)]
    opt, price = summarise([row(each, i) for each in cells for i in range(30)], cells, prompts=30, seed=0)
    for result, ratio in ((opt, 3.0), (price, 1.0)):
        assert result.kl_over_best is not None
        assert (result.kl_over_best.value, result.kl_over_best.low, result.kl_over_best.high) == pytest.approx(
            (ratio, ratio, ratio)
        )


def test_the_ratio_is_taken_at_the_rules_own_rejection():
    # the best rule's KL at another rejection lies on its tangent, whose slope is minus its price of 2
    rule = cell("DecodingOPT", kl=(3.0, 1.0), rejection=(0.5, 0.1))
    best = cell("CommonPrice", kl=(1.0, 1.0), rejection=(0.3, 0.3))
    opt, _ = summarise([row(each, i) for each in (rule, best) for i in range(2)], [rule, best], prompts=2, seed=0)
    assert opt.kl_over_best is not None
    assert opt.kl_over_best.value == pytest.approx(4 / 2)
    # the resamples that hold one prompt only
    assert opt.kl_over_best.low == pytest.approx(1 / (1 + 2 * 0.2))
    assert opt.kl_over_best.high == pytest.approx(3 / (1 - 2 * 0.2))


def test_where_the_tangent_is_below_zero_the_ratio_has_no_upper_end():
    # on resamples of the first prompt alone the line is at 1 - 2 * 0.6 < 0
    rule = cell("DecodingOPT", kl=(3.0, 1.0), rejection=(0.9, 0.1))
    best = cell("CommonPrice", kl=(1.0, 1.0), rejection=(0.3, 0.3))
    opt, _ = summarise([row(each, i) for each in (rule, best) for i in range(2)], [rule, best], prompts=2, seed=0)
    assert opt.kl_over_best is not None
    assert opt.kl_over_best.value == pytest.approx(4 / (2 - 2 * 0.4))
    assert opt.kl_over_best.low == pytest.approx(1 / (1 + 2 * 0.2))
    assert opt.kl_over_best.high == np.inf


def test_a_prompt_is_won_by_more_than_half_of_all_pairs():
    scores = {
        # prompt: (OPT's texts, the other's texts); wins of OPT among the pairs
        0: ((-1.0, -5.0, -5.0), (-4.0, -4.0, -4.0)),  # 3 of 9: lost, though ahead by the mean
        1: ((-1.0, -2.0, -3.5), (-3.0, -3.0, -3.0)),  # 6 of 9: won
        2: ((-1.0, -4.0), (-2.0, -3.0)),  # 2 of 4: a tie, half
        3: ((-2.0,), (-2.0,)),  # equal scores: half
    }
    cells = [cell("DecodingOPT", kl=np.ones(4)), cell("CommonPrice", kl=np.ones(4))]
    rows = []
    for prompt, (ours, theirs) in scores.items():
        rows += [row(OPT, prompt, generated=2, log_likelihood=2 * score) for score in ours]
        rows += [row(PRICE, prompt, generated=2, log_likelihood=2 * score) for score in theirs]
    opt, price = summarise(rows, cells, prompts=4, seed=0)
    assert opt.opt_wins is None
    assert price.opt_wins is not None
    assert price.opt_wins.value == pytest.approx((0 + 1 + 0.5 + 0.5) / 4)
    assert 0 <= price.opt_wins.low <= price.opt_wins.value <= price.opt_wins.high <= 1


def test_rules_are_compared_at_their_own_request():
    other = cell("DecodingOPT", requested=0.05)
    (result,) = summarise([row(other, 0)], [other], prompts=1, seed=0)
    assert result.kl_over_best is None
