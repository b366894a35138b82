"""Controllers of the price: a price per text, and means that are held."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_rounds import random_laws, spent, write

from decoding.policies.price import (
    HIGHEST_PRICE,
    LOWEST_PRICE,
    Controller,
    HoldKL,
    HoldRejection,
    PricedRows,
    SequenceBudget,
)
from solvers.divergences import total_variation
from solvers.errors import InputError
from tradeoff.outcome.token import apply_rule
from tradeoff.rules import CommonPrice

LOG_RANGE = math.log(HIGHEST_PRICE / LOWEST_PRICE)


def test_priced_rows_give_every_text_the_common_price_of_its_own():
    draft, target = (torch.tensor(each) for each in _block(seed=3, texts=3, places=2))
    prices = torch.tensor([0.0, 0.7, 30.0], dtype=torch.float64)
    together = apply_rule(PricedRows(price=prices), draft, target)
    for row, price in enumerate(prices.tolist()):
        alone = apply_rule(CommonPrice(price=price), draft[row], target[row])
        for name in ("acceptance", "residual", "output_law"):
            torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name), rtol=0, atol=1e-12)
    one_place = PricedRows(price=prices).acceptance(draft[:, 0], target[:, 0])
    torch.testing.assert_close(one_place, together.acceptance[:, 0], rtol=0, atol=1e-12)


def test_controllers_are_told_from_rules():
    for controller in (HoldRejection(rejection=0.2), HoldKL(kl_per_token=0.1), SequenceBudget(kl=1.0)):
        assert isinstance(controller, Controller)
    assert not isinstance(CommonPrice(price=1.0), Controller)


def test_priced_rows_refuse_another_batch():
    draft, target = (torch.tensor(each) for each in _block(seed=3, texts=3, places=2))
    with pytest.raises(InputError, match="expected 2 texts, one per price, first; got 3"):
        PricedRows(price=torch.ones(2)).acceptance(draft, target)


def _block(*, seed: int, texts: int, places: int) -> tuple[np.ndarray, np.ndarray]:
    laws = random_laws(seed)
    pairs = [[laws(row, place) for place in range(places)] for row in range(texts)]
    return np.array([[p for p, _ in row] for row in pairs]), np.array([[q for _, q in row] for row in pairs])


def test_places_that_were_not_verified_do_not_count():
    round_ = spent([[0.1, 0.2, math.nan], [0.3, math.nan, math.nan]], rows=(0, 4), verified=[2, 1])
    np.testing.assert_allclose(round_.per_text(round_.rejection), [0.3, 0.3])


@pytest.mark.parametrize("batch", [1, 5])
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_the_price_tells_the_error_of_the_mean_rejection_exactly(batch, rounds):
    held = HoldRejection(rejection=0.4, step=0.01)
    held.start(batch, 100)
    begun = held.price
    for rejections in rounds:
        held.observe(spent([rejections]))
    assert held.attained  # so few positions cannot reach an end
    error = batch * math.log(held.price / begun) / (0.01 * 3 * len(rounds))
    assert np.mean(rounds) / 0.4 - 1 == pytest.approx(error, abs=1e-9)


def test_the_price_tells_the_error_of_the_mean_kl_over_all_tokens_exactly():
    held = HoldKL(kl_per_token=0.05, step=0.02)
    held.start(2, 100)
    begun = held.price
    held.observe(spent([[0, 0], [0, 0]], [[0.1, 0.02], [0.3, 0.9]], rows=(0, 1), verified=[2, 1], emitted=[3, 1]))
    held.observe(spent([[0, 0]], [[0.07, 0.01]], rows=(1,), emitted=[3]))
    mean = (0.1 + 0.02 + 0.3 + 0.07 + 0.01) / 7
    error = 2 * math.log(begun / held.price) / (0.02 * 7)
    assert mean / 0.05 - 1 == pytest.approx(error, abs=1e-12)


@given(st.lists(st.sampled_from(range(4)), min_size=5, max_size=60), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_mean_rejection_obeys_the_bound_in_any_order_of_positions(order, k):
    # at each of the four, lossless decoding rejects more than the target and the highest price less
    target, step = 0.1, 0.5
    pairs = [random_laws(seed, distance=3.0)(0, seed) for seed in range(40)]
    pairs = [pair for pair in pairs if total_variation(*pair) > target][:4]
    assert len(pairs) == 4
    held, seen, total = HoldRejection(rejection=target, step=step), 0, 0.0
    held.start(1, 1000)
    for choice in order:
        draft, law = (torch.tensor(each)[None, None] for each in pairs[choice])
        rejection = float(apply_rule(held.rule([0], k), draft, law).rejection)
        held.observe(spent([[rejection] * k]))
        seen, total = seen + k, total + k * rejection
        overshoot = step * k * (1 / target - 1)
        assert abs(total / seen / target - 1) <= (LOG_RANGE + overshoot) / (step * seen)


HOLDS = {
    "rejection": lambda: HoldRejection(rejection=0.2),
    "kl": lambda: HoldKL(kl_per_token=0.02),
}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_mean_rejection_settles_at_its_target(batch):
    held = HoldRejection(rejection=0.2)
    ledger = write(held, random_laws(1), batch=batch, new_tokens=400, lengths=lambda: 4)
    assert held.attained
    assert ledger.rejection.sum() / ledger.verified.sum() == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_mean_kl_settles_at_its_target(batch):
    held = HoldKL(kl_per_token=0.02)
    ledger = write(held, random_laws(1), batch=batch, new_tokens=200, lengths=lambda: 4)
    assert held.attained
    assert ledger.kl.sum() / ledger.emitted.sum() == pytest.approx(0.02, rel=0.05)
    # what the verified positions alone would say is another number
    assert ledger.kl.sum() / ledger.verified.sum() > 0.0212


def test_a_target_above_what_lossless_decoding_rejects_ends_lossless_and_says_so():
    held = HoldRejection(rejection=0.9)
    ledger = write(held, random_laws(1), batch=1, new_tokens=300, lengths=lambda: 4)
    assert not held.attained
    assert held.price == pytest.approx(LOWEST_PRICE)
    assert ledger.kl[0] / ledger.emitted[0] < 0.005


def test_a_target_below_what_the_draft_must_reject_ends_at_the_highest_price():
    apart = (np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.0, 0.5]))  # half of the draft is off the target's support
    held = HoldRejection(rejection=0.1)
    ledger = write(held, lambda row, position: apart, batch=1, new_tokens=100, lengths=lambda: 2)
    assert not held.attained
    assert held.price == pytest.approx(HIGHEST_PRICE)
    assert ledger.rejection[0] / ledger.verified[0] == pytest.approx(0.5)


def test_a_kl_that_even_the_draft_does_not_cost_ends_at_the_highest_price():
    laws = random_laws(1)
    held = HoldKL(kl_per_token=5.0)
    ledger = write(held, laws, batch=1, new_tokens=100, lengths=lambda: 3)
    assert not held.attained
    assert held.price == pytest.approx(HIGHEST_PRICE)
    assert ledger.rejection[0] < 1


def test_a_stretch_beyond_the_target_is_made_up_for_within_a_call_and_forgiven_by_the_next():
    held = HoldRejection(rejection=0.5, step=1.0)
    held.start(1, 1000)
    held.observe(spent([[0.0] * 40]))
    held.observe(spent([[1.0] * 20]))
    assert not held.attained  # still owes 20 positions
    held.start(1, 1000)
    assert held.attained
    assert held.price == pytest.approx(LOWEST_PRICE)
    held.observe(spent([[1.0]]))
    assert held.price == pytest.approx(LOWEST_PRICE * math.e)


@pytest.mark.parametrize("kind", HOLDS)
def test_a_held_price_is_common_to_the_texts_and_carried_on(kind):
    held = HOLDS[kind]()
    held.start(6, 10)
    assert held.rule([1, 4, 5], 2).price.tolist() == [held.price] * 3
    held.observe(spent([[0.9, 0.9]], [[0.5, 0.5]], rows=(4,)))
    moved = held.price
    held.start(2, 10)
    assert held.price == pytest.approx(moved)


def test_too_much_rejection_raises_the_price_and_too_much_kl_lowers_it():
    for kind, sign in (("rejection", 1), ("kl", -1)):
        held = HOLDS[kind]()
        held.start(1, 10)
        before = held.price
        held.observe(spent([[0.9]], [[0.9]]))
        assert sign * (held.price - before) > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HoldRejection(rejection=0.0), "rejection: expected a number in"),
        (lambda: HoldRejection(rejection=1.0), "rejection: expected a number in"),
        (lambda: HoldRejection(rejection=math.nan), "rejection: expected a number in"),
        (lambda: HoldRejection(rejection=0.1, price=1e-5), "price: expected a start"),
        (lambda: HoldRejection(rejection=0.1, step=0.0), "step: expected a number above 0"),
        (lambda: HoldKL(kl_per_token=0.0), "kl_per_token: expected"),
        (lambda: HoldKL(kl_per_token=95.0), "kl_per_token: expected"),
        (lambda: HoldKL(kl_per_token=0.1, step=math.inf), "step: expected a number above 0"),
    ],
)
def test_numbers_outside_their_range_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
