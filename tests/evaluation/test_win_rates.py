"""Win rates against enumeration: intervals cover, tests hold their level, needed prompts are enough and no more."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

from decoding.evaluation.bootstrap import Bootstrap
from decoding.evaluation.study.win_rates import (
    detectable,
    from_counts,
    from_preferences,
    from_scores,
    holm,
    prompts_needed,
)
from solvers.errors import InputError

TABLE_1 = {"reward model": (0.53, 0.535, 0.575, 0.525), "GPT-4": (0.545, 0.53, 0.535, 0.55)}
NAN = float("nan")


def of_outcomes(won, tied, lost):
    """One comparison to each prompt."""
    prompts = won + tied + lost
    return from_preferences(
        np.arange(prompts), np.repeat([1.0, 0.5, 0.0], [won, tied, lost]), Bootstrap(prompts, seed=0)
    )


def mass(n, k, rate):
    """P(Bin(n, rate) = k) by definition."""
    return math.comb(n, k) * rate**k * (1 - rate) ** (n - k)


def power_by_summation(n, rate, level):
    """Probability that the exact two-sided sign test's p-value is at most the level."""
    half = [math.comb(n, k) for k in range(n + 1)]
    p_value = [min(1.0, 2 * sum(half[: min(k, n - k) + 1]) / 2**n) for k in range(n + 1)]
    return sum(mass(n, k, rate) for k in range(n + 1) if p_value[k] <= level)


@pytest.mark.parametrize("prompts", [1, 4, 9, 14])
def test_the_majority_interval_covers_the_win_rate_with_ties_by_enumeration_of_all_outcomes(prompts):
    outcomes = [(won, tied, prompts - won - tied) for won in range(prompts + 1) for tied in range(prompts + 1 - won)]
    intervals = [of_outcomes(*outcome).majority for outcome in outcomes]
    for win, tie in product(np.linspace(0, 1, 11), (0.003, 0.03, *np.linspace(0, 1, 11))):
        if win + tie > 1 + 1e-9:
            continue
        lose = max(1 - win - tie, 0.0)
        truth = win + tie / 2
        covered = sum(
            math.comb(prompts, w) * math.comb(prompts - w, t) * win**w * tie**t * lose**x
            for (w, t, x), interval in zip(outcomes, intervals, strict=True)
            if interval.low - 1e-12 <= truth <= interval.high + 1e-12
        )
        assert covered >= 0.95 - 1e-12


def test_without_ties_the_majority_interval_inverts_two_exact_tests_of_two_and_a_half_percent_each():
    interval = of_outcomes(7, 0, 5).majority
    assert sum(mass(12, k, interval.low) for k in range(7, 13)) == pytest.approx(0.025, abs=1e-6)
    assert sum(mass(12, k, interval.high) for k in range(8)) == pytest.approx(0.025, abs=1e-6)
    for won in (0, 3, 12, 115):
        prompts = max(12, won and 200 * (won > 12))
        found = of_outcomes(won, 0, prompts - won).majority
        clopper_pearson = binomtest(won, prompts).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((clopper_pearson.low, clopper_pearson.high), abs=1e-6)


def largest_tail(rate, won, tied, prompts):
    """The largest P(wins + ties / 2 >= observed) over 400 probabilities of a tie, by summation."""
    return max(
        sum(
            math.comb(prompts, w)
            * math.comb(prompts - w, t)
            * (rate - tie / 2) ** w
            * tie**t
            * (1 - rate - tie / 2) ** (prompts - w - t)
            for w in range(prompts + 1)
            for t in range(prompts + 1 - w)
            if 2 * w + t >= 2 * won + tied
        )
        for tie in np.linspace(0, 2 * min(rate, 1 - rate), 400)
    )


@pytest.mark.parametrize(("won", "tied", "lost"), [(2, 3, 1), (0, 5, 0), (6, 1, 2), (1, 6, 2), (0, 1, 0)])
def test_with_ties_the_majority_interval_is_where_no_probability_of_a_tie_makes_the_outcome_likely(won, tied, lost):
    found, prompts = of_outcomes(won, tied, lost).majority, won + tied + lost
    assert largest_tail(found.low, won, tied, prompts) == pytest.approx(0.025, abs=1e-4)
    assert largest_tail(1 - found.high, lost, tied, prompts) == pytest.approx(0.025, abs=1e-4)
    # far tighter than ties as lost on the one side and as won on the other
    assert binomtest(won, prompts).proportion_ci(0.95, method="exact").low < found.low
    assert found.high < binomtest(won + tied, prompts).proportion_ci(0.95, method="exact").high


