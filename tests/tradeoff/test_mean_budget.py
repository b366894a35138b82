"""One budget for many positions: against every transfer between two rows, and against simpler ways to spend it."""

import tracemalloc

import numpy as np
import pytest
import torch
from laws import BACKENDS, KINDS, MEASURES, random_pair, tv
from tolerances import assert_at_most, assert_close, tolerance

from solvers.arrays import to_numpy
from solvers.collection import split_divergence, split_rejection
from solvers.sorted_front import SortedFront
from tradeoff import solve_pareto

EQUAL = random_pair(5, vocab=6)[0]
ROWS = [random_pair(0, vocab=6), random_pair(1, vocab=6), random_pair(2, vocab=6, masked=True), (EQUAL, EQUAL)]
DRAFT, TARGET = (np.stack([pair[side] for pair in ROWS]) for side in (0, 1))
TV = tv(DRAFT, TARGET)
LEAK = np.where(TARGET > 0, 0.0, DRAFT).sum(-1)
WEIGHTS = np.array([0.4, 0.1, 0.3, 0.2])
every_kind = pytest.mark.parametrize("name", KINDS)


def every_kind_at(*fractions):
    """Every kind once, and every fraction with every few of them."""
    cases = [(name, fractions[place % len(fractions)]) for place, name in enumerate(KINDS)]
    return pytest.mark.parametrize(("name", "fraction"), cases)


strictly_convex = pytest.mark.parametrize("name", [name for name in KINDS if MEASURES[name].strictly_convex])


def front_of(name):
    return SortedFront(DRAFT, TARGET, MEASURES[name])


def shared(name, weights=None):
    return solve_pareto(DRAFT, TARGET, divergence=MEASURES[name], budget="mean", weights=weights, rejection=1.0)


def transfers(rejection, weights):
    """Every budget-neutral move of rejection from one row to another, large and small."""
    for giver, taker in np.ndindex(4, 4):
        if giver == taker:
            continue
        most = min(weights[giver] * rejection[giver], weights[taker] * (TV[taker] - rejection[taker]))
        for share in (1.0, 0.3, 1e-2, 1e-4):
            moved = rejection.copy()
            moved[giver] -= share * most / weights[giver]
            moved[taker] += share * most / weights[taker]
            yield moved.clip(0.0, TV)


def test_the_rows_hold_what_they_should():
    assert LEAK[2] > 0.1
    assert TV[3] == 0
    assert (TV[:3] > 0.2).all()


@every_kind_at(0.35, 0.8)
def test_no_transfer_between_two_rows_lowers_the_mean_divergence(name, fraction):
    front, mean = front_of(name), fraction * float(WEIGHTS @ TV)
    rejection = split_rejection(front, WEIGHTS[:, None], mean).ravel()
    assert_close(float(WEIGHTS @ rejection), mean, "mass")
    assert_at_most(rejection, TV, "mass")
    best = float(WEIGHTS @ front.least_divergence(rejection[:, None]).ravel())
    assert np.isfinite(best)
    moves = np.stack(list(transfers(rejection, WEIGHTS)), axis=-1)
    assert_at_most(best, WEIGHTS @ front.least_divergence(moves), "divergence")


@every_kind_at(0.2, 0.7)
def test_a_mean_divergence_is_spent_exactly_and_no_split_rejects_less(name, fraction):
    front = front_of(name)
    # finite in every divergence: what rejecting 40 % of every TV, but all of the leak, would cost
    rejections = np.maximum(0.4 * TV, LEAK)[:, None]
    mean = fraction * float(WEIGHTS @ front.least_divergence(rejections).ravel())
    rejection = split_divergence(front, WEIGHTS[:, None], mean).ravel()
    assert_close(WEIGHTS @ front.least_divergence(rejection[:, None]).ravel(), mean, "divergence")
    # the same rejection cannot buy a smaller divergence
    again = split_rejection(front, WEIGHTS[:, None], float(WEIGHTS @ rejection))
    assert_close(WEIGHTS @ front.least_divergence(again).ravel(), mean, "divergence")


@every_kind
def test_every_answer_is_certified(name):
    front = shared(name)
    widest = float(front.total_variation)
    for question in (
        *({"rejection": fraction * widest} for fraction in (0.35, 0.9)),
        {"rejection": 1.0},
        *({"divergence": limit} for limit in (0.0, 0.05)),
        *({"price": price} for price in (0.0, 0.5, 2.5)),
    ):
        if name == "kinked" and question.get("price", 0.0) > 1:
            continue  # all rows stop at corners whose prices the slopes of the pieces do not name
        point = front.at(**question)
        assert point.certificate.holds(tolerance("divergence")), (question, point.certificate)
        assert_close(point.certificate.value, point.mean_divergence, "divergence")
        if "rejection" in question:
            assert_close(point.mean_rejection, min(question["rejection"], widest), "mass")
        if "divergence" in question:
            assert_at_most(point.mean_divergence, question["divergence"], "divergence")


