"""A price to every place: against the common price, and against the definition of every place."""

import math

import numpy as np
import pytest

from solvers.errors import InputError
from tradeoff.rule import Block, TokenByToken
from tradeoff.rules import CommonPrice, PricedPlaces, SpeculativeSampling


def _block(count: int, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    draft, target = rng.dirichlet(np.ones(6), count), rng.dirichlet(np.ones(6), count + 1)
    return Block(drafted=tuple(rng.integers(0, 6, count).tolist()), draft=draft, target=target)


def _assert_same(ours, theirs):
    np.testing.assert_allclose(ours.accepted, theirs.accepted, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(ours.following, theirs.following, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("price", [0.3, 2.0, math.inf])
def test_equal_prices_are_the_common_price(count: int, price: float):
    block = _block(count)
    rule = PricedPlaces(prices=(price, price, price))
    _assert_same(rule.verdict(block, ()), TokenByToken(CommonPrice(price=price)).verdict(block, ()))


def test_prices_of_zero_are_speculative_sampling():
    block = _block(4)
    _assert_same(PricedPlaces(prices=(0.0,)).verdict(block, ()), TokenByToken(SpeculativeSampling()).verdict(block, ()))


def test_every_place_has_its_own_price_and_a_longer_block_the_last():
    block, prices = _block(4, seed=1), (1.5, 0.7, 0.2)
    verdict, reached = PricedPlaces(prices=prices).verdict(block, ()), 1.0
    for place, price in enumerate((*prices, 0.2)):
        rule = CommonPrice(price=price)
        draft, target = block.draft[place], block.target[place]
        kept = rule.acceptance(draft, target)[block.drafted[place]]
        assert verdict.accepted[place] == pytest.approx(reached * (1 - kept), abs=1e-14)
        np.testing.assert_allclose(verdict.following[place], rule.residual(draft, target), atol=1e-13)
        reached *= kept
    assert verdict.accepted[4] == pytest.approx(reached, abs=1e-14)


@pytest.mark.parametrize("prices", [(), (-1.0,), (math.nan,), (True,), 0.5, [0.5]])
def test_prices_that_are_none_are_refused(prices):
    with pytest.raises(InputError, match="prices: expected a tuple"):
        PricedPlaces(prices=prices)
