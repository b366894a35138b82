"""Several drafts for one position, by enumeration of all sets of tokens: acceptance, effective draft, front."""

import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from draft_sets import members, needed_rejection, set_chances
from hypothesis import given
from hypothesis import strategies as st
from laws import BACKENDS, EXTREME_PAIRS, MEASURES, law_pairs, random_pair, tv
from tolerances import assert_at_most, assert_close, assert_law

import tradeoff
from solvers.arrays import to_numpy
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError
from solvers.multi_draft import chance_gains, ranking
from tradeoff.fronts.multi_draft import effective_draft, optimal_acceptance, solve_multi_draft_pareto
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rules.multi_draft import GreedyMultiDraft, KSeq, RecursiveRejection, SGLangTree

SMALL = {name: pair for name, pair in EXTREME_PAIRS.items() if len(pair[0]) <= 7}
WAYS = pytest.mark.parametrize("replacement", [True, False], ids=["with", "without"])
DRAWS = st.integers(1, 4)


# --- the chance that all drafts are in a set ---


@pytest.mark.parametrize("drafts", [1, 2, 3, 5])
@WAYS
def test_gains_have_twelve_digits_whatever_the_masses(drafts, replacement):
    weights = [1, Fraction(1, 10**12), Fraction(3), Fraction(1, 10**150), 0, Fraction(2), Fraction(1, 7), 1]
    law = np.array([Fraction(each) / sum(map(Fraction, weights)) for each in weights])
    chances = set_chances(law, drafts, replacement)
    first = np.array([2**8 - 2 ** (7 - k) for k in range(8)])  # the row of `members` that holds the first k + 1 tokens
    exact = [chances[size] - before for size, before in zip(first, [0, *chances[first]], strict=False)]
    gains = chance_gains(law.astype(float), drafts, replacement=replacement)
    assert_close([g / float(e) if e else g + 1 for g, e in zip(gains, exact, strict=True)], np.ones(8), "mass")


def test_gains_without_replacement_add_up_where_the_draws_are_many():
    for drafts, vocab in [(20, 60), (40, 41), (3, 400)]:
        law = np.random.default_rng(drafts).dirichlet(np.full(vocab, 0.3))
        assert_close(chance_gains(law, drafts, replacement=False).sum(), 1.0, "mass")
    smallest = np.array([1.0, 2e-307, 1.0, 1e-307, 1e-307]) / 2  # the third of three is one of the last
    assert_close(chance_gains(smallest, 3, replacement=False), [0.0, 0.0, 0.5, 0.25, 0.25], "mass")


@WAYS
@given(pair=law_pairs(max_vocab=6), drafts=DRAWS, level=st.sampled_from([0.1, 0.5, 0.9, 1.0, 1.3, 3.0]))
def test_first_tokens_by_ratio_are_the_best_set_at_every_level(replacement, pair, drafts, level):
    draft, target = pair
    values = set_chances(draft, drafts, replacement) - level * (members(len(draft)) @ target)
    first = np.arange(len(draft))[:, None] >= np.argsort(ranking(draft, target))[None, :]
    sizes = first @ (1 << np.arange(len(draft))[::-1])
    assert_close(max(0.0, values[sizes].max()), values.max(), "mass")


# --- the best acceptance ---


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("drafts", [1, 2, 3, 4])
@WAYS
def test_acceptance_at_the_extremes_is_the_minimum_over_all_sets(name, drafts, replacement):
    accepted = optimal_acceptance(*SMALL[name], drafts=drafts, replacement=replacement)
    assert_close(accepted, 1 - needed_rejection(*SMALL[name], drafts, replacement), "mass")


@WAYS
@given(pair=law_pairs(max_vocab=6), drafts=DRAWS)
def test_acceptance_is_the_minimum_over_all_sets(replacement, pair, drafts):
    draft, target = pair
    accepted = optimal_acceptance(draft, target, drafts=drafts, replacement=replacement)
    assert_close(accepted, 1 - needed_rejection(draft, target, drafts, replacement), "mass")


@given(pair=law_pairs(max_vocab=12))
def test_more_drafts_accept_more_and_distinct_ones_more_still(pair):
    draft, target = pair
    with_, without = (
        [float(optimal_acceptance(*pair, drafts=k, replacement=replacement)) for k in (1, 2, 3, 6)]
        for replacement in (True, False)
    )
    assert_close([with_[0], without[0]], [1 - tv(*pair)] * 2, "mass")
    assert_at_most(with_, without, "mass")
    for accepted in (with_, without):
        assert_at_most(accepted[:-1], accepted[1:], "mass")
        assert_at_most(accepted, target[draft > 0].sum(), "mass")


