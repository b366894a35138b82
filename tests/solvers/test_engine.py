"""Solver x divergence x array library x extremes: every answer through one check, cvxpy and enumeration as oracles."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import BACKENDS, EXTREME_PAIRS, MEASURES, law_pairs, output_of, random_feasible_outputs, random_pair, tv
from tolerances import assert_at_most, assert_close, assert_law, tolerance

from solvers.arrays import to_numpy
from solvers.certificate import certify
from solvers.closed_form import ClippedLaw, ratio_clip_at_price, ratio_clip_at_rejection
from tradeoff import evaluate, rules, solve_pareto
from tradeoff.fronts.pareto import Solver

every_measure = pytest.mark.parametrize("name", MEASURES)
backend = pytest.mark.parametrize("convert", BACKENDS.values(), ids=BACKENDS.keys())
other_backend = pytest.mark.parametrize("convert", [BACKENDS[name] for name in ("array-api-strict", "torch")])
fractions = st.floats(0.02, 0.98)
SMOOTH = [name for name in MEASURES if name != "kinked"]
"""A piecewise-linear f inverts its slope by bisection in every step: a second a pair, spent in test_sort_free."""
QUESTIONS = ("rejection", "divergence", "price")


@dataclass(frozen=True)
class Answer:
    """One rule for one question, as numpy, with the objective the question is about."""

    draft: np.ndarray
    target: np.ndarray
    acceptance: np.ndarray
    residual: np.ndarray
    objective: float
    certificate: Any


def check(answer: Answer, operation: str = "divergence") -> None:
    """What every answer must be, whoever gave it: a rule, feasible, optimal and worth what it says."""
    assert answer.certificate.holds(tolerance(operation)), answer.certificate
    assert ((answer.acceptance >= 0) & (answer.acceptance <= 1)).all()
    assert_law(answer.residual)
    assert_law(output_of(answer.draft, answer.acceptance, answer.residual))


def question_of(pair, measure, question, fraction):
    """A question that means the same to every solver: that of the point at this fraction of TV."""
    front = solve_pareto(*pair, divergence=measure, rejection=0.0)
    point = front.at(rejection=fraction * float(front.total_variation))
    return float(getattr(point, question))


def objective_of(question, wanted, rejection, divergence):
    """What the question minimises."""
    return {"rejection": divergence, "divergence": rejection, "price": divergence + wanted * rejection}[question]


def by_front(pair, measure, question, wanted, convert, solver: Solver = "closed_form") -> Answer:
    draft, target = pair
    point = solve_pareto(convert(draft), convert(target), divergence=measure, rejection=0.0, solver=solver).at(
        **{question: wanted}
    )
    assert type(point.acceptance) is type(convert(draft))
    objective = objective_of(question, wanted, float(point.rejection), float(point.divergence))
    return Answer(draft, target, to_numpy(point.acceptance), to_numpy(point.residual), objective, point.certificate)


def by_levels(pair, measure, question, wanted, convert) -> Answer:
    draft, target = (convert(law) for law in pair)
    if question == "rejection":
        clip = ratio_clip_at_rejection(draft, target, wanted)
    else:
        clip = ratio_clip_at_price(draft, target, wanted, measure)
    clip = ClippedLaw(*(to_numpy(each) for each in clip))
    rejection = max(1 - float((clip.acceptance * pair[0]).sum()), 0.0)
    value = float(measure.value(output_of(pair[0], clip.acceptance, clip.residual), pair[1]))
    certificate = certify(
        pair[0],
        pair[1],
        acceptance=clip.acceptance,
        residual=clip.residual,
        budget=np.asarray(wanted if question == "rejection" else rejection),
        floor=clip.floor,
        ceiling=clip.ceiling,
        divergence=measure,
    )
    objective = objective_of(question, wanted, rejection, value)
    return Answer(pair[0], pair[1], clip.acceptance, clip.residual, objective, certificate)


# --- one check for every answer ------------------------------------------------------------------------------


@every_measure
@pytest.mark.parametrize("question", QUESTIONS)
@settings(max_examples=20)
@given(pair=law_pairs(), fraction=fractions)
def test_the_sorted_and_the_sort_free_solver_agree_and_both_are_certified(name, question, pair, fraction):
    measure = MEASURES[name]
    if tv(*pair) < 1e-3 or (name == "kinked" and question == "price"):
        return  # rejections at rounding level, and an inverse by bisection in every step (one pair below)
    wanted = question_of(pair, measure, question, fraction)
    if not np.isfinite(wanted) or not 1e-6 < wanted < 1e6:
        return
    answers = [by_front(pair, measure, question, wanted, np.asarray)]
    if question != "divergence":
        answers.append(by_levels(pair, measure, question, wanted, np.asarray))
    for answer in answers:
        check(answer)
        assert_close(answer.objective, answers[0].objective, "divergence")


@other_backend
@every_measure
def test_every_backend_answers_every_question_like_numpy(name, convert):
    measure = MEASURES[name]
    pair = random_pair(3, vocab=6, masked=True)
    for question in QUESTIONS:
        wanted = question_of(pair, measure, question, 0.7)
        expected = by_front(pair, measure, question, wanted, np.asarray)
        answers = [by_front(pair, measure, question, wanted, convert)]
        if question != "divergence":
            answers.append(by_levels(pair, measure, question, wanted, convert))
        for answer in answers:
            check(answer)
            assert_close(answer.objective, expected.objective, "divergence")


@backend
@pytest.mark.parametrize("name", ["kl"])
def test_every_backend_answers_on_extreme_pairs(name, convert):
    for pair in EXTREME_PAIRS.values():
        for fraction in (0.0, 0.5, 1.0):
            rejection = fraction * float(tv(*pair))
            check(by_front(pair, MEASURES[name], "rejection", rejection, convert))
            check(by_levels(pair, MEASURES[name], "rejection", rejection, convert))


@other_backend
@pytest.mark.parametrize("name", ["tv", "alpha=0.3"])
def test_every_backend_shares_a_budget_like_numpy(name, convert):
    pairs = [random_pair(seed, vocab=5, masked=seed == 2) for seed in range(3)]
    laws = [np.stack([pair[side] for pair in pairs]) for side in (0, 1)]
    fronts = [
        solve_pareto(*(kind(law) for law in laws), divergence=name, budget="mean", weights=[1, 2, 3], rejection=1.0)
        for kind in (convert, np.asarray)
    ]
    mean = 0.6 * float(fronts[1].total_variation)
    limit = fronts[1].at(rejection=mean).mean_divergence
    for question in ({"rejection": mean}, {"divergence": limit}, {"price": 0.4}):
        found, expected = (front.at(**question) for front in fronts)
        assert found.certificate.holds(tolerance("divergence"))
        assert_close(found.mean_divergence, expected.mean_divergence, "divergence")
        assert_close(found.mean_rejection, expected.mean_rejection, "divergence")
    gains = [front.alternatives(rejection=mean).gain for front in fronts]
    for way in gains[0]:
        assert_close(gains[0][way], gains[1][way], "divergence")


@backend
@pytest.mark.parametrize(
    "rule",
    [
        rules.RatioClip(rejection=0.2),
        rules.RatioClip(ceiling=1.5),
        rules.RatioClip(ceiling=float("inf")),
        *(rules.CommonPrice(price=0.5, divergence=MEASURES[name]) for name in SMOOTH),
    ],
    ids=["rejection", "ceiling", "no ceiling", *SMOOTH],
)
def test_the_optimal_rules_are_evaluated_alike_by_every_backend(rule, convert):
    pairs = [random_pair(seed, vocab=5, masked=seed == 2) for seed in range(3)]
    laws = [np.stack([pair[side] for pair in pairs]) for side in (0, 1)]
    found, expected = (evaluate(rule, *(kind(law) for law in laws)) for kind in (convert, np.asarray))
    assert type(found.output_law) is type(convert(laws[0]))
    for field in ("output_law", "rejection", "gap", "leak"):
        assert_close(to_numpy(getattr(found, field)), getattr(expected, field), "divergence")
    for measure in MEASURES.values():
        assert_close(to_numpy(found.divergence_in(measure)), expected.divergence_in(measure), "divergence")
    assert_at_most(np.abs(expected.gap), np.zeros(3), "price root")


@backend
def test_grids_and_columns_are_alike_on_every_backend(convert):
    pair = random_pair(1, vocab=5)
    for rejection in (None, "breakpoints", [0.0, 0.1]):
        found, expected = (
            solve_pareto(*(kind(law) for law in pair), divergence="js", rejection=rejection).to_dict()
            for kind in (convert, np.asarray)
        )
        for name, column in expected.items():
            assert_close(found[name], column, "divergence")


@pytest.mark.parametrize("name", ["tv", "kl", "hellinger"])
@pytest.mark.parametrize("convert", BACKENDS.values(), ids=BACKENDS.keys())
def test_float32_laws_are_certified_to_six_digits_on_every_backend(name, convert):
    pair = [convert(law.astype(np.float32)) for law in random_pair(1, vocab=50)]
    point = solve_pareto(*pair, divergence=name, rejection=0.0).at(rejection=0.2)
    assert point.acceptance.dtype == pair[0].dtype
    assert point.certificate.holds(tolerance("certificate", "float32"))


# --- brute force ---------------------------------------------------------------------------------------------


@every_measure
@settings(max_examples=25)
@given(pair=law_pairs(), fraction=fractions, seed=st.integers(0, 10**6))
def test_no_feasible_rule_drawn_at_random_beats_the_front(name, pair, fraction, seed):
    draft, target = pair
    front = solve_pareto(draft, target, divergence=MEASURES[name], rejection=0.0)
    rejection = fraction * float(front.total_variation)
    best = front.at(rejection=rejection)
    rivals = sum(random_feasible_outputs(np.random.default_rng(seed), draft, rejection, 200))
    # small steps towards the rivals test the first-order condition
    for step in (1.0, 1e-2):
        mixed = (1 - step) * best.output_law + step * rivals
        values = MEASURES[name].value(mixed, np.broadcast_to(target, mixed.shape))
        assert_at_most(best.divergence, values, "divergence")


def laws_on_a_grid(vocab, parts):
    """Every law whose masses are multiples of 1 / parts."""
    if vocab == 2:
        counts = np.arange(parts + 1)
        return np.stack([counts, parts - counts], axis=-1) / parts
    counts = np.array([(i, j, parts - i - j) for i, j in product(range(parts + 1), repeat=2) if i + j <= parts])
    return counts / parts


@every_measure
@pytest.mark.parametrize(("vocab", "parts"), [(2, 100_000), (3, 300)])
def test_the_front_is_the_least_divergence_over_all_laws_within_reach(name, vocab, parts):
    grid = laws_on_a_grid(vocab, parts)
    measure = MEASURES[name]
    for seed in range(3):
        draft, target = random_pair(3 * seed + 2, vocab=vocab)
        values = measure.value(grid, np.broadcast_to(target, grid.shape))
        distance = tv(grid, draft)
        front = solve_pareto(draft, target, divergence=measure, rejection=0.0)
        for fraction in (0.3, 0.7):
            point = front.at(rejection=fraction * float(front.total_variation))
            within = distance <= float(point.rejection) + 1e-12
            least = values[within].min()
            # the nearest law of the grid within reach is `vocab / parts` away in every mass
            slopes = measure.slope(np.array([float(point.floor), float(point.ceiling)]))
            assert_at_most(point.divergence, least, "divergence")
            assert least <= float(point.divergence) + 2 * vocab / parts * (1 + np.ptp(slopes)) + tolerance("grid")


@pytest.mark.parametrize("name", ["tv", "kl", "chi2", "js"])
def test_the_shared_budget_is_the_least_over_all_splits_of_two_rows(name):
    pairs = [random_pair(seed, vocab=4) for seed in (2, 5)]
    laws = [np.stack([pair[side] for pair in pairs]) for side in (0, 1)]
    front = solve_pareto(*laws, divergence=name, budget="mean", weights=[0.3, 0.7], rejection=1.0)
    mean = 0.5 * float(front.total_variation)
    first = np.linspace(0, min(1.0, mean / 0.3), 4001)
    second = (mean - 0.3 * first) / 0.7
    kept = (first <= tv(*pairs[0])) & (second <= tv(*pairs[1]))
    each = [
        solve_pareto(*pair, divergence=name, rejection=rejections[kept]).divergence
        for pair, rejections in zip(pairs, (first, second), strict=True)
    ]
    searched = (0.3 * each[0] + 0.7 * each[1]).min()
    found = front.at(rejection=mean).mean_divergence
    assert_at_most(found, searched, "divergence")
    assert_close(found, searched, "grid")


# --- cvxpy ---------------------------------------------------------------------------------------------------

PROGRAMS = pytest.mark.parametrize("name", [name for name, each in MEASURES.items() if each.program is not None])


@PROGRAMS
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_convex_program_agrees_with_the_closed_form_and_is_certified(name, question):
    measure = MEASURES[name]
    pair = random_pair(4, vocab=5)
    wanted = question_of(pair, measure, question, 0.6)
    exact = by_front(pair, measure, question, wanted, np.asarray)
    convex = by_front(pair, measure, question, wanted, np.asarray, solver="cvxpy")
    check(exact)
    check(convex, "interior point objective")
    assert_close(convex.objective, exact.objective, "interior point objective")


@pytest.mark.parametrize("name", ["tv", "kl", "chi2"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_convex_program_shares_a_budget_like_the_closed_form(name, question):
    pairs = [random_pair(seed, vocab=4) for seed in range(3)]
    laws = [np.stack([pair[side] for pair in pairs]) for side in (0, 1)]
    fronts = {
        solver: solve_pareto(*laws, divergence=name, budget="mean", weights=[1, 2, 3], rejection=1.0, solver=solver)
        for solver in ("closed_form", "cvxpy")
    }
    mean = 0.6 * float(fronts["closed_form"].total_variation)
    middle = fronts["closed_form"].at(rejection=mean)
    price = 0.5 if name == "tv" else float(middle.certificate.price)
    wanted = {"rejection": mean, "divergence": middle.mean_divergence, "price": price}[question]
    points = [front.at(**{question: wanted}) for front in fronts.values()]
    exact, convex = (objective_of(question, wanted, each.mean_rejection, each.mean_divergence) for each in points)
    assert_close(convex, exact, "interior point objective")
    assert points[0].certificate.holds(tolerance("divergence"))
    assert points[1].certificate.holds(tolerance("interior point objective"))


def test_the_convex_program_gives_array_api_laws_back():
    pair = [BACKENDS["array-api-strict"](law) for law in random_pair(1, vocab=4)]
    point = solve_pareto(*pair, divergence="kl", rejection=0.1, solver="cvxpy").at(rejection=0.2)
    assert type(point.output_law) is type(pair[0])
    assert point.certificate.holds(tolerance("interior point objective"))


# --- devices -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_answers_like_the_cpu():
    pairs = [random_pair(seed, vocab=50, masked=seed == 2) for seed in range(4)]
    laws = [np.stack([pair[side] for pair in pairs]) for side in (0, 1)]
    questions: tuple[dict[str, float], ...] = ({"rejection": 0.3}, {"divergence": 0.1}, {"price": 0.4})
    for measure, budget, question in product(MEASURES.values(), ("each", "mean"), questions):
        expected, found = (
            solve_pareto(
                *(torch.asarray(law, device=where) for law in laws),
                divergence=measure,
                budget=budget,
                rejection=0.3,
            ).at(**question)
            for where in ("cpu", "cuda")
        )
        assert found.output_law.device.type == "cuda"
        assert_close(to_numpy(found.divergence), to_numpy(expected.divergence), "divergence")
        assert_close(to_numpy(found.rejection), to_numpy(expected.rejection), "search")
        assert found.certificate.holds(tolerance("divergence"))
    for rule in (rules.CommonPrice(price=0.4, divergence="js"), rules.RatioClip(rejection=0.3)):
        on_gpu, on_cpu = (
            evaluate(rule, *(torch.asarray(law, device=where) for law in laws)).output_law for where in ("cuda", "cpu")
        )
        assert_close(to_numpy(on_gpu), to_numpy(on_cpu), "divergence")
