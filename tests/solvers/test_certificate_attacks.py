"""Attacks on the certificates of the house: levels, weights and numbers that prove nothing must prove nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import MEASURES, law_pairs, random_pair, tv
from test_certificate import bound, every_divergence, every_kind, exact, shared_point
from tolerances import assert_at_most, assert_close

from solvers.certificate import Certificate
from solvers.divergences import DIVERGENCES
from tradeoff import chains, solve_multi_draft_pareto, solve_pareto

# --- attacks: levels and numbers that prove nothing ----------------------------------------------------------------

REFEREES_PAIR = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
NO_LEVELS = {
    "floor above ceiling": (5.0, 1.0),
    "floor just above ceiling": (1.0 + 1e-9, 1.0),
    "both far up": (np.inf, np.inf),
    "negative": (-1.0, 1.0),
    "both zero": (0.0, 0.0),
    "NaN floor": (np.nan, 2.0),
    "NaN ceiling": (0.5, np.nan),
}


def test_the_referees_wrong_answer_is_not_certified():
    # value .1321 where the least is .0457: the line of floor 5 and ceiling 1 is below nothing
    draft, target = REFEREES_PAIR
    point = solve_pareto(draft, target, divergence="kl").at(rejection=0.15)
    wrong = replace(
        point,
        acceptance=np.full(3, 0.85),
        residual=target,
        floor=np.asarray(5.0),
        ceiling=np.asarray(1.0),
    ).certificate
    assert_close(wrong.value, 0.1321088938116104, "mass")
    assert_close(point.divergence, 0.55 * np.log(1.375) + 0.45 * np.log(0.75), "mass")
    assert float(wrong.bound) == 0.0
    assert not wrong.holds()


@every_kind
@pytest.mark.parametrize("levels", NO_LEVELS.values(), ids=NO_LEVELS.keys())
def test_no_levels_that_are_no_pair_prove_anything(name, levels):
    for seed in range(2):
        pair = random_pair(seed, vocab=8)
        point = solve_pareto(*pair, divergence=MEASURES[name], rejection=0.0).at(rejection=0.4 * tv(*pair))
        wrong = replace(point, floor=np.asarray(levels[0]), ceiling=np.asarray(levels[1])).certificate
        assert float(wrong.bound) <= float(point.divergence) + 1e-12
        if levels[0] != 1.0 + 1e-9 or name == "kl":
            assert not wrong.holds()


@pytest.mark.parametrize("levels", NO_LEVELS.values(), ids=NO_LEVELS.keys())
def test_one_row_without_levels_fails_a_shared_budget(levels):
    point = shared_point()
    floor, ceiling = (np.array(each) for each in (point.floor, point.ceiling))
    floor[1], ceiling[1] = levels
    certificate = replace(point, floor=floor, ceiling=ceiling).certificate
    assert float(certificate.bound) <= point.mean_divergence + 1e-12


def test_a_value_below_its_bound_is_no_proof():
    row = np.asarray(0.0)
    for value, proved in ((0.5, 0.6), (1.0, np.inf), (np.nan, 0.0), (0.0, np.nan)):
        certificate = Certificate(
            value=np.asarray(value), bound=np.asarray(proved), price=row, infeasibility=row, unique=row > 0
        )
        assert not certificate.holds()


@every_divergence
@given(pair=law_pairs(), levels=st.tuples(st.floats(0, 50), st.floats(0, 50)), fraction=st.floats(0.05, 0.95))
def test_levels_in_any_order_never_lift_the_bound_above_the_optimum(name, pair, levels, fraction):
    draft, target = pair
    rejection = fraction * float(tv(draft, target))
    output, *_ = exact(draft, target, rejection)
    value = float(DIVERGENCES[name].value(output, target))
    assert_at_most(bound(name, draft, target, rejection, *levels), value, "divergence")


@pytest.mark.parametrize("weights", [np.array([0.5, 0.6, -0.1]), np.array([np.nan, 0.5, 0.5])])
def test_weights_that_are_none_prove_nothing(weights):
    assert not replace(shared_point(), weights=weights).certificate.holds()


def test_a_draft_that_is_all_accepted_never_rejects_by_rounding():
    # the sum of the draft is 1 - 1e-16; the token without draft mass stays without output
    draft, target = np.array([0.0, 1e-6, 0.9375]), np.array([1e-9, 1e-6, 1.0])
    point = solve_pareto(draft, target, divergence="reverse_chi2", normalise=True).at(rejection=0.0)
    assert float(point.rejection) == 0.0
    assert point.divergence == point.certificate.value == np.inf
    assert point.certificate.holds()


# --- half precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["tv", "kl", "reverse_kl", "chi2", "js"])
def test_right_answers_to_half_precision_laws_are_proved(name, dtype):
    pair = [torch.asarray(law).to(dtype) for law in REFEREES_PAIR]
    point = solve_pareto(*pair, divergence=name).at(rejection=0.15)
    assert point.acceptance.dtype == torch.float32
    assert abs(float(1 - (point.acceptance.double() * point.draft).sum()) - 0.15) < 1e-7
    assert point.certificate.holds()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_right_answers_to_half_precision_laws_of_a_large_vocabulary_are_proved(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(151_936, generator=generator) for _ in range(2)]
    pair = [torch.softmax(each / 0.1, dim=-1).to(dtype) for each in (logits[0], logits[0] + 0.3 * logits[1])]
    for name in ("tv", "kl", "reverse_kl"):
        front = solve_pareto(*pair, divergence=name, rejection=0.0, normalise=True)
        for share in (0.3, 0.7):
            point = front.at(rejection=share * front.total_variation)
            assert point.certificate.holds(), (name, share, point.certificate)


# --- the other certificates ----------------------------------------------------------------------------------------


def test_a_sequence_is_not_proved_by_floors_or_prices_that_are_none():
    rng = np.random.default_rng(0)
    draft, target = (
        chains.MarkovChain(transitions=rng.dirichlet(np.ones(3), 3), initial=np.array([1, 0, 0])) for _ in "ab"
    )
    point = chains.solve_sequence_pareto(draft, target, horizon=4, price=[0.5]).points[0]
    assert point.certificate.holds()
    for change in (
        {"price": -1.0},
        {"price": np.nan},
        {"price": np.inf},
        {"floor": 0 * point.floor},
        {"floor": np.nan * point.floor},
        {"floor": -point.floor},
        {"floor": np.inf * point.floor},
    ):
        with np.errstate(all="ignore"):
            certificate = replace(point, **change).certificate
        assert float(certificate.bound) <= point.divergence + 1e-9, change
        assert not certificate.holds(), change


def test_several_drafts_are_not_proved_by_laws_out_of_reach():
    draft, target = REFEREES_PAIR
    point = solve_multi_draft_pareto(draft, target, drafts=2, divergence="kl").at(rejection=0.05)
    assert point.certificate.holds()
    for law in (target, np.array([0.85, 0.1, 0.05]), np.full(3, np.nan), np.array([1.2, -0.1, -0.1]), target * 1.01):
        wrong = replace(point, output_law=law).certificate
        assert not wrong.holds()
        assert not float(wrong.bound) > float(point.divergence) + 1e-9 or float(wrong.infeasibility) > 1e-6
