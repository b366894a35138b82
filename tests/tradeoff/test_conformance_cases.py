"""The exact tables behind `check`, and the test of the test: its p-values are what they say."""

from typing import Any

import numpy as np
import pytest
import torch
from laws import EXTREME_PAIRS, random_pair
from samplers import CORRECT, Ratio
from scipy.stats import binom, kstest
from tiny import chi_square_p_value
from tolerances import assert_close

from tradeoff import evaluate
from tradeoff.conformance.cases import conditional_p_value, emitted_law, expected_of, settings_for
from tradeoff.conformance.checking import check
from tradeoff.rules import SpeculativeSampling


def test_p_values_of_a_correct_sampler_are_uniform():
    p_values = [
        each.p_value
        for seed in range(20)
        for each in check(Ratio(), SpeculativeSampling(), randomness="uniforms", draws=200, seed=seed).cases
        if each.p_value is not None
    ]
    assert len(p_values) >= 200
    # Kolmogorov and Smirnov, 1e-4; settings and seeds are independent
    assert kstest(p_values, "uniform").pvalue > 1e-4


def tables(law: np.ndarray, drafted: np.ndarray, number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.stack([rng.multinomial(n, row) for n, row in zip(drafted, law, strict=True)]) for _ in range(number)]


RARE = np.array([[0.97, 0.01, 0.01, 0.01], [0.01, 0.9, 0.0, 0.09], [0.0, 0.0, 1.0, 0.0]])


@pytest.mark.parametrize("trials", [[6, 3, 1], [40, 30, 20], [5000, 3000, 7]], ids=str)
def test_p_values_are_uniform_however_few_the_counts(trials):
    stream, drafted = np.random.default_rng(2), np.array(trials)
    p_values = [conditional_p_value(counts, RARE, stream) for counts in tables(RARE, drafted, 2000)]
    assert kstest(p_values, "uniform").pvalue > 1e-4


class Fill:
    """A stream that fills every jump at one place."""

    def __init__(self, place: float) -> None:
        self.place = place

    def random(self, size: int) -> np.ndarray:
        return np.full(size, self.place)


def test_the_tail_is_exact_where_pearsons_is_seventy_times_too_light():
    # a cell expected 5 times in 5000 draws, and how often its count alarms at 1e-6, by enumeration of the count
    law, level, counts = np.array([[0.999, 0.001]]), 1e-6, np.arange(6, 60)
    chances = binom.pmf(counts, 5000, 0.001)
    tables = [np.array([[5000 - count, count]]) for count in counts]
    pearson = sum(chance for chance, each in zip(chances, tables, strict=True) if chi_square_p_value(each, law) < level)
    assert pearson == pytest.approx(7e-5, rel=0.05)
    places = (np.arange(200) + 0.5) / 200
    alarms = [
        np.mean([_p_value(each, law, Fill(place)) < level for place in places]) for each in tables if each[0, 1] < 30
    ]
    # half of the alarms are for counts that are too large; the grid of places is 1/200 fine
    assert chances[: len(alarms)] @ alarms == pytest.approx(level / 2, rel=0.02)


def _p_value(counts: np.ndarray, law: np.ndarray, stream: Any) -> float:
    p_value = conditional_p_value(counts, law, stream)
    assert p_value is not None
    return p_value


def test_a_law_that_leaves_nothing_to_chance_has_no_p_value():
    assert conditional_p_value(np.diag([5, 0, 2]), np.eye(3), np.random.default_rng(0)) is None
    assert conditional_p_value(np.zeros((2, 2), dtype=int), np.full((2, 2), 0.5), np.random.default_rng(0)) is None


def test_tokens_that_are_almost_impossible_count_against_a_sampler():
    # one in 1e17 beside a cell whose share rounds to 1
    law = np.array([[1.0, 1e-17]])
    assert law.sum() == 1.0
    p_value = conditional_p_value(np.array([[998, 2]]), law, np.random.default_rng(0))
    assert p_value is not None
    assert p_value < 1e-12


def test_counts_that_cannot_be_have_p_value_zero_and_no_warning():
    assert conditional_p_value(np.array([[0, 10**6]]), np.array([[0.5, 0.5]]), np.random.default_rng(0)) == 0.0


@pytest.mark.parametrize("rule", [rule for _, rule in CORRECT.values()], ids=CORRECT.keys())
@pytest.mark.parametrize("pair", EXTREME_PAIRS.values(), ids=EXTREME_PAIRS.keys())
def test_the_table_of_drafted_and_emitted_tokens_has_the_exact_output_law(rule, pair):
    draft, target = pair
    sampled = draft**2 / (draft**2).sum()
    outcome = evaluate(rule, draft, target, sampled_draft=sampled)
    law = emitted_law(outcome)
    assert_close(law.sum(axis=1), np.ones(len(draft)), "mass")
    assert_close(sampled @ law, outcome.output_law, "mass")
    assert_close((sampled * (1 - np.diag(law)))[outcome.acceptance == 1], 0 * draft[outcome.acceptance == 1], "mass")


def test_the_claimed_draft_decides_and_the_sampled_one_only_proposes():
    setting = next(each for each in settings_for(0, {}) if each.name == "draft claimed but not sampled")
    expected = expected_of(SpeculativeSampling(), setting)
    assert_close(expected.drafted, setting.sampled_draft, "mass")
    claimed = evaluate(SpeculativeSampling(), setting.draft, setting.target)
    assert_close(expected.emitted, emitted_law(claimed), "mass")
    # a lossless rule is not lossless on such drafts, and the sampler conforms all the same
    assert evaluate(SpeculativeSampling(), setting.draft, setting.target, sampled_draft=setting.sampled_draft).tv > 0.05


def test_pairs_take_the_place_of_random_laws_in_their_own_type():
    seen = set()

    def sampler(draft, target, drafted, uniforms):
        seen.add((str(draft.dtype), len(draft)))
        return Ratio()(draft, target, drafted, uniforms)

    draft, target = (law.astype(np.float32) for law in random_pair(1, vocab=40))
    pairs = {"mine": (draft, target), "integers": ([0, 1, 0], [0, 0, 1]), "torch": (torch.ones(7) / 7, torch.eye(7)[3])}
    report = check(sampler, SpeculativeSampling(), randomness="uniforms", draws=500, pairs=pairs)
    names = {each.name for each in report.cases}
    assert report.passed, str(report)
    assert {
        "mine: possible tokens",
        "mine: frequencies",
        "integers: possible tokens",
        "torch: possible tokens",
    } <= names
    assert not any(name.startswith("random") for name in names)
    own = {("float32", 40), ("float32", 7), ("float64", 3)}
    assert seen == own | {("float64", 4), ("float64", 5), ("float64", 6), ("float16", 4), ("float16", 6)}


def test_laws_apart_by_rounding_ask_for_a_token_of_the_target_and_no_more():
    law = np.array([0, 0.3, 0.2, 0.5], dtype=np.float32)
    near = law * np.array([1, 1 - 2e-7, 1 + 2e-7, 1], dtype=np.float32)
    far = law * np.array([1, 1 - 2e-3, 1 + 3e-3, 1], dtype=np.float32)
    found = [
        expected_of(SpeculativeSampling(), settings_for(0, {"own": (law, other)})[-1]) for other in (law, near, far)
    ]
    assert [each.rounding for each in found] == [False, True, False]
    assert found[0].possible[1:].tolist() == np.eye(4, dtype=bool)[1:].tolist()
    assert found[1].possible[1:].all(axis=0).tolist() == [False, True, True, True]
    assert found[2].possible[1].tolist() == [False, True, True, False]
