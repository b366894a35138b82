"""`check` passes samplers that follow their rule and names what is wrong with those that do not."""

import re
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from samplers import (
    CORRECT,
    Ratio,
    clipped,
    corrupts_the_target,
    crashes_on_masks,
    ignores_the_draft,
    in_float32,
    nan_as_token_0,
)

from decoding.verification import verify
from tradeoff import InputError
from tradeoff.conformance.cases import conditional_p_value, expected_of, settings_for
from tradeoff.conformance.checking import Case, Report, check
from tradeoff.rules import BlockVerification, DecodingUNO, RatioClip, SpeculativeSampling

FALSE_ALARM = 1e-6
"""Of one check of a correct sampler; seeds are fixed, so a pass stays a pass."""


def case(report: Report, name: str) -> Case:
    (found,) = (each for each in report.cases if each.name == name)
    return found


def from_generator(sampler):
    return lambda draft, target, drafted, generator: sampler(draft, target, drafted, generator.random(2))


@pytest.mark.parametrize(("sampler", "rule"), CORRECT.values(), ids=CORRECT.keys())
def test_a_sampler_that_follows_its_rule_passes_every_case(sampler, rule):
    report = check(sampler, rule, randomness="uniforms", draws=2000, false_alarm=FALSE_ALARM)
    assert report.passed, str(report)
    assert {each.name for each in report.cases if each.status == "skipped"} == {"uniforms at 1"}
    assert sum(each.kind == "chi-square" and each.p_value is not None for each in report.cases) >= 10


def test_what_a_generator_cannot_test_is_skipped_in_sight_and_never_passed():
    report = check(from_generator(Ratio()), SpeculativeSampling(), draws=500)
    assert report.passed, str(report)
    skipped = [each for each in report.cases if each.status == "skipped"]
    assert [each.name for each in skipped] == [
        "uniforms at 0",
        "uniforms 2^-24 below 1",
        "uniforms 2^-53 below 1",
        "uniforms at 1",
    ]
    assert all("not applicable: a generator" in each.detail for each in skipped)
    assert "4 skipped" in str(report)


@pytest.mark.parametrize(
    ("rule", "exact"),
    [
        # at epsilon 0.1 one pair has q + epsilon = p, which laws from logits cannot hold
        *product((SpeculativeSampling(), DecodingUNO(epsilon=0.13), RatioClip(ceiling=1.5)), (True, False)),
        (BlockVerification(), False),
    ],
    ids=repr,
)
def test_the_verification_step_of_this_package_passes(rule, exact):
    def sampler(draft, target, drafted, uniforms):
        p, q = (torch.from_numpy(law).double().log()[None, None] for law in (draft, target))
        result = verify(
            rule, p, q.repeat(1, 2, 1), torch.tensor([[drafted]]), torch.from_numpy(uniforms)[None], exact=exact
        )
        if bool(result.unusable):
            raise ValueError("no law")
        return drafted if int(result.accepted) else int(result.next_token)

    # of one token, block verification is speculative sampling
    known = SpeculativeSampling() if isinstance(rule, BlockVerification) else rule
    report = check(sampler, known, randomness="uniforms", draws=50)
    assert report.passed, str(report)