def test_the_p_value_is_the_sign_test_of_won_against_lost_prompts_by_summation():
    # 8 of 10 decided prompts: 2 (1 + 10 + 45) / 1024, whatever the ties
    assert of_outcomes(8, 0, 2).p_value == pytest.approx(112 / 1024)
    assert of_outcomes(8, 5, 2).p_value == pytest.approx(112 / 1024)
    assert of_outcomes(0, 4, 0).p_value == 1.0


def test_a_prompt_is_won_by_more_than_half_of_its_comparisons_and_tied_at_exactly_half():
    prompt = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 4, 4])
    preference = np.array([1, 1, 0, 1, 0, 0.25, 0.75, 0.5, 0.75, 0.5, 0.25])
    found = from_preferences(prompt, preference, Bootstrap(6, seed=0))
    assert (found.prompts, found.comparisons, found.won, found.tied) == (4, 11, 2, 1)
    assert found.majority.value == 2.5 / 4
    assert found.pairwise is not None
    assert found.pairwise.value == pytest.approx((2 / 3 + 1 / 2 + 2.25 / 4 + 0.75 / 2) / 4)
    assert found.prompts_needed == prompts_needed(2.5 / 4)


def test_the_pairwise_interval_is_the_bootstrap_over_judged_prompts_alone():
    # 19 judged prompts of fraction 1/2 and one of 1: every resample lies between, and prompts without a judgement
    # move none of them
    prompt = np.repeat(np.arange(20), 2)
    preference = np.tile([1.0, 0.0], 20)
    preference[1] = 1.0
    found = from_preferences(2 * prompt, preference, Bootstrap(40, seed=0)).pairwise
    assert found is not None
    assert found.value == pytest.approx(21 / 40)
    assert found.low == 0.5
    assert 21 / 40 < found.high < 0.7


def test_scores_are_compared_place_by_place_for_the_majority_and_all_with_all_for_the_pairwise_rate():
    first = [np.array([3.0, 1.0, 2.0]), np.array([1.0, NAN, 5.0]), np.array([2.0, 2.0])]
    second = [np.array([2.0, 0.0, 4.0]), np.array([4.0, 0.0, NAN]), np.array([2.0, 2.0])]
    found = from_scores(first, second, Bootstrap(3, seed=0))
    # prompt 0 wins two of three places, prompt 1 loses its only one, prompt 2 ties
    assert (found.prompts, found.comparisons, found.won, found.tied) == (3, 6, 1, 1)
    # 3 beats 2 and 0, 1 beats 0, 2 beats 0 and ties 2; then 1 beats 0, 5 beats both of (4, 0)
    assert found.pairwise is not None
    assert found.pairwise.value == pytest.approx((4.5 / 9 + 3 / 4 + 1 / 2) / 3)


def test_prompts_without_two_scores_at_one_place_count_nowhere():
    first = [np.array([1.0, 2.0]), np.array([]), np.array([NAN, 1.0]), np.array([1.0, NAN]), np.array([9.0])]
    second = [np.array([0.0, 3.0, 0.5]), np.array([]), np.array([NAN, NAN]), np.array([NAN, 0.0]), np.array([])]
    found = from_scores(first, second, Bootstrap(5, seed=0))
    assert (found.prompts, found.comparisons, found.won, found.tied) == (1, 2, 0, 1)
    assert found.pairwise is not None
    assert found.pairwise.value == pytest.approx(4 / 6)
    assert (found.pairwise.low, found.pairwise.high) == pytest.approx((4 / 6, 4 / 6))


@pytest.mark.parametrize(
    ("first", "second"),
    [([[NAN, NAN], [NAN]], [[1.0, 2.0], [3.0]]), ([[], []], [[], []]), ([[1.0], []], [[], [1.0]])],
    ids=["all nan", "no texts", "no counterparts"],
)
def test_nothing_to_compare_is_an_error_and_not_a_win_rate(first, second):
    with pytest.raises(InputError, match="comparisons: expected at least one; got none"):
        from_scores([np.array(x) for x in first], [np.array(x) for x in second], Bootstrap(2, seed=0))
    with pytest.raises(InputError, match="comparisons: expected at least one; got none"):
        from_preferences(np.array([], dtype=int), np.array([]), Bootstrap(2, seed=0))


def swapped(first, second):
    """Whether two findings are the same with the rules exchanged."""
    assert (first.prompts, first.comparisons, first.tied) == (second.prompts, second.comparisons, second.tied)
    assert first.won + second.won + first.tied == first.prompts
    assert (first.p_value, first.prompts_needed) == (pytest.approx(second.p_value), second.prompts_needed)
    for name in ("majority", "pairwise"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one.value, one.low, one.high) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low))