def test_many_drafts_accept_all_that_the_draft_can_propose():
    draft, target = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.0, 0.2, 0.5, 0.3])
    assert_close(optimal_acceptance(draft, target, drafts=1000), 0.7, "mass")
    assert_close(optimal_acceptance(draft, target, drafts=3, replacement=False), 0.7, "mass")


# --- the law that all drafts amount to ---


def random_selectable(rng, draft, drafts, replacement, count):
    """Mixtures of "emit the draft that is last in some order"."""
    laws = np.zeros((count, len(draft)))
    for row in laws:
        for share in rng.dirichlet(np.full(3, 0.5)):
            order = rng.permutation(len(draft))
            row[order] += share * chance_gains(draft[order], drafts, replacement=replacement)
    return laws


@WAYS
@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_the_effective_law_can_be_selected_and_is_the_nearest_in_every_divergence(drafts, replacement):
    rng = np.random.default_rng(drafts)
    pairs = [*SMALL.values(), *(random_pair(seed, vocab=5, masked=seed % 2 == 0) for seed in range(12))]
    for draft, target in pairs:
        law = effective_draft(draft, target, drafts=drafts, replacement=replacement)
        assert_law(law)
        assert_close(max(0.0, needed_rejection(draft, law, drafts, replacement)), 0.0, "mass")
        others = random_selectable(rng, draft, drafts, replacement, 30)
        for measure in MEASURES.values():
            assert_at_most(measure.value(law, target), measure.value(others, target), "divergence")


@WAYS
@given(pair=law_pairs(max_vocab=6), drafts=DRAWS)
def test_its_distance_from_the_target_is_the_least_rejection(replacement, pair, drafts):
    draft, target = pair
    law = effective_draft(draft, target, drafts=drafts, replacement=replacement)
    assert_close(max(0.0, needed_rejection(draft, law, drafts, replacement)), 0.0, "mass")
    assert_close(tv(law, target), needed_rejection(draft, target, drafts, replacement), "mass")


def test_two_drafts_of_two_tokens_by_hand():
    # the likelier token of the target is emitted when it is among the two; the other one only if both are
    draft, target = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    assert_close(effective_draft(draft, target, drafts=2), [0.64, 0.36], "mass")
    # ratios of the same law by pools: 1/4 to 0.36 for the first token, more than 0.3, and 0.3 can be had
    assert_close(effective_draft(draft[::-1], target, drafts=2), target, "mass")
    assert_close(effective_draft(draft, target, drafts=2, replacement=False), target, "mass")


# --- the front ---


@WAYS
@pytest.mark.parametrize(("divergence", "drafts"), [(name, (2, 4)[i % 2]) for i, name in enumerate(DIVERGENCES)])
def test_every_point_of_the_front_is_certified_and_needs_its_rejection(divergence, drafts, replacement):
    pairs = [*SMALL.values(), *(random_pair(seed, vocab=6, masked=seed % 2 == 0) for seed in range(6))]
    for draft, target in pairs:
        front = solve_multi_draft_pareto(draft, target, drafts=drafts, divergence=divergence, replacement=replacement)
        end = 1 - float(front.optimal_acceptance)
        for share in (0.0, 0.3, 0.8, 1.0, 1.5):
            point = front.at(rejection=min(1.0, share * end))
            assert point.certificate.holds(1e-9)
            assert_law(point.output_law)
            assert_close(point.rejection, min(share, 1.0) * end, "mass")
            assert_at_most(needed_rejection(draft, point.output_law, drafts, replacement), point.rejection, "mass")


@given(pair=law_pairs(max_vocab=7))
def test_one_draft_has_the_front_of_the_ratio_clip(pair):
    for replacement in (True, False):
        several = solve_multi_draft_pareto(*pair, drafts=1, divergence="kl", replacement=replacement)
        one = tradeoff.solve_pareto(*pair, divergence="kl")
        assert_close(several.rejection, one.rejection, "mass")
        assert_close(several.divergence, one.divergence, "divergence")
        asked = 0.6 * float(one.total_variation)
        assert_close(several.at(rejection=asked).output_law, one.at(rejection=asked).output_law, "mass")


@WAYS
def test_the_tv_front_is_a_straight_line_from_the_best_acceptance(replacement):
    for seed in range(10):
        draft, target = random_pair(seed, vocab=6)
        front = solve_multi_draft_pareto(draft, target, drafts=2, replacement=replacement)
        end = needed_rejection(draft, target, 2, replacement)
        assert_close(front.divergence, end - front.rejection, "mass")