BROKEN = {
    "replaces by the target": (Ratio(replacement="target"), "masked draft: frequencies", "expected"),
    "replaces by the target, masked": (Ratio(replacement="target"), "random laws 1: possible tokens", "expected never"),
    "replaces by the argmax": (Ratio(replacement="argmax"), "masked draft: frequencies", "expected"),
    "accepts u <= 0": (
        Ratio(or_equal=True),
        "uniforms at 0",
        "one-hot laws apart, uniforms 0.0 and 0.0, drafted 1: emitted 1",
    ),
    "ratio inverted": (Ratio(inverted=True), "masked target: possible tokens", "drafted 0, emitted 0"),
    "ratio inverted, same support": (
        Ratio(inverted=True),
        "draft claimed but not sampled: possible tokens",
        r"drafted \d, emitted \d: \d+ times, expected never; and \d more",
    ),
    "NaN is token 0": (nan_as_token_0, "NaN target", "drafted 0: emitted 0, expected an error; and 31 more"),
    "NaN draft is token 0": (nan_as_token_0, "NaN draft", "drafted 0: emitted 0, expected an error"),
    "NaN is kept or token 0": (Ratio(checks_nan=False), "NaN laws", "drafted 0: emitted 0, expected an error"),
    "zero residual is token 0": (Ratio(zero_residual="token 0"), "uniforms 2^-53 below 1", "up to rounding.*emitted 0"),
    "zero residual, exactly, is token 0": (
        Ratio(zero_residual="token 0"),
        "uniforms 2^-24 below 1",
        "^zero residual, uniforms 0.9999999403953552 and 0.5, drafted 1: emitted 0, expected never",
    ),
    "another temperature": (Ratio(ratio_temperature=0.7), "random laws 3: frequencies", r"drafted \d, emitted \d: \d+"),
    "another temperature, equal laws": (Ratio(ratio_temperature=0.7), "equal laws: possible tokens", "expected never"),
    "search starts too early": (Ratio(side="left"), "uniforms at 0", r"and 0.0, drafted \d: emitted 0, expected never"),
    "integer uniforms at 0": (Ratio(levels=100, or_equal=True), "uniforms at 0", "expected never"),
    "integer uniforms": (Ratio(levels=100, or_equal=True), "masked target: possible tokens", "drafted 0, emitted 0"),
    "ignores the draft": (ignores_the_draft, "equal laws: possible tokens", "drafted 1, emitted 2"),
    "corrupts the target": (corrupts_the_target, "laws left as they were", "changed in place: target; work on a copy"),
    "rounds uniforms to 1": (
        in_float32,
        "uniforms 2^-53 below 1",
        "masked target, uniforms 0.9999999999999999 and 0.5, drafted 1: emitted 3, expected never",
    ),
    "crashes": (
        crashes_on_masks,
        "disjoint supports: possible tokens",
        "draw 1, drafted [02]: raised ZeroDivisionError: no mass at token",
    ),
}


