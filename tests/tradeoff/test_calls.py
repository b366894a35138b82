"""Prices along the block from positions: against rounds enumerated with the rule itself, and at the door."""

import numpy as np
import pytest

import tradeoff
from solvers.errors import InputError
from tradeoff.rules import CommonPrice


def _laws(seed: int = 0, count: int = 6):
    return np.random.default_rng(seed).dirichlet(np.ones(5), (2, count))


def test_the_schedule_is_what_its_prices_do_at_the_positions():
    draft, target = _laws()
    weights = np.arange(6.0)
    found = tradeoff.call_schedule(draft, target, draft_length=3, nats_per_call=0.5, weights=weights)
    reached, nats, tokens = 1.0, 0.0, 1.0
    for price in found.rule.prices:
        outcome = tradeoff.evaluate(CommonPrice(price=price), draft, target)
        nats += reached * np.average(outcome.kl, weights=weights)
        reached *= 1 - np.average(outcome.rejection, weights=weights)
        tokens += reached
    assert found.tokens_per_call == pytest.approx(tokens, rel=1e-9)
    assert found.nats_per_token == pytest.approx(nats / tokens, rel=1e-9)
    assert found.gap == pytest.approx(0.0, abs=1e-10)
    assert found.to_dict()["prices"] == list(found.prices)
    assert "tokens a call" in repr(found)


def test_no_common_price_is_cheaper():
    draft, target = _laws(1)
    found = tradeoff.call_schedule(draft, target, draft_length=4, nats_per_call=0.5)
    for price in np.linspace(0.05, 2.0, 20):
        outcome = tradeoff.evaluate(CommonPrice(price=float(price)), draft, target)
        tokens = ((1 - np.mean(outcome.rejection)) ** np.arange(5)).sum()
        nats = (tokens - (1 - np.mean(outcome.rejection)) ** 4) * np.mean(outcome.kl)
        assert (nats + 0.5) / tokens >= found.solution.cost - 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draft_length": 0}, "draft_length"),
        ({"nats_per_call": -1.0}, "nats_per_call"),
        ({"nats_per_call": 1e4}, "nats_per_call"),
        ({"weights": [1.0]}, "weights"),
    ],
)
def test_what_is_no_question_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        tradeoff.call_schedule(*_laws(), **{"draft_length": 2, "nats_per_call": 1.0, **change})
