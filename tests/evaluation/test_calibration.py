"""Knobs meet a mean rejection, and at equal mean rejection the common price has the least mean KL."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from decoding.evaluation.bootstrap import Bootstrap
from decoding.evaluation.positions.calibration import best_at, clustered_error, over_best
from decoding.evaluation.study.cells import calibrated_cells
from solvers.errors import InputError
from tradeoff import evaluate, solve_pareto
from tradeoff.outcome.positions import Positions, measure
from tradeoff.rules import CommonPrice

ROWS = 300
WORST_FIRST = ("decoding_uno:residual=draft", "decoding_uno", "decoding_opt", "ratio_clip", "common_price")


def random_positions() -> Positions:
    """Laws as different from row to row as a language model's: flat ones, peaked ones, near and far drafts."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, 40, generator=generator) * torch.linspace(0.5, 6, ROWS)[:, None]
    noise = torch.randn(ROWS, 40, generator=generator) * torch.linspace(0.1, 2, 7).repeat(43)[:ROWS, None]
    return Positions(
        draft=(logits + noise).softmax(-1), target=logits.softmax(-1), prompt=np.arange(ROWS) // 10, prompts=ROWS // 10
    )


POSITIONS = random_positions()
LOSSLESS = float(POSITIONS.total_variation.mean())


def calibrated(rejection, positions=POSITIONS, rules=WORST_FIRST):
    return calibrated_cells(positions, rules, ("rejection", (rejection,)), 3, lambda count: None)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
def test_at_an_equal_mean_rejection_the_order_is_the_theorys(fraction):
    cells = calibrated(fraction * LOSSLESS)
    for cell in cells:
        assert abs(cell.calibrated - fraction * LOSSLESS) < 1e-6
    ratios = [cell.kl_over_best for cell in cells]
    values = [ratio.value for ratio in ratios if ratio is not None]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1)
    assert len(set(np.round(values, 6))) == 5
    assert all(1 - 1e-9 <= ratio.low <= ratio.value <= ratio.high for ratio in ratios if ratio is not None)
    # rules of one acceptance have one knob
    assert len({cell.knob["epsilon"] for cell in cells if "epsilon" in cell.knob}) == 1


def test_kl_over_the_best_is_over_the_least_of_any_rule_by_the_solver():
    (cell,) = calibrated(0.5 * LOSSLESS, rules=("decoding_opt",))
    laws = POSITIONS.draft.double(), POSITIONS.target.double()
    least = solve_pareto(*laws, divergence="kl", budget="mean", rejection=[0.5 * LOSSLESS], normalise=True).divergence
    kl = evaluate(cell.made(), *laws, normalise=True).divergence_in("kl").mean()
    assert cell.kl_over_best is not None
    assert cell.kl_over_best.value == pytest.approx(float(kl) / float(least[0]), rel=1e-6)


def test_a_knob_as_small_as_a_large_vocabularys_is_found_as_well():
    # spread over 5000 tokens, probabilities and the epsilon that matters are near 1e-4
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 5000, generator=generator)
    draft = (logits + torch.randn(20, 5000, generator=generator)).softmax(-1)
    positions = Positions(draft=draft, target=logits.softmax(-1), prompt=np.arange(20), prompts=20)
    for found in calibrated(0.1, positions):
        assert abs(found.calibrated - 0.1) < 1e-6
        assert found.knob.get("epsilon", 0) < 1e-3


def test_a_rule_in_steps_is_charged_at_the_rejection_it_reached():
    (cell,) = calibrated(0.5 * LOSSLESS, rules=("top_k_gate",))
    assert abs(cell.calibrated - 0.5 * LOSSLESS) > 1e-3
    columns = measure(cell.made(), POSITIONS, ("kl",))

    def excess(price: float) -> float:
        return measure(CommonPrice(price=price), POSITIONS, ())["rejection"].mean() - cell.calibrated

    price: Any = brentq(excess, 0, 50)
    least = measure(CommonPrice(price=price), POSITIONS, ("kl",))["kl"].mean()
    assert cell.kl_over_best is not None
    assert cell.kl_over_best.value == pytest.approx(columns["kl"].mean() / least, rel=1e-6)


def test_no_rule_is_below_the_common_prices_tangent_on_any_prompt():
    best = best_at(POSITIONS, 0.5 * LOSSLESS)
    assert best is not None
    for cell in calibrated(0.5 * LOSSLESS):
        columns = measure(cell.made(), POSITIONS, ("kl",))
        lines = best.kl + best.price * (best.rejection - columns["rejection"])
        assert (columns["kl"] >= lines - 1e-10).all()
        assert over_best(columns, best, POSITIONS, Bootstrap(30, 3)) == cell.kl_over_best


@pytest.mark.parametrize("rejection", [LOSSLESS, 1.0])
def test_where_the_best_gives_nothing_away_there_is_no_ratio(rejection):
    assert best_at(POSITIONS, rejection) is None


@pytest.mark.parametrize("rejection", [0.0, -0.1, LOSSLESS + 1e-6, 1.0, float("nan")])
def test_a_rejection_that_buys_nothing_is_a_clear_error(rejection):
    with pytest.raises(InputError, match=r"below this pair's mean TV\(draft, target\)"):
        calibrated(rejection)


def test_the_clustered_error_counts_clusters_not_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    alone = clustered_error(values, np.arange(400))
    np.testing.assert_allclose(alone, values.std(ddof=1) / 20, rtol=1e-12)
    # every value four times over: no more information
    np.testing.assert_allclose(clustered_error(np.repeat(values, 4), np.repeat(np.arange(400), 4)), alone, rtol=1e-12)
    assert np.isnan(clustered_error(values, np.zeros(400, dtype=int)))