@strictly_convex
def test_rows_strictly_inside_their_fronts_pay_one_price(name):
    for fraction in (0.4, 0.8):
        point = shared(name, WEIGHTS).at(rejection=fraction * float(WEIGHTS @ TV))
        at_leak = (LEAK > 0) & (np.abs(point.rejection - LEAK) < 1e-9)
        inside = (point.rejection > 1e-9) & (point.rejection < TV - 1e-9) & ~at_leak
        assert inside.sum() >= 2
        price = point.price[inside][0]
        assert_close(point.price[inside], np.full(inside.sum(), price), "search")
        # a row that rejects nothing would pay less for more, and so would one that stops where its leak ends
        idle = (point.rejection <= 1e-9) | at_leak
        assert_at_most(point.price[idle], np.full(idle.sum(), price), "search")


def test_in_tv_every_split_is_as_good_and_the_mean_falls_one_for_one():
    front = shared("tv", WEIGHTS)
    for fraction in (0.0, 0.3, 1.0):
        point = front.at(rejection=fraction * float(front.total_variation))
        assert_close(point.mean_divergence + point.mean_rejection, front.total_variation, "mass")
        back = front.at(divergence=point.mean_divergence)
        assert_close(back.mean_rejection, point.mean_rejection, "mass")


@every_kind
def test_without_a_budget_nothing_is_rejected_and_with_all_of_it_nothing_is_left(name):
    front = shared(name, WEIGHTS)
    none, all_of_it, more = (front.at(rejection=each) for each in (0.0, float(front.total_variation), 1.0))
    assert_close(none.output_law, DRAFT, "mass")
    assert_close(front.at(divergence=np.inf).output_law, DRAFT, "mass")
    for point in (all_of_it, more, front.at(divergence=0.0)):
        assert_close(point.rejection, TV, "mass")
        assert_close(point.output_law, TARGET, "mass")
        assert_close(point.mean_divergence, 0.0, "divergence")


@pytest.mark.parametrize("name", ["kl", "chi2"])
def test_a_budget_below_the_leak_leaves_an_infinite_divergence_that_nothing_beats(name):
    front = shared(name, WEIGHTS)
    mean = 0.5 * float(WEIGHTS @ LEAK)
    point = front.at(rejection=mean)
    assert point.mean_divergence == point.certificate.bound == np.inf
    assert_at_most(point.mean_rejection, mean, "mass")
    assert point.certificate.holds()
    enough = front.at(rejection=1.01 * float(WEIGHTS @ LEAK))
    assert np.isfinite(enough.mean_divergence)
    assert enough.certificate.holds(tolerance("divergence"))


@every_kind
def test_a_row_of_twice_the_weight_is_two_rows(name):
    once = solve_pareto(
        DRAFT[:2], TARGET[:2], divergence=MEASURES[name], budget="mean", weights=[2, 1], rejection=1.0
    ).at(rejection=0.2)
    rows = [0, 0, 1]
    twice = solve_pareto(DRAFT[rows], TARGET[rows], divergence=MEASURES[name], budget="mean", rejection=1.0).at(
        rejection=0.2
    )
    assert_close(once.mean_divergence, twice.mean_divergence, "divergence")
    if MEASURES[name].strictly_convex:
        assert_close(once.rejection[rows], twice.rejection, "search")


def test_a_row_of_weight_zero_changes_nothing():
    with_it = shared("kl", [0.5, 0.0, 0.3, 0.2]).at(rejection=0.3)
    rows = [0, 2, 3]
    without = solve_pareto(DRAFT[rows], TARGET[rows], divergence="kl", budget="mean", weights=[5, 3, 2], rejection=1.0)
    assert_close(with_it.mean_divergence, without.at(rejection=0.3).mean_divergence, "divergence")
    assert_close(with_it.rejection[rows], without.at(rejection=0.3).rejection, "search")
    assert with_it.certificate.holds(tolerance("divergence"))


@pytest.mark.parametrize("name", ["tv", "kl", "hellinger"])
def test_the_grid_is_the_front_of_the_means(name):
    fractions = np.array([0.35, 0.6, 0.8, 1.0])
    front = shared(name)
    grid = solve_pareto(
        DRAFT, TARGET, divergence=MEASURES[name], budget="mean", rejection=fractions * float(front.total_variation)
    )
    assert grid.rejection.shape == grid.divergence.shape == grid.price.shape == (4,)
    for at in range(4):
        point = front.at(rejection=float(grid.rejection[at]))
        assert_close(grid.divergence[at], point.mean_divergence, "divergence")
    # convex, and the price at every point is a subgradient
    for at in range(3):
        line = grid.divergence[at] - grid.price[at] * (grid.rejection - grid.rejection[at])
        assert_at_most(line, grid.divergence, "search")


def test_one_pair_of_laws_with_a_mean_budget_is_the_pair_alone():
    pair = random_pair(1, vocab=6)
    alone = solve_pareto(*pair, divergence="kl", rejection=0.0).at(rejection=0.2)
    mean = solve_pareto(*pair, divergence="kl", budget="mean", rejection=0.0).at(rejection=0.2)
    assert_close(mean.output_law, alone.output_law, "divergence")
    assert mean.rejection.shape == ()