@WAYS
@pytest.mark.parametrize("divergence", ["kl", "reverse_kl", "hellinger"])
def test_more_drafts_have_the_lower_front(divergence, replacement):
    for seed in range(8):
        pair = random_pair(seed, vocab=8)
        fronts = [
            solve_multi_draft_pareto(*pair, drafts=k, divergence=divergence, replacement=replacement)
            for k in (1, 2, 3, 5)
        ]
        for share in (0.0, 0.2, 0.6):
            values = [float(front.at(rejection=share * tv(*pair)).divergence) for front in fronts]
            assert_at_most(values[1:], values[:-1], "divergence")


def test_a_front_answers_the_other_questions_too():
    draft, target = random_pair(3, vocab=8)
    front = solve_multi_draft_pareto(draft, target, drafts=3, divergence="kl", rejection=[0.01, 0.02])
    point = front.at(rejection=0.02)
    assert_close([point.divergence, point.price], [front.divergence[1], front.price[1]], "divergence")
    for question in ("divergence", "price"):
        again = front.at(**{question: getattr(point, question)})
        assert_close(again.rejection, 0.02, "divergence")
        assert again.certificate.holds(1e-9)
    assert_close(front.effective_draft, effective_draft(draft, target, drafts=3), "mass")


# --- certificates ---


def test_what_is_not_optimal_or_not_within_reach_is_not_certified():
    draft, target = random_pair(1, vocab=6)
    point = solve_multi_draft_pareto(draft, target, drafts=2, divergence="kl").at(rejection=0.02)
    assert point.certificate.unique
    assert not solve_multi_draft_pareto(draft, target, drafts=2).at(rejection=0.02).certificate.unique  # TV
    assert_close(point.certificate.price, point.price, "divergence")
    worse = 0.9 * point.output_law + 0.1 * effective_draft(draft, target, drafts=2)  # selectable, hence within reach
    near = target  # lossless, and beyond the budget
    other = solve_multi_draft_pareto(draft, target, drafts=3, divergence="kl").at(rejection=0.02).output_law
    for law, feasible in ((worse, True), (near, False), (other, False)):
        certificate = replace(point, output_law=law).certificate
        assert not certificate.holds(1e-6)
        assert (certificate.infeasibility < 1e-12) == feasible
        assert_at_most(certificate.bound, point.divergence, "divergence")


@WAYS
@given(pair=law_pairs(max_vocab=5), drafts=st.integers(1, 3), share=st.sampled_from([0.0, 0.4, 1.0]))
def test_the_bound_of_any_law_is_below_the_front(replacement, pair, drafts, share):
    draft, target = pair
    for measure in (DIVERGENCES["kl"], DIVERGENCES["reverse_chi2"], MEASURES["kinked"]):
        front = solve_multi_draft_pareto(draft, target, drafts=drafts, divergence=measure, replacement=replacement)
        point = front.at(rejection=share * (1 - float(front.optimal_acceptance)))
        for law in (draft, target, (draft + target) / 2):
            wrong = replace(point, output_law=law)
            assert_at_most(wrong.certificate.bound, point.divergence, "divergence")


def test_a_leak_that_no_selection_avoids_is_bounded_by_infinity():
    draft, target = np.array([0.7, 0.2, 0.1]), np.array([0.0, 0.5, 0.5])
    front = solve_multi_draft_pareto(draft, target, drafts=2, divergence="kl")
    certificate = front.at(rejection=0.48).certificate  # both drafts are off the support with probability 0.49
    assert np.isinf(certificate.bound)
    assert certificate.holds()
    assert not certificate.unique
    assert np.isfinite(front.at(rejection=0.49).certificate.bound)
    assert_close(solve_multi_draft_pareto(draft, target, drafts=2).at(rejection=0.4).output_law[0], 0.09, "mass")


# --- published rules ---

IID = [RecursiveRejection(), KSeq(), KSeq(rho=1.0), KSeq(rho=1.3), KSeq(rho=4.0)]


@pytest.mark.parametrize("rule", [*IID, RecursiveRejection(replacement=False)], ids=repr)
@pytest.mark.parametrize("drafts", [1, 2, 3])
def test_no_rule_is_below_the_front_of_its_drafts(rule, drafts):
    replacement = getattr(rule, "replacement", True)
    for seed in range(8):
        draft, target = random_pair(seed, vocab=5, masked=seed % 2 == 0)
        outcome = evaluate_multi_draft(rule, draft, target, drafts=drafts)
        accepted = optimal_acceptance(draft, outcome.output_law, drafts=drafts, replacement=replacement)
        assert_at_most(1 - accepted, outcome.rejection, "mass")
        for divergence in ("tv", "kl", "chi2"):
            front = solve_multi_draft_pareto(
                draft, target, drafts=drafts, divergence=divergence, replacement=replacement
            )
            best = front.at(rejection=min(1.0, outcome.rejection)).divergence
            assert_at_most(best, outcome.divergence_in(divergence), "divergence")