def test_exchanging_the_rules_turns_every_rate_and_interval_around():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, size=(2, 30, 4)).astype(float)
    ours[rng.random(ours.shape) < 0.2] = NAN
    bootstrap = Bootstrap(30, seed=1)
    swapped(from_scores(list(ours), list(theirs), bootstrap), from_scores(list(theirs), list(ours), bootstrap))
    prompt, preference = rng.integers(0, 30, size=80), rng.integers(0, 5, size=80) / 4
    swapped(from_preferences(prompt, preference, bootstrap), from_preferences(prompt, 1 - preference, bootstrap))


def test_scores_and_the_preferences_they_imply_give_the_same_majority():
    rng = np.random.default_rng(2)
    ours, theirs = rng.integers(0, 3, size=(2, 25, 5)).astype(float)
    bootstrap = Bootstrap(25, seed=0)
    by_score = from_scores(list(ours), list(theirs), bootstrap)
    preference = (np.sign(ours - theirs) + 1) / 2
    by_preference = from_preferences(np.repeat(np.arange(25), 5), preference.ravel(), bootstrap)
    for name in ("prompts", "comparisons", "won", "tied", "majority", "p_value", "prompts_needed"):
        assert getattr(by_score, name) == getattr(by_preference, name)


def test_the_pairwise_rate_of_scores_is_an_unbiased_estimate_of_winning_plus_half_of_tying():
    # uniform on {0, 1, 2} against {0, 1, 2} with masses 1/2, 1/4, 1/4: P(X > Y) = 1/3 1/2 + 1/3 3/4 = 5/12,
    # P(X = Y) = 1/3, together 7/12; a tenth of the scores of either is missing at random.
    # 4000 prompts: a mean of independent fractions, each with an sd of at most a single pair's, which is 0.3997, so a
    # deviation above 5 standard errors has probability under 1e-6
    rng = np.random.default_rng(3)
    ours = rng.choice(3, size=(4000, 3)).astype(float)
    theirs = rng.choice(3, size=(4000, 3), p=[0.5, 0.25, 0.25]).astype(float)
    for scores in (ours, theirs):
        scores[rng.random(scores.shape) < 0.1] = NAN
    found = from_scores(list(ours), list(theirs), Bootstrap(4000, seed=0)).pairwise
    assert found is not None
    assert abs(found.value - 7 / 12) < 5 * 0.3997 / math.sqrt(4000)


def test_published_win_rates_of_table_1_settle_nothing():
    for rates in TABLE_1.values():
        found = [from_counts(rate, 200) for rate in rates]
        assert [each.majority.value for each in found] == list(rates)
        assert min(holm([each.p_value for each in found])) > 0.05
        assert all((each.tied, each.pairwise, each.comparisons) == (0, None, 200) for each in found)
    best = from_counts(0.575, 200)
    assert (best.won, best.prompts) == (115, 200)
    assert (best.majority.low, best.majority.high) == pytest.approx((0.5033, 0.6444), abs=5e-5)
    assert best.p_value == pytest.approx(0.04, abs=5e-4)
    assert best.prompts_needed == prompts_needed(0.575)


@pytest.mark.parametrize(("rate", "prompts", "won"), [(0.333, 3, 1), (0.667, 3, 2), (1.0, 7, 7), (0.0, 7, 0)])
def test_a_published_rate_may_be_rounded_to_a_tenth_of_a_percent(rate, prompts, won):
    found = from_counts(rate, prompts)
    assert (found.won, found.majority.value) == (won, won / prompts)