@pytest.mark.parametrize("convert", [BACKENDS["numpy"], BACKENDS["torch"]], ids=["numpy", "torch"])
def test_positions_of_any_shape_share_a_budget(convert):
    square = [convert(law.reshape(2, 2, 6)) for law in (DRAFT, TARGET)]
    front = solve_pareto(*square, divergence="kl", budget="mean", weights=WEIGHTS.reshape(2, 2), rejection=[0.3])
    point = front.at(rejection=0.3)
    assert tuple(point.rejection.shape) == tuple(point.floor.shape) == (2, 2)
    flat = shared("kl", WEIGHTS).at(rejection=0.3)
    assert_close(to_numpy(point.rejection).ravel(), flat.rejection, "search")
    assert_close(front.divergence[0], flat.mean_divergence, "divergence")
    assert point.certificate.holds(tolerance("divergence"))


# --- simpler ways --------------------------------------------------------------------------------------------


@every_kind_at(0.4, 0.8)
def test_equal_budgets_and_a_common_ceiling_are_never_better(name, fraction):
    front = shared(name)
    mean = fraction * float(front.total_variation)
    found = front.alternatives(rejection=mean)
    assert_close(found.rejection, mean, "mass")
    assert_close(found.common_price, front.at(rejection=mean).mean_divergence, "divergence")
    for value in (found.equal_budgets, found.common_ceiling):
        assert_at_most(found.common_price, value, "divergence")
    assert min(found.gain.values()) >= 1 - tolerance("divergence")


def test_the_alternatives_are_what_they_say():
    front = shared("hellinger", WEIGHTS)
    mean = 0.5 * float(front.total_variation)
    found, rows = front.alternatives(rejection=mean), front_of("hellinger")
    # equal budgets: the level is the one that spends the mean
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if WEIGHTS @ np.minimum(middle, TV) < mean else (low, middle)
    equal = rows.least_divergence(np.minimum(low, TV)[:, None]).ravel()
    assert_close(found.equal_budgets, WEIGHTS @ equal, "divergence")
    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        spent = np.maximum(DRAFT - np.exp(middle) * TARGET, 0).sum(-1)
        low, high = (middle, high) if WEIGHTS @ spent > mean else (low, middle)
    spent = np.maximum(DRAFT - np.exp(high) * TARGET, 0).sum(-1)
    assert_close(found.common_ceiling, WEIGHTS @ rows.least_divergence(spent[:, None]).ravel(), "search")
    assert found.gain == {
        "equal_budgets": found.equal_budgets / found.common_price,
        "common_ceiling": found.common_ceiling / found.common_price,
    }
    assert min(found.gain.values()) > 1.005


@pytest.mark.parametrize("rejection", [float(WEIGHTS @ TV), 1.0])
def test_where_all_ways_are_lossless_nothing_is_gained(rejection):
    found = shared("kl", WEIGHTS).alternatives(rejection=rejection)
    assert_close([found.common_price, found.equal_budgets, found.common_ceiling], np.zeros(3), "divergence")


def test_alternatives_take_torch_laws():
    front = solve_pareto(
        *(torch.asarray(law) for law in (DRAFT, TARGET)), divergence="kl", budget="mean", rejection=1.0
    )
    expected = shared("kl").alternatives(rejection=0.4)
    found = front.alternatives(rejection=0.4)
    for name in ("rejection", "common_price", "equal_budgets", "common_ceiling"):
        assert_close(getattr(found, name), getattr(expected, name), "divergence")


def test_a_shared_budget_needs_a_few_arrays_and_works_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    draft, target = rng.dirichlet(np.full(5000, 0.1), size=(2, 8))  # few pieces: tracing takes its time call by call
    whole = solve_pareto(draft, target, divergence="kl", budget="mean", rejection=0.1)
    expected = whole.at(rejection=0.2)
    monkeypatch.setattr("solvers.arrays.PIECE", 5000)
    given = draft.nbytes + target.nbytes
    tracemalloc.start()
    front = solve_pareto(draft, target, divergence="kl", budget="mean", rejection=0.1)
    solved = tracemalloc.get_traced_memory()[1] / given
    tracemalloc.reset_peak()
    point = front.at(rejection=0.2)
    found = tracemalloc.get_traced_memory()[1] / given
    tracemalloc.reset_peak()
    assert point.certificate.holds(tolerance("divergence"))
    proved = tracemalloc.get_traced_memory()[1] / given
    tracemalloc.stop()
    assert solved < 5, f"{solved:.1f} times the laws that came in"
    assert max(found, proved) < 8, f"{found:.1f} and {proved:.1f} times the laws that came in"
    for name in ("acceptance", "residual", "output_law", "rejection", "divergence"):
        np.testing.assert_array_equal(getattr(point, name), getattr(expected, name))
    np.testing.assert_array_equal(front.divergence, whole.divergence)
