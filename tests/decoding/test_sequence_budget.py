"""A hard total of KL per text: the worst case at a price, no overspending, and the law of the text by enumeration."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import EXTREME_PAIRS, law_pairs, laws
from simulated_rounds import random_laws, spent, write

from decoding.policies.price import HIGHEST_PRICE, Controller, SequenceBudget, price_within, worst_kl
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError
from tradeoff.outcome.token import apply_rule
from tradeoff.rules import CommonPrice

KL = DIVERGENCES["kl"].value


@pytest.mark.parametrize("price", [1e-3, 0.01, 0.1, 1.0, 5.0, 20.0])
def test_the_worst_case_is_attained_by_a_pair_of_two_tokens(price):
    floor = -np.expm1(-price) / price
    high = (1 - floor) / -np.expm1(-price)
    seldom = high * np.exp(-price) / floor
    draft, target = np.array([1.0, 0.0]), np.array([seldom, 1 - seldom])
    outcome = apply_rule(CommonPrice(price=price), draft, target)
    assert outcome.kl == pytest.approx(worst_kl(np.array(price)), rel=1e-4 if price < 0.02 else 1e-9)


@given(law_pairs(), st.floats(1e-3, 50.0))
def test_no_position_costs_more_than_the_worst_case(pair, price):
    outcome = apply_rule(CommonPrice(price=price), *pair)
    assert outcome.kl <= worst_kl(np.array(price)) + 1e-12


@pytest.mark.parametrize("name", EXTREME_PAIRS)
@pytest.mark.parametrize("price", [1e-4, 0.1, 3.0, HIGHEST_PRICE])
def test_no_extreme_position_costs_more_than_the_worst_case(name, price):
    outcome = apply_rule(CommonPrice(price=price), *EXTREME_PAIRS[name])
    assert outcome.kl <= worst_kl(np.array(price)) + 1e-12


@pytest.mark.parametrize("kl", np.logspace(-11, 1.7, 40))
def test_no_position_costs_more_than_the_allowance_it_was_priced_for(kl):
    # the pair that costs most at the price, decoded at that price: strictly within, and nearly all of it
    price = float(price_within(np.array(kl)))
    floor = -np.expm1(-price) / price
    high = (1 - floor) / -np.expm1(-price)
    seldom = high * np.exp(-price) / floor
    outcome = apply_rule(CommonPrice(price=price), np.array([1.0, 0.0]), np.array([seldom, 1 - seldom]))
    assert kl * (1 - 1e-4) < float(outcome.kl) <= kl


def test_the_worst_case_is_below_both_simple_bounds_and_rises_with_the_price():
    prices = np.concatenate([[0.0], np.logspace(-9, 2, 200)])
    worst = worst_kl(prices)
    assert (worst <= prices**2 / 8).all()
    assert (worst <= prices).all()
    assert (np.diff(worst) > 0).all()


def test_the_price_within_an_allowance_costs_the_allowance():
    allowed = np.concatenate([[0.0], np.logspace(-18, 1.9, 200)])
    prices = price_within(allowed)
    assert (worst_kl(prices) <= allowed * (1 + 1e-10)).all()
    np.testing.assert_allclose(worst_kl(prices), allowed, rtol=1e-5)
    assert price_within(np.array([1e4])) == HIGHEST_PRICE


@given(
    st.lists(st.tuples(laws(4), laws(4)), min_size=1, max_size=5),
    st.sampled_from([1e-6, 1e-3, 0.1, 2.0, 50.0]),
    st.integers(1, 3),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_text_overspends_whatever_the_laws(pairs, kl, batch, seed):
    rng = np.random.default_rng(seed)
    ledger = write(
        SequenceBudget(kl=kl),
        lambda row, position: pairs[(row * 7 + position) % len(pairs)],
        batch=batch,
        new_tokens=int(rng.integers(1, 30)),
        lengths=lambda: int(rng.integers(1, 7)),
        seed=seed,
    )
    assert np.isfinite(ledger.kl).all()
    assert (ledger.kl <= kl).all()


@pytest.mark.parametrize("calm", [0, 10, 40])
@pytest.mark.parametrize("kl", [0.01, 0.3, 4.0])
def test_no_text_overspends_when_the_worst_pair_at_its_own_price_comes_after_calm_ones(calm, kl):
    # knows the price of the round and answers with the two tokens that cost most at it, in every place
    budget, spent_kl, emitted, k = SequenceBudget(kl=kl), 0.0, 0, 5
    budget.start(1, 60)
    while emitted < 60:
        rule = budget.rule([0], k)
        price = float(rule.price[0])
        places = min(k, 60 - emitted)
        worst = float(worst_kl(np.array(price))) if emitted >= calm else 0.0
        budget.observe(spent([[0.0] * places], [[worst] * places]))
        spent_kl, emitted = spent_kl + worst * places, emitted + places
    assert spent_kl <= kl
    assert spent_kl > 0.5 * kl


def test_a_steady_text_spends_nearly_all_of_its_budget_and_evenly():
    kl, tokens = 2.0, 200
    budget = SequenceBudget(kl=kl)
    ledger = write(budget, random_laws(1), batch=3, new_tokens=tokens, lengths=lambda: 4)
    assert (ledger.kl > 0.9 * kl).all()
    np.testing.assert_allclose(budget.left, kl - ledger.kl, atol=1e-9)
    # the crude bound KL <= price would have run at a price of 0.01
    assert all(prices.min() > 0.1 for prices in ledger.prices[:-1])


def test_without_a_budget_every_round_is_lossless():
    ledger = write(SequenceBudget(kl=0.0), random_laws(1), batch=2, new_tokens=20, lengths=lambda: 4)
    assert all((prices == 0).all() for prices in ledger.prices)
    assert (ledger.kl < 1e-12).all()


def test_a_text_does_not_look_at_its_neighbours_and_the_next_batch_begins_anew():
    laws, budget = random_laws(5), SequenceBudget(kl=0.5)
    together, alone = SequenceBudget(kl=0.5), SequenceBudget(kl=0.5)
    together.start(3, 40)
    alone.start(1, 40)
    rng = np.random.default_rng(0)
    for _ in range(6):
        costs = rng.random((3, 2)) * 1e-3
        prices = [c.rule(rows, 2).price for c, rows in ((together, [0, 1, 2]), (alone, [0]))]
        assert prices[0][1] == prices[1][0]
        together.observe(spent(np.zeros((3, 2)), costs, rows=(0, 1, 2)))
        alone.observe(spent(np.zeros((1, 2)), costs[1:2]))
    first = write(budget, laws, batch=2, new_tokens=20, lengths=lambda: 3)
    second = write(budget, laws, batch=2, new_tokens=20, lengths=lambda: 3)
    np.testing.assert_array_equal(first.kl, second.kl)


def test_rows_leave_the_batch_without_disturbing_the_others():
    budget = SequenceBudget(kl=1.0)
    budget.start(3, 30)
    budget.rule([0, 1, 2], 2)
    budget.observe(spent(np.zeros((3, 2)), [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], rows=(0, 1, 2)))
    budget.rule([2, 0], 2)
    budget.observe(spent(np.zeros((2, 2)), [[0.01, 0.01], [0.02, 0.02]], rows=(2, 0)))
    np.testing.assert_allclose(budget.left, [0.76, 0.6, 0.38])


# ---- the law of the text, by enumeration


class Chain:
    """Both laws after every prefix of a text of three tokens, and all texts a controller may write."""

    def __init__(self, *, seed: int, vocab: int = 3, tokens: int = 3) -> None:
        self.vocab, self.tokens, self.seed = vocab, tokens, seed
        self.joint = np.zeros([vocab] * tokens)
        self.totals: list[float] = []
        self.mean_total = 0.0

    def laws(self, prefix: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        draft, target = random_laws(self.seed, vocab=self.vocab)(
            len(prefix), sum(3**i * t for i, t in enumerate(prefix))
        )
        return torch.tensor(draft), torch.tensor(target)

    def target_law(self) -> np.ndarray:
        law = np.ones([self.vocab] * self.tokens)
        for text in np.ndindex(*law.shape):
            law[text] = np.prod([float(self.laws(text[:i])[1][text[i]]) for i in range(self.tokens)])
        return law

    def enumerate(self, controller: Controller, k: int) -> None:
        controller.start(1, self.tokens)
        self._round(controller, (), 1.0, 0.0, k)

    def _round(self, controller: Controller, prefix: tuple[int, ...], chance: float, total: float, k: int) -> None:
        if len(prefix) == self.tokens:
            self.joint[prefix] += chance
            self.totals.append(total)
            self.mean_total += chance * total
            return
        rule = controller.rule([0], k)
        self._place(controller, rule, prefix, [], chance, total, k)

    def _place(self, controller, rule, prefix, kls, chance, total, k):
        draft, target = self.laws(prefix)
        if len(prefix) == self.tokens:
            self._close(controller, prefix, kls, len(kls), chance, total, k)
            return
        if len(kls) == k:
            for token in range(self.vocab):
                self._close(controller, (*prefix, token), kls, k + 1, chance * float(target[token]), total, k)
            return
        outcome = apply_rule(rule, draft[None], target[None])
        kls = [*kls, float(outcome.kl)]
        for token in range(self.vocab):
            kept = chance * float(draft[token] * outcome.acceptance[0, token])
            self._place(controller, rule, (*prefix, token), kls, kept, total, k)
            replaced = chance * float(outcome.rejection * outcome.residual[0, token])
            self._close(controller, (*prefix, token), kls, len(kls), replaced, total, k)

    def _close(self, controller, prefix, kls, emitted, chance, total, k):
        if chance > 0:
            controller = copy.deepcopy(controller)
            controller.observe(spent([[0.0] * len(kls)], [kls], emitted=[emitted]))
            self._round(controller, prefix, chance, total + sum(kls), k)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_enumeration_of_a_lossless_text_is_the_targets_law(k):
    chain = Chain(seed=8)
    chain.enumerate(SequenceBudget(kl=0.0), k)
    np.testing.assert_allclose(chain.joint, chain.target_law(), atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("kl", [0.003, 0.1, 1.0])
def test_the_law_of_the_whole_text_is_within_the_budget(kl, k):
    chain = Chain(seed=8)
    chain.enumerate(SequenceBudget(kl=kl), k)
    assert chain.joint.sum() == pytest.approx(1.0)
    of_the_text = float(KL(chain.joint.ravel(), chain.target_law().ravel()))
    assert 0.05 * kl < of_the_text  # the budget was used
    assert of_the_text <= chain.mean_total + 1e-12
    assert chain.mean_total <= max(chain.totals) <= kl


def test_the_price_of_a_text_falls_as_the_budget_runs_out():
    budget = SequenceBudget(kl=0.2)
    budget.start(1, 20)
    prices = []
    for _ in range(4):
        prices.append(float(budget.rule([0], 1).price[0]))
        budget.observe(spent([[0.5]], [[0.05]]))
    assert all(later < earlier for earlier, later in pairwise(prices))
    assert float(budget.rule([0], 1).price[0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("kl", [-1.0, math.inf, math.nan])
def test_a_budget_outside_its_range_is_refused(kl):
    with pytest.raises(InputError, match="kl: expected nats per text"):
        SequenceBudget(kl=kl)


def test_a_draft_that_is_the_target_costs_nothing_and_runs_at_the_safe_price():
    budget = SequenceBudget(kl=0.4)
    budget.start(1, 20_000)
    for _ in range(300):
        budget.rule([0], 4)
        budget.observe(spent(np.zeros((1, 60))))
    assert float(budget.rule([0], 4).price) == pytest.approx(float(price_within(np.array(0.1))))
    assert budget.left == 0.4


def worst_round(budget: SequenceBudget, places: int, *, part: float = 1.0, bonus: int = 0) -> float:
    """Let a round of one text cost this part of the worst case in every place; its price."""
    price = float(budget.rule([0], places).price)
    cost = part * float(worst_kl(np.array(price)))
    budget.observe(spent([[0.0] * places], [[cost] * places], emitted=[places + bonus]))
    return price


def within(kl: float) -> float:
    return float(price_within(np.array(kl)))


def test_a_text_that_always_costs_the_worst_spends_the_same_per_token_left():
    budget = SequenceBudget(kl=1.0)
    budget.start(1, 50)
    assert worst_round(budget, 4, bonus=1) == pytest.approx(within(1.0 / 50))
    assert worst_round(budget, 4, bonus=1) == pytest.approx(within((1 - 4 / 50) / 45))


def test_the_last_token_may_cost_all_that_is_left_however_long_the_draft():
    budget = SequenceBudget(kl=1.0)
    budget.start(1, 1)
    assert float(budget.rule([0], 8).price) == pytest.approx(within(1.0))


def test_the_share_of_the_worst_case_is_that_of_recent_positions():
    budget = SequenceBudget(kl=1.0)
    budget.start(1, 10_000)
    for part in (1.0, 0.1):
        for _ in range(30):
            worst_round(budget, 4, part=part)
    even = budget.left[0] / (10_000 - 240)
    assert within(even / 0.11) < float(budget.rule([0], 4).price) < within(even / 0.1)


def test_rounding_above_the_worst_case_does_not_count_as_a_share_above_one():
    budget = SequenceBudget(kl=1e-14)
    budget.start(1, 100)
    worst_round(budget, 4, part=5.0)
    assert float(budget.rule([0], 4).price) == pytest.approx(within(float(budget.left[0]) / 96))


def test_what_is_left_is_told_and_not_lent():
    budget = SequenceBudget(kl=1.0)
    budget.start(2, 10)
    budget.left[:] = 0.0
    assert budget.left.tolist() == [1.0, 1.0]