@pytest.mark.parametrize(("sampler", "name", "detail"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_sampler_is_caught_by_the_case_made_for_it(sampler, name, detail):
    report = check(sampler, SpeculativeSampling(), randomness="uniforms", draws=1000)
    found = case(report, name)
    assert found.status == "failed", str(report)
    assert not report.passed
    assert found in report.failures
    assert re.search(detail, found.detail), found.detail


ALONE = {
    "accepts u <= 0": ["uniforms at 0"],
    "search starts too early": ["uniforms at 0"],
    "NaN is token 0": ["NaN target", "NaN draft", "NaN laws"],
    "corrupts the target": ["laws left as they were"],
    "rounds uniforms to 1": ["uniforms 2^-53 below 1"],
}


@pytest.mark.parametrize(("broken", "names"), ALONE.items(), ids=ALONE.keys())
def test_nothing_but_the_broken_thing_is_reported(broken, names):
    report = check(BROKEN[broken][0], SpeculativeSampling(), randomness="uniforms", draws=300)
    assert [each.name for each in report.failures] == names


@pytest.mark.parametrize("law", ["draft", "target"])
def test_a_sampler_that_looks_for_nan_in_one_law_fails_for_the_other(law):
    def sampler(draft, target, drafted, uniforms):
        if np.isnan({"draft": draft, "target": target}[law]).any():
            raise ValueError("the law is NaN")
        return nan_as_token_0(draft, target, drafted, uniforms)

    report = check(sampler, SpeculativeSampling(), randomness="uniforms", draws=20)
    assert [each.name for each in report.failures] == [f"NaN {'target' if law == 'draft' else 'draft'}"]


def test_a_zero_residual_is_met_by_a_generator_too():
    sampler = from_generator(Ratio(zero_residual="token 0"))
    # 6.8 rejections expected; none has probability 1e-3, and this seed has some
    assert [each.name for each in check(sampler, SpeculativeSampling()).failures] == ["zero residual: possible tokens"]


def test_an_acceptance_one_rounding_below_certainty_is_no_failure_but_one_of_float32_is():
    def nearly(unit):
        return check(partial(clipped, unit=unit), SpeculativeSampling(), randomness="uniforms", draws=100)

    assert nearly(2.0**-53).passed, str(nearly(2.0**-53))
    assert [each.name for each in nearly(2.0**-23).failures] == ["uniforms at 0", "uniforms 2^-24 below 1"]


MILD = {"mild": (np.array([5, 1, 4, 2, 3]) / 15, np.array([2, 3, 1, 6, 4]) / 16)}


def test_integer_uniforms_are_seen_where_the_target_is_masked_and_hardly_by_frequencies():
    integer = Ratio(levels=100, or_equal=True)
    report = check(integer, SpeculativeSampling(), randomness="uniforms", pairs=MILD)
    # b = (floor(100 r) + 1) / 101 is at most 1/101 off: TV 0.0013 from the target here
    assert case(report, "mild: frequencies").status == "passed"
    assert case(report, "masked target: possible tokens").status == "failed"

    (setting,) = settings_for(0, MILD)[-1:]
    right = expected_of(SpeculativeSampling(), setting).emitted
    acceptance = (np.floor(100 * np.minimum(1, setting.target / setting.draft)) + 1) / 101
    residual = np.maximum(setting.target - setting.draft, 0)
    law = acceptance[:, None] * np.eye(5) + (1 - acceptance[:, None]) * residual / residual.sum()
    rng = np.random.default_rng(0)
    # 39 of 40 tables of 3 million draws fail at the level of a single case, none of 40 of 300 000
    for draws, found in ((300_000, False), (3_000_000, True)):
        counts = np.stack(
            [rng.multinomial(n, row) for n, row in zip(rng.multinomial(draws, setting.draft), law, strict=True)]
        )
        p_value = conditional_p_value(counts, right, rng)
        assert p_value is not None
        assert (p_value < FALSE_ALARM) == found


@pytest.mark.parametrize("shift", [0.03, -0.03])
def test_an_acceptance_that_is_off_by_003_is_found_with_the_default_draws(shift):
    @dataclass(frozen=True)
    class Shifted:
        def acceptance(self, draft, target):
            b = SpeculativeSampling().acceptance(draft, target)
            return np.where((b > 0) & (b < 1), np.clip(b + shift, 0, 1), b)

        def residual(self, draft, target):
            return SpeculativeSampling().residual(draft, target)

    report = check(Ratio(), Shifted(), randomness="uniforms", pairs={})
    assert any(each.kind == "chi-square" for each in report.failures), str(report)


def test_a_uniform_of_1_is_asked_of_those_who_take_it():
    def closed(draft, target, drafted, uniforms):
        return Ratio()(draft, target, drafted, np.minimum(uniforms, np.nextafter(1, 0)))

    def half_closed(draft, target, drafted, uniforms):
        return clipped(draft, target, drafted, (uniforms[0], min(uniforms[1], np.nextafter(1, 0))))

    details = {
        closed: "",
        half_closed: "masked target, uniforms 1.0 and 0.5, drafted 1: emitted 3, expected never; and",
        Ratio(): r"equal laws, uniforms 1.0 and 1.0, drafted 1: returned 5 \(int\); expected a token",
    }
    for sampler, detail in details.items():
        report = check(sampler, SpeculativeSampling(), randomness="closed uniforms", draws=50)
        assert {each.name for each in report.failures} == ({"uniforms at 1"} if detail else set())
        assert re.match(detail, case(report, "uniforms at 1").detail), str(report)


ANSWERS = {
    "float": (lambda x, vocab: float(x), r"returned \d\.0 \(float\); expected a token, 0 to \d"),
    "none": (lambda x, vocab: None, r"returned None \(NoneType\); expected a token"),
    "bool": (lambda x, vocab: True, r"returned True \(bool\); expected a token"),
    "negative": (lambda x, vocab: -1, r"returned -1 \(int\); expected a token"),
    "past the end": (lambda x, vocab: vocab, r"returned (\d) \(int\); expected a token, 0 to"),
    "a row": (lambda x, vocab: np.array([x, x]), r"returned \[\d \d\] \(ndarray\); expected a token"),
}


@pytest.mark.parametrize(("answer", "detail"), ANSWERS.values(), ids=ANSWERS.keys())
def test_what_is_not_a_token_is_a_failed_case_and_no_crash(answer, detail):
    report = check(lambda draft, target, x, _: answer(x, len(draft)), SpeculativeSampling(), draws=20)
    found = case(report, "equal laws: possible tokens")
    assert found.status == "failed"
    assert re.fullmatch(rf"draw 1, drafted \d: {detail}.*", found.detail), found.detail
    assert case(report, "equal laws: frequencies").status == "skipped"
    # a wrong answer to NaN laws is not an error either
    assert case(report, "NaN laws").status == "failed"


@pytest.mark.parametrize("kind", [np.int32, np.array, torch.tensor, lambda token: torch.tensor([token])])
def test_tokens_may_be_integers_of_any_library(kind):
    def sampler(draft, target, drafted, uniforms):
        return kind(Ratio()(draft, target, drafted, uniforms))

    report = check(sampler, SpeculativeSampling(), randomness="uniforms", draws=100)
    assert report.passed, str(report)


def test_nan_laws_are_not_tried_on_a_sampler_that_trusts_its_input():
    report = check(nan_as_token_0, SpeculativeSampling(), randomness="uniforms", draws=50, raises_on_nan=False)
    assert report.passed
    assert {case(report, f"NaN {name}").status for name in ("target", "draft", "laws")} == {"skipped"}


def test_a_warning_of_the_sampler_changes_no_verdict():
    # the suite turns warnings into errors: 0 / 0 below would raise, and pass the NaN cases, were that heeded
    def sampler(draft, target, drafted, uniforms):
        assert np.float64(0) / np.zeros(1) is not None
        return nan_as_token_0(draft, target, drafted, uniforms)

    report = check(sampler, SpeculativeSampling(), randomness="uniforms", draws=50)
    assert [each.name for each in report.failures] == ["NaN target", "NaN draft", "NaN laws"]


def test_equal_seeds_give_equal_reports_and_the_draws_are_those_asked_for():
    calls = []

    def sampler(draft, target, drafted, generator):
        calls.append(drafted)
        return from_generator(Ratio())(draft, target, drafted, generator)

    first = check(sampler, SpeculativeSampling(), draws=60, seed=3)
    # thirteen fixed pairs and four random ones; then three NaN cases of four tokens, eight times
    assert len(calls) == 17 * 60 + 3 * 4 * 8
    assert first.cases == check(sampler, SpeculativeSampling(), draws=60, seed=3).cases
    assert first.cases != check(sampler, SpeculativeSampling(), draws=60, seed=4).cases


def test_the_false_alarm_is_shared_by_the_chi_square_cases():
    p_values = {
        each.name: each.p_value
        for each in check(Ratio(), SpeculativeSampling(), randomness="uniforms", draws=100).cases
        if each.p_value is not None
    }
    least, number = min(p_values.values()), len(p_values)
    for false_alarm, passed in ((least * number * 0.99, True), (min(least * number * 1.01, 0.999), False)):
        report = check(Ratio(), SpeculativeSampling(), randomness="uniforms", draws=100, false_alarm=false_alarm)
        assert report.passed == passed
        assert report.false_alarm == false_alarm
    assert number >= 10


def test_the_report_prints_as_a_table_with_the_verdict_first_and_exact_cases_before_the_rest():
    report = check(Ratio(replacement="target"), SpeculativeSampling(), randomness="uniforms", draws=400)
    text = str(report)
    head, columns, *rows = text.splitlines()
    assert head.startswith(
        f"FAILED: {len(report.failures)} of {len(report.cases)} cases against SpeculativeSampling(); 1"
    )
    assert "400 draws for each pair of laws; false alarm <= 1e-06" in head
    assert columns.split() == ["status", "kind", "case", "p-value"]
    assert len(rows) == len(report.cases)
    kinds = [each.kind for each in report.cases]
    assert kinds == sorted(kinds, key="exact chi-square".index)
    failed = next(row for row in rows if "masked target: possible tokens" in row)
    assert failed.split()[:2] == ["failed", "exact"]
    assert re.search(r"drafted \d, emitted \d: \d+ times, expected never", failed)
    passing = str(check(Ratio(), SpeculativeSampling(), randomness="uniforms", draws=50))
    assert passing.startswith("passed against SpeculativeSampling(); 1 skipped")
    assert "times, expected" not in passing


def test_the_commonest_impossible_token_is_named_first():
    pairs = {"own": (np.array([0.9, 0.1, 0.0]), np.array([0.0, 0.1, 0.9]))}
    report = check(lambda draft, target, x, _: x, SpeculativeSampling(), draws=1000, pairs=pairs)
    assert re.match(r"drafted 0, emitted 0: (8[5-9]\d|9[0-4]\d) times", case(report, "own: possible tokens").detail)


def test_frequencies_are_those_of_the_possible_tokens_since_the_others_have_a_case_of_their_own():
    report = check(ignores_the_draft, SpeculativeSampling(), randomness="uniforms", draws=500)
    details = [each.detail for each in report.failures if each.kind == "chi-square"]
    assert len(details) >= 5
    assert all("times, expected" in each and "expected 0.0" not in each for each in details), details


LAW = np.array([0.5, 0.5])
BAD_ARGUMENTS = {
    "sampler": ({"sampler": 3}, "sampler: expected a callable .* got int"),
    "rule": (
        {"rule": "SpeculativeSampling"},
        "rule: expected the name of a rule; got 'SpeculativeSampling'; did you mean 'speculative_sampling'",
    ),
    "randomness": ({"randomness": "uniform"}, "randomness: expected one of 'generator', 'uniforms', 'closed"),
    "no draws": ({"draws": 0}, "draws: expected a whole number of at least 1; got 0"),
    "draws a float": ({"draws": 1e4}, "draws: expected a whole number of at least 1; got 10000.0"),
    "seed": ({"seed": -1}, "seed: expected a whole number of at least 0; got -1"),
    "seed a flag": ({"seed": True}, "seed: expected a whole number"),
    "false alarm 0": ({"false_alarm": 0}, "false_alarm: expected a probability between 0 and 1"),
    "false alarm NaN": ({"false_alarm": float("nan")}, "false_alarm: expected a probability"),
    "false alarm text": ({"false_alarm": "1e-6"}, "false_alarm: expected a probability"),
    "pairs a list": ({"pairs": [(LAW, LAW)]}, r"pairs: expected a mapping of names to \(draft, target\); got list"),
    "one law": (
        {"pairs": {"mine": LAW}},
        r"pairs\['mine'\]: expected laws \[vocab\] of at most 1000 tokens; got shape \(\)",
    ),
    "three laws": ({"pairs": {"mine": (LAW,) * 3}}, r"pairs\['mine'\]: expected two laws, \(draft, target\)"),
    "a number": ({"pairs": {"mine": 5}}, r"pairs\['mine'\]: expected two laws"),
    "a batch": ({"pairs": {"mine": (np.stack([LAW] * 2),) * 2}}, r"pairs\['mine'\]: expected laws \[vocab\].*\(2, 2\)"),
    "too long": ({"pairs": {"mine": (np.full(1001, 1 / 1001),) * 2}}, "at most 1000 tokens; got shape .1001,.; cut"),
    "unlike": ({"pairs": {"mine": (LAW, np.ones(3) / 3)}}, "mine: draft and target: expected equal shapes"),
    "no law": ({"pairs": {"mine": (LAW, LAW / 2)}}, "mine: target law: expected probabilities that sum to 1"),
    "text": ({"pairs": {"mine": (LAW, ["a", "b"])}}, "mine: laws: expected real numbers"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS.keys())
def test_arguments_that_cannot_be_used_are_one_line_input_errors(arguments, message):
    given: Any = {"sampler": Ratio(), "rule": SpeculativeSampling(), "randomness": "uniforms", "draws": 10, **arguments}
    with pytest.raises(InputError, match=message) as caught:
        check(**given)
    assert "\n" not in str(caught.value)
