"""Knobs meet a mean rejection, and at equal mean rejection the common price has the least mean KL."""

import numpy as np
import pytest
import torch

from decoding.evaluation.positions.calibration import FAMILIES, Calibration, calibrate, clustered_error, lossless
from solvers.errors import InputError
from tradeoff.outcome.positions import Positions

ROWS = 300


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


def calibrated(positions: Positions, rejection: float) -> dict[str, Calibration]:
    return {found.family: found for found in calibrate(positions, rejection)}


HALF = calibrated(POSITIONS, 0.5 * LOSSLESS)


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.95])
def test_the_requested_mean_rejection_is_reached_by_every_family(fraction):
    found = calibrated(POSITIONS, fraction * LOSSLESS)
    assert list(found) == list(FAMILIES)
    for calibration in found.values():
        assert abs(calibration.rejection - fraction * LOSSLESS) < 1e-6
        assert calibration.requested == fraction * LOSSLESS


def test_a_knob_as_small_as_a_large_vocabularys_is_found_as_well():
    # spread over 5000 tokens, probabilities and the epsilon that matters are near 1e-4
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, 5000, generator=generator)
    draft = (logits + torch.randn(20, 5000, generator=generator)).softmax(-1)
    positions = Positions(draft=draft, target=logits.softmax(-1), prompt=np.arange(20), prompts=20)
    for found in calibrated(positions, 0.1).values():
        assert abs(found.rejection - 0.1) < 1e-6
        assert found.knob.get("epsilon", 0) < 1e-3


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_at_equal_mean_rejection_the_order_is_the_theorys(fraction):
    kl = {name: found.divergences["kl"] for name, found in calibrated(POSITIONS, fraction * LOSSLESS).items()}
    assert kl["CommonPrice"] < kl["RatioClip"] < kl["DecodingOPT"] < kl["DecodingUNO"]
    assert kl["DecodingUNO"] < kl["DecodingUNO (draft)"]


def test_no_rule_is_below_the_common_prices_tangent_on_any_prompt():
    best = HALF["CommonPrice"]
    for rule in HALF.values():
        slack = best.rejection_by_prompt - rule.rejection_by_prompt
        assert (rule.kl_by_prompt >= best.kl_by_prompt + best.knob["price"] * slack - 1e-10).all()


def test_the_mean_tv_bias_of_rules_on_the_front_is_what_they_save():
    for name, found in HALF.items():
        saved = LOSSLESS - found.rejection
        if name.startswith("DecodingUNO"):
            assert found.divergences["tv"] > saved + 1e-3
        else:
            assert abs(found.divergences["tv"] - saved) < 1e-9


def test_rules_with_equal_acceptance_get_the_same_knob():
    assert len({found.knob["epsilon"] for found in HALF.values() if "epsilon" in found.knob}) == 1
    assert sum("epsilon" in found.knob for found in HALF.values()) == 3


def test_lossless_sampling_rejects_with_the_tv():
    found = lossless(POSITIONS)
    assert abs(found.rejection - LOSSLESS) < 1e-12
    assert found.divergences["kl"] < 1e-12


@pytest.mark.parametrize("rejection", [0.0, -0.1, LOSSLESS + 1e-6, 1.0, float("nan")])
def test_a_rejection_that_buys_nothing_is_a_clear_error(rejection):
    with pytest.raises(InputError, match=r"below this pair's mean TV\(draft, target\)"):
        calibrated(POSITIONS, rejection)


def test_the_clustered_error_counts_clusters_not_values():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    alone = clustered_error(values, np.arange(400))
    np.testing.assert_allclose(alone, values.std(ddof=1) / 20, rtol=1e-12)
    # every value four times over: no more information
    np.testing.assert_allclose(clustered_error(np.repeat(values, 4), np.repeat(np.arange(400), 4)), alone, rtol=1e-12)
    assert np.isnan(clustered_error(values, np.zeros(400, dtype=int)))


def test_positions_come_back_as_laws_in_float64():
    rows = 0
    for draft, target, *logits in POSITIONS.chunks():
        assert logits == [None, None]
        for law in (draft, target):
            assert law.dtype == torch.float64
            assert float((law.sum(-1) - 1).abs().max()) < 1e-12
        rows += len(draft)
    assert rows == ROWS