def test_holm_multiplies_by_what_is_left_and_never_decreases_in_the_order_of_the_p_values():
    # sorted 0.01, 0.02, 0.025, 0.4 by 4, 3, 2, 1: 0.04, 0.06, 0.05 -> 0.06, 0.4
    assert holm([0.02, 0.4, 0.01, 0.025]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_rejects_where_the_closed_family_of_bonferroni_tests_does():
    # independent definition: a hypothesis falls at a level if Bonferroni's test rejects every subset that contains it
    values = np.random.default_rng(4).beta(0.5, 5, size=(20, 4))
    for p_values in values:
        subsets = [[i for i in range(4) if code >> i & 1] for code in range(1, 16)]
        closed = [max(min(1, len(s) * min(p_values[s])) for s in subsets if i in s) for i in range(4)]
        assert holm(list(p_values)) == pytest.approx(closed)


@pytest.mark.parametrize(
    ("rate", "level", "power"),
    [
        (1.0, 0.05, 0.8),
        (0.9, 0.05, 0.8),
        (0.3, 0.05, 0.8),
        (0.7, 0.01, 0.9),
        (0.8, 1 / 16, 0.5),
        (0.6, 0.2, 0.9),
        (0.7, 0.5, 0.99),
    ],
)
def test_prompts_needed_is_where_the_power_by_summation_is_last_too_small(rate, level, power):
    found = prompts_needed(rate, level=level, power=power)
    assert found is not None
    enough = [power_by_summation(n, rate, level) >= power for n in range(3 * found)]
    assert not enough[found - 1]
    assert all(enough[found:])


def test_a_saw_tooth_above_the_power_is_not_taken_for_enough_prompts():
    found = prompts_needed(0.75)
    assert found is not None
    assert any(power_by_summation(n, 0.75, 0.05) >= 0.8 for n in range(found - 1))


def test_prompts_needed_for_a_small_edge_agrees_with_the_normal_approximation_up_to_the_teeth():
    # ((1.95996 / 2 + 0.84162 s) / edge)^2 with s = sqrt(r (1 - r)); a tooth is about 1 / sqrt(n) of power high
    for rate in (0.55, 0.51, 0.502):
        normal = ((1.959964 / 2 + 0.841621 * math.sqrt(rate * (1 - rate))) / (rate - 0.5)) ** 2
        found = prompts_needed(rate)
        assert found is not None
        assert 0 < found - normal < 2 * math.sqrt(normal)


def test_no_number_of_prompts_settles_one_half_and_no_million_what_is_next_to_it():
    assert prompts_needed(0.5) is None
    assert prompts_needed(0.5014) is None
    assert prompts_needed(0.5 + 1e-15) is None
    found = prompts_needed(0.5015)
    assert found is not None
    assert found < 10**6


@pytest.mark.parametrize(("prompts", "level", "power"), [(6, 0.05, 0.8), (25, 0.05, 0.8), (60, 0.01, 0.9)])
def test_the_detectable_rate_has_the_power_by_summation_exactly(prompts, level, power):
    rate = detectable(prompts, level=level, power=power)
    assert rate is not None
    assert power_by_summation(prompts, rate, level) == pytest.approx(power, abs=1e-9)
    assert power_by_summation(prompts, rate - 0.01, level) < power


def test_two_hundred_prompts_settle_no_win_rate_of_table_1():
    rate = detectable(200)
    assert rate is not None
    assert rate == pytest.approx(0.6016, abs=1e-4)
    assert rate > max(max(rates) for rates in TABLE_1.values())


def test_nothing_is_detectable_where_the_test_never_rejects():
    assert [detectable(n) is None for n in range(8)] == [True] * 6 + [False] * 2
    assert binomtest(5, 5).pvalue > 0.05 >= binomtest(6, 6).pvalue
    # all of five won has a p-value of 1 / 16, which is a level that may be asked for
    assert detectable(5, level=1 / 16) is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_preferences(np.array([0, 1]), np.array([1.0]), Bootstrap(2, 0)), "preference: expected one"),
        (lambda: from_preferences(np.array([2]), np.array([1.0]), Bootstrap(2, 0)), "prompt: expected integers"),
        (lambda: from_preferences(np.array([-1]), np.array([1.0]), Bootstrap(2, 0)), "prompt: expected integers"),
        (lambda: from_preferences(np.array([0.5]), np.array([1.0]), Bootstrap(2, 0)), "prompt: expected integers"),
        (lambda: from_preferences(np.array([0]), np.array([1.5]), Bootstrap(2, 0)), "preference: expected numbers"),
        (lambda: from_preferences(np.array([0]), np.array([NAN]), Bootstrap(2, 0)), "preference: expected numbers"),
        (lambda: from_scores([np.ones(1)], [np.ones(1)], Bootstrap(2, 0)), "scores: expected one array"),
        (lambda: from_scores([np.ones(1)] * 2, [np.ones(1)], Bootstrap(2, 0)), "scores: expected one array"),
        (lambda: from_counts(57.5, 200), "win_rate: expected a fraction"),
        (lambda: from_counts(0.5, 0), "win_rate: expected a fraction"),
        (lambda: from_counts(0.533, 200), "win_rate: expected a whole number of prompts"),
        (lambda: holm([0.1, NAN]), "p_values: expected numbers"),
        (lambda: prompts_needed(57.5), "rate: expected a probability"),
        (lambda: prompts_needed(0.6, level=0.0), "power: expected 0 < level"),
        (lambda: prompts_needed(0.6, power=1.0), "power: expected 0 < level"),
        (lambda: detectable(100, level=0.2, power=0.1), "power: expected 0 < level"),
        (lambda: detectable(-1), "prompts: expected a whole number"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{message}[^\n]*;[^\n]*;[^\n]*$"):
        call()