@pytest.mark.parametrize("rule", [GreedyMultiDraft(), SGLangTree()], ids=repr)
def test_likeliest_drafts_have_a_bound_of_their_own(rule):
    # they are not drawn from the draft, so they may beat the best that drawn ones can do
    above = []
    for seed in range(12):
        draft, target = random_pair(seed, vocab=5)
        accepted = 1 - evaluate_multi_draft(rule, draft, target, drafts=2).rejection
        above.append(accepted - float(optimal_acceptance(draft, target, drafts=2, replacement=False)))
        tuples = list(rule.proposals(draft, 2))
        chances = [sum(c for tokens, c in tuples if inside[list(tokens)].all()) for inside in members(5)]
        assert_close(accepted, 1 + (members(5) @ target - chances).min(), "mass")
    assert max(above) > 0.01
    assert min(above) < -0.01


# --- arrays, sizes, the door ---


@pytest.mark.parametrize("backend", BACKENDS)
@WAYS
def test_a_batch_of_any_library_equals_its_rows(backend, replacement):
    pairs = np.array([[random_pair(seed, vocab=6, masked=seed == 1) for seed in range(3)] for _ in range(2)])
    draft, target = (BACKENDS[backend](pairs[:, :, side]) for side in (0, 1))
    front = solve_multi_draft_pareto(draft, target, drafts=3, divergence="js", replacement=replacement)
    point = front.at(rejection=0.05)
    assert type(point.output_law) is type(draft)
    assert point.certificate.holds(1e-9)
    accepted = optimal_acceptance(draft, target, drafts=3, replacement=replacement)
    for row in np.ndindex(2, 3):
        alone = solve_multi_draft_pareto(*pairs[row], drafts=3, divergence="js", replacement=replacement)
        assert_close(to_numpy(point.output_law)[row], alone.at(rejection=0.05).output_law, "mass")
        assert_close(to_numpy(accepted)[row], alone.optimal_acceptance, "mass")


def test_a_full_vocabulary_takes_one_sort():
    rng = np.random.default_rng(0)
    target = rng.permutation(1 / np.arange(1, 50_001))
    draft = target * np.exp(rng.normal(size=50_000))
    draft, target = draft / draft.sum(), target / target.sum()
    start = time.perf_counter()
    accepted = float(optimal_acceptance(draft, target, drafts=4))
    assert time.perf_counter() - start < 1
    order = np.argsort(-draft / target)
    expected = 1 + (np.cumsum(target[order]) - np.cumsum(draft[order]) ** 4).min()
    assert_close(accepted, expected, "mass of a large vocabulary")
    law = effective_draft(draft, target, drafts=4)
    assert_close(1 - tv(law, target), accepted, "mass of a large vocabulary")


@pytest.mark.parametrize("function", [optimal_acceptance, effective_draft, solve_multi_draft_pareto])
def test_bad_input_is_a_one_line_error(function):
    law = [0.5, 0.5]
    for given_laws, drafts, message in [
        (([0.5, 0.6], law), 2, "draft law: expected probabilities that sum to 1"),
        ((law, law), 0, "drafts: expected a whole number"),
        ((law, law), 1.5, "drafts: expected a whole number"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            function(*given_laws, drafts=drafts)
        assert "\n" not in str(caught.value)
    assert function([2, 1], [1, 1], drafts=2, normalise=True) is not None


def test_a_point_is_the_best_rule_of_a_draft_picked_with_the_effective_law():
    draft, target = random_pair(3, vocab=5)
    front = solve_multi_draft_pareto(draft, target, drafts=3, divergence="kl")
    point = front.at(rejection=0.4 * float(front.total_variation))
    assert_close(point.draft, front.effective_draft, "mass")
    assert_close(point.sampled_draft, draft, "mass")
    output = point.acceptance * point.draft + point.rejection * point.residual
    assert_close(output, point.output_law, "mass")
    assert list(front.to_dict()) == ["position", "rejection", "divergence", "price"]
    assert list(point.to_dict()) == ["position", "rejection", "divergence", "price", "floor", "ceiling"]
    with pytest.raises(InputError, match="alternatives: expected a front of solve_pareto"):
        front.alternatives(rejection=0.1)
