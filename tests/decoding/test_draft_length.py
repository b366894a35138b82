"""The draft length: against the brute-force optimum, with acceptance and costs given or learnt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.policies.draft_length import FIRST_LENGTH, DraftLength, StepCosts
from decoding.policies.stopwatch import Seconds
from solvers.errors import InputError

COSTS = StepCosts(draft=0.1, target=1.0, target_per_token=0.02, rest=0.05)


def seconds_of(costs: StepCosts, k: int) -> Seconds:
    return Seconds(
        draft=k * costs.draft,
        target=costs.target + k * costs.target_per_token,
        verify=0.75 * costs.rest,
        rest=0.25 * costs.rest,
    )


def rates(acceptance: np.ndarray, costs: StepCosts, most: int) -> list[float]:
    """Expected tokens per second of every length, by enumeration of how many tokens a round keeps."""
    found = []
    for k in range(1, most + 1):
        tokens = 0.0
        for kept in range(k + 1):
            chance = np.prod(acceptance[:kept]) * (1 - acceptance[kept] if kept < k else 1.0)
            tokens += (kept + 1) * chance
        found.append(tokens / seconds_of(costs, k).total)
    return found


def kept_of(acceptance: np.ndarray, k: int, rng: np.random.Generator) -> int:
    rejected = rng.random(k) >= acceptance[:k]
    return int(rejected.argmax()) if rejected.any() else k


def run(policy, acceptances, *, costs=COSTS, batch=1, seed=0, noise=0.0) -> list[int]:
    """Lengths chosen over rounds with these acceptances, each `[most]`."""
    rng, chosen = np.random.default_rng(seed), []
    for acceptance in acceptances:
        k = policy.choose()
        true = seconds_of(costs, k)
        draft, target, verify, rest = (
            value * np.exp(noise * rng.normal()) for value in (true.draft, true.target, true.verify, true.rest)
        )
        policy.observe(
            drafted=k,
            accepted=[kept_of(acceptance, k, rng) for _ in range(batch)],
            seconds=Seconds(draft=draft, target=target, verify=verify, rest=rest),
        )
        chosen.append(k)
    return chosen


def efficiency(chosen: list[int], acceptances: list[np.ndarray], costs: StepCosts, most: int) -> float:
    """Mean tokens per second over the best possible."""
    found = []
    for k, acceptance in zip(chosen, acceptances, strict=True):
        rate = rates(acceptance, costs, most)
        found.append(rate[k - 1] / max(rate))
    return float(np.mean(found))


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), max_size=8),
    st.tuples(*[st.floats(0.001, 2.0)] * 4),
)
@settings(deadline=None)
def test_the_choice_is_the_brute_force_optimum_of_what_is_believed(rounds, numbers):
    costs = StepCosts(draft=numbers[0], target=numbers[1], target_per_token=numbers[2], rest=numbers[3])
    policy = DraftLength(most=6, costs=costs)
    for accepted in rounds:
        policy.observe(drafted=6, accepted=accepted, seconds=seconds_of(costs, 6))
    rate = rates(policy.acceptance, costs, 6)
    assert rate[policy.choose() - 1] == pytest.approx(max(rate), rel=1e-12)


@pytest.mark.parametrize("batch", [1, 16])
def test_what_is_believed_is_the_conditional_acceptance_of_every_place(batch):
    true = np.array([0.9, 0.5, 0.8, 0.3])
    policy = DraftLength(most=4, costs=StepCosts(draft=0.0, target=1.0))
    run(policy, [true] * 400, batch=batch)
    tolerance = 0.15 if batch == 16 else 0.35
    np.testing.assert_allclose(policy.acceptance, true, atol=tolerance)
    assert abs(policy.acceptance[0] - 0.9) < abs(policy.acceptance[0] - 0.5)


def test_accepted_lengths_are_counted_place_by_place():
    policy = DraftLength(most=4, costs=COSTS)
    for _ in range(300):  # forgets what it began with
        policy.observe(drafted=3, accepted=[3, 1, 0, 1] * 100, seconds=seconds_of(COSTS, 3))
    np.testing.assert_allclose(policy.acceptance, [3 / 4, 1 / 3, 1.0, 1.0], atol=0.01)


def test_a_place_that_was_not_tried_for_long_is_taken_to_be_like_the_one_before_it():
    policy = DraftLength(most=3, costs=COSTS)
    for _ in range(50):
        policy.observe(drafted=3, accepted=[1] * 10, seconds=seconds_of(COSTS, 3))
    assert policy.acceptance[1] < 0.1
    for _ in range(400):
        policy.observe(drafted=1, accepted=[1] * 10, seconds=seconds_of(COSTS, 1))
    np.testing.assert_allclose(policy.acceptance, 1.0, atol=0.01)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("draft", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("measured", [True, False])
def test_a_steady_acceptance_runs_near_the_optimum(rate, draft, measured):
    costs = StepCosts(draft=draft, target=1.0, target_per_token=0.02, rest=0.05)
    acceptances = [np.full(10, rate)] * 400
    policy = DraftLength(most=10, costs=None if measured else costs)
    chosen = run(policy, acceptances, costs=costs, noise=0.1)
    assert efficiency(chosen, acceptances, costs, 10) > 0.95


def test_it_follows_a_step_change_of_acceptance():
    acceptances = [np.full(10, rate) for rate in (0.3, 0.95, 0.3) for _ in range(150)]
    chosen = run(DraftLength(most=10), acceptances)
    for stretch, few in ((slice(100, 150), True), (slice(250, 300), False), (slice(400, 450), True)):
        late = np.mean(chosen[stretch])
        assert late < 3 if few else late > 7
    assert efficiency(chosen, acceptances, COSTS, 10) > 0.9


@pytest.mark.parametrize("batch", [4, 32])
def test_texts_of_a_batch_that_differ_are_judged_together(batch):
    # half of the texts keep nothing, half keep all: the optimum is that of the mixture, not of its mean acceptance
    costs = StepCosts(draft=0.05, target=1.0)
    policy = DraftLength(most=8, costs=costs)
    for _ in range(200):
        k = policy.choose()
        policy.observe(drafted=k, accepted=[k, 0] * (batch // 2), seconds=seconds_of(costs, k))
    mixture = [(0.5 + 0.5 * (k + 1)) / seconds_of(costs, k).total for k in range(1, 9)]
    assert policy.choose() == 1 + int(np.argmax(mixture)) == 8
    assert 1 + int(np.argmax(rates(np.full(8, 0.5), costs, 8))) < 8


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(
    ("costs", "best"),
    [
        (StepCosts(draft=0.0, target=1.0), 7),
        (StepCosts(draft=1.0, target=0.0), 1),
        (StepCosts(draft=1e6, target=1.0), 1),
        (StepCosts(draft=0.0, target=0.0, rest=1.0), 7),
        (StepCosts(draft=0.0, target=0.01, target_per_token=1.0), 1),
    ],
)
def test_extreme_costs_decide_alone(costs, best, measured):
    policy = DraftLength(most=7, costs=None if measured else costs)
    for k in (1, 7, 3):
        policy.observe(drafted=k, accepted=[1], seconds=seconds_of(costs, k))
    assert policy.choose() == best


def test_measured_costs_are_the_true_ones_in_spite_of_graph_captures_and_pauses():
    policy = DraftLength(most=8)
    for index, k in enumerate([4, 2, 8, 5, 1, 6, 3, 7] * 3):
        true, slow = seconds_of(COSTS, k), 50.0 if index in (0, 10, 13) else 1.0
        policy.observe(
            drafted=k,
            accepted=[1],
            seconds=Seconds(
                draft=slow * true.draft, target=slow * true.target, verify=true.verify, rest=slow * true.rest
            ),
        )
    assert_costs(policy.costs, COSTS)


def assert_costs(found: StepCosts | None, expected: StepCosts) -> None:
    assert found is not None
    for name in ("draft", "target", "target_per_token", "rest"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_exact_seconds_give_the_line_of_the_target_back():
    policy = DraftLength(most=8)
    for k in (4, 2, 8, 5):
        policy.observe(drafted=k, accepted=[1], seconds=seconds_of(COSTS, k))
    assert_costs(policy.costs, COSTS)


def test_a_change_of_costs_is_followed():
    policy = DraftLength(most=8)
    acceptances = [np.full(8, 0.8)] * 200
    run(policy, acceptances, costs=StepCosts(draft=0.01, target=1.0))
    many = policy.choose()
    run(policy, acceptances[:80], costs=StepCosts(draft=1.0, target=1.0))
    assert many > 5
    assert policy.choose() < 3


def test_before_a_round_was_measured_a_fixed_length_is_taken():
    assert DraftLength(most=8).choose() == FIRST_LENGTH
    assert DraftLength(most=2).choose() == DraftLength(most=2).most == 2
    assert DraftLength(most=8).costs is None


def test_a_clock_that_says_zero_does_no_harm():
    policy = DraftLength(most=4)
    policy.observe(drafted=2, accepted=[1], seconds=Seconds(draft=0.0, target=0.0, verify=0.0, rest=0.0))
    assert 1 <= policy.choose() <= 4


def test_with_given_costs_the_choices_depend_on_acceptances_alone():
    acceptances = [np.full(8, 0.7)] * 100
    quick = run(DraftLength(most=8, costs=COSTS), acceptances)
    slow = run(DraftLength(most=8, costs=COSTS), acceptances, costs=StepCosts(draft=9.0, target=0.1))
    assert quick == slow
    assert len(set(quick)) > 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DraftLength(most=0), "most: expected a draft length, a whole number of at least 1; got 0"),
        (lambda: StepCosts(draft=-1.0, target=3.0), "costs: expected seconds"),
        (lambda: StepCosts(draft=0.0, target=0.0), "costs: expected seconds"),
        (lambda: StepCosts(draft=0.1, target=float("inf")), "costs: expected seconds"),
        (lambda: StepCosts(draft=0.1, target=float("nan")), "costs: expected seconds"),
    ],
)
def test_numbers_outside_their_range_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
