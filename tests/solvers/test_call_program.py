"""The price per call: against every schedule on a grid, written out from the definition of a round."""

import functools
import itertools
import math

import numpy as np
import pytest

from solvers.call_program import call_prices, improved, measured
from solvers.closed_form import ratio_clip_at_price


def _laws(seed: int, places: int, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.random.default_rng(seed).dirichlet(np.ones(4), (2, places, count)))  # type: ignore[return-value]


def _curve(draft: np.ndarray, target: np.ndarray):
    """Mean KL and rejection of the priced laws at a place, from the laws themselves."""

    @functools.cache  # a grid asks for the same prices again and again
    def place(index: int, price: float) -> tuple[float, float]:
        p, q = draft[index % len(draft)], target[index % len(draft)]
        clip = ratio_clip_at_price(p, q, price)
        law = clip.acceptance * p
        rejected = 1 - law.sum(axis=-1)
        law = law + rejected[:, None] * clip.residual
        ratio = np.where(law > 0, law / np.where(q > 0, q, 1.0), 1.0)
        return float((law * np.log(ratio)).sum(axis=-1).mean()), float(rejected.mean())

    return place


def _cost(place, prices, mu: float) -> float:
    reached, nats, tokens = 1.0, 0.0, 1.0
    for index, price in enumerate(prices):
        kl, rejection = place(index, price)
        nats += reached * kl
        reached *= 1 - rejection
        tokens += reached
    return (nats + mu) / tokens


@pytest.mark.parametrize("mu", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_prices_on_a_grid_cost_less(mu: float, seed: int):
    place = _curve(*_laws(seed, 3))
    found = call_prices(place, 3, mu)
    assert found.cost == pytest.approx(_cost(place, found.prices, mu), rel=1e-12)
    grid = np.append(found.prices, [0.0, *np.geomspace(0.02, 8.0, 7)])
    assert min(_cost(place, each, mu) for each in itertools.product(grid, repeat=3)) >= found.cost - 1e-12


@pytest.mark.parametrize("mu", [0.01, 0.4, 30.0])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_the_bound_meets_the_cost(mu: float, k: int):
    found = call_prices(_curve(*_laws(2, 3)), k, mu)
    assert found.bound == pytest.approx(found.cost, abs=1e-11 * (1 + mu))


@pytest.mark.parametrize("prices", [(0.0, 0.0, 0.0), (3.0, 0.1, 0.1), (0.1, 0.1, 9.0)])
def test_prices_that_are_not_the_best_prove_a_bound_below_the_best_and_have_a_gap(prices):
    place = _curve(*_laws(2, 3))
    best, other = call_prices(place, 3, 0.4), measured(place, np.array(prices), 0.4)
    assert other.cost == pytest.approx(_cost(place, prices, 0.4), rel=1e-12)
    assert other.bound < best.cost < other.cost - 1e-3


@pytest.mark.parametrize("k", [1, 2, 4])
def test_prices_fall_where_places_are_alike_and_the_last_is_the_cost(k: int):
    found = call_prices(_curve(*_laws(3, 1)), k, 0.3)
    assert np.all(np.diff(found.prices) <= 0)
    assert found.prices[-1] == pytest.approx(found.cost, rel=1e-9)


def test_every_step_lowers_the_cost():
    place = _curve(*_laws(4, 2))
    costs = [_cost(place, np.zeros(4), 0.5)]
    for _ in range(8):
        costs.append(_cost(place, improved(place, 4, costs[-1])[0], 0.5))
    assert np.all(np.diff(costs) <= 1e-15)
    assert costs[-1] == pytest.approx(call_prices(place, 4, 0.5).cost, rel=1e-12)


def test_no_price_per_call_is_lossless():
    found = call_prices(_curve(*_laws(5, 2)), 3, 0.0)
    assert found.cost == pytest.approx(0.0, abs=1e-14)
    assert np.all(found.prices <= 1e-12)


def test_without_a_draft_a_token_costs_a_call():
    found = call_prices(_curve(*_laws(6, 1)), 0, 0.7)
    assert (found.cost, found.tokens_per_call, found.bound) == (0.7, 1.0, 0.7)


@pytest.mark.parametrize("one_hot", [False, True])
def test_equal_laws_are_accepted_whole_at_no_nats(one_hot: bool):
    laws = np.eye(3)[None] if one_hot else np.random.default_rng(7).dirichlet(np.ones(3), (1, 4))
    found = call_prices(_curve(laws, laws), 4, 1.0)
    assert math.isclose(found.tokens_per_call, 5.0, rel_tol=1e-9)
    assert found.cost == pytest.approx(0.2, rel=1e-9)


def test_disjoint_laws_cost_a_call_a_token():
    laws = np.array([[[1.0, 0.0]]])
    found = call_prices(_curve(laws, laws[..., ::-1]), 4, 1.0)
    assert found.cost == pytest.approx(1.0, rel=1e-12)
