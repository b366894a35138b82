"""The front of whole texts: its ends, its shape, its proof, and what rules that do not look ahead give away."""

import dataclasses
import math
import tracemalloc
from itertools import product

import numpy as np
import pytest
from laws import output_of, tv
from tolerances import assert_at_most, assert_close, assert_law

from solvers.chain_program import LARGEST_PRICE
from solvers.convex_chain_program import ChainProgram
from solvers.divergences import DIVERGENCES
from solvers.errors import InputError
from tradeoff import rules, solve_pareto
from tradeoff.chains import expected_rejections
from tradeoff.chains.chain import MarkovChain
from tradeoff.chains.sequence import PRICES, solve_sequence_pareto

KL = DIVERGENCES["kl"].value


def chains(seed, *, tokens=4, order=1, time=None, flatness=0.5, zeros=False):
    """Draw a draft and a target with one law of the prompt; `zeros` forbids the target a third of the tokens."""
    rng = np.random.default_rng(seed)
    states = tokens**order
    shape = (2, states) if time is None else (2, time, states)
    draft, target = rng.dirichlet(np.full(tokens, flatness), size=shape)
    if zeros:
        target = np.where(rng.random(target.shape) < 1 / 3, 0.0, target)
        target[..., 0] += 0.1
        target /= target.sum(-1, keepdims=True)
    initial = rng.dirichlet(np.ones(states))
    return tuple(MarkovChain(transitions=law, initial=initial) for law in (draft, target))


def rule_laws(rule, draft, target):
    """Acceptance and residual of a rule in every state."""
    laws = draft.transitions, target.transitions
    return rule.acceptance(*laws), rule.residual(*laws)


def enumerated(draft, target, output):
    """KL of the text and its expected rejections, summed over all texts of an output chain of order 1."""
    texts, rejections = {(token,): (mass, mass) for token, mass in enumerate(output.initial)}, 0.0
    for step in range(output.time):
        rejected = tv(draft.laws(step), output.laws(step))
        rejections += sum(mass * rejected[text[-1]] for text, (mass, _) in texts.items())
        texts = {
            (*text, token): (mass * output.laws(step)[text[-1], token], truth * target.laws(step)[text[-1], token])
            for (text, (mass, truth)), token in product(texts.items(), range(output.tokens))
        }
    return sum(mass * math.log(mass / truth) for mass, truth in texts.values() if mass > 0), rejections


# --- one token, whole texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [False, True])
def test_a_text_of_one_token_is_the_front_of_positions_that_share_a_budget(zeros):
    draft, target = chains(3, tokens=6, zeros=zeros)
    front = solve_sequence_pareto(draft, target, horizon=1, price=1.0)
    laws = draft.transitions, target.transitions
    positions = solve_pareto(*laws, divergence="kl", budget="mean", weights=draft.initial, rejection=1.0)
    least = 1.01 * front.at(price=math.inf).rejection
    assert_close(front.lossless_rejection, positions.total_variation, "mass")
    for asked in ({"price": 0.7}, {"price": 3.0}, {"rejection": max(0.5 * float(positions.total_variation), least)}):
        whole = front.at(**asked)
        point = positions.at(**asked)
        assert_close(whole.divergence, point.mean_divergence, "divergence")
        assert_close(whole.rejection, point.mean_rejection, "divergence")
        assert_close(whole.policy(0).output_law, point.output_law, "divergence")
        assert_close(whole.policy(0).rejection, point.rejection, "divergence")


@pytest.mark.parametrize("seed", [0, 1])
def test_kl_and_rejections_are_those_of_all_texts(seed):
    draft, target = chains(seed, tokens=3, time=3)
    point = solve_sequence_pareto(draft, target, price=1.2).points[0]
    assert_close([point.divergence, point.rejection], enumerated(draft, target, point.output_chain()), "divergence")
    assert_close(point.objective, target.initial @ point.values[0], "divergence")
    assert_close(point.state_laws, point.output_chain().state_laws(), "mass")


def test_texts_of_independent_tokens_need_no_look_ahead():
    draft, target = chains(5, tokens=5, order=0)
    point = solve_sequence_pareto(draft, target, horizon=6, price=1.5).points[0]
    single = solve_pareto(draft.transitions[0], target.transitions[0], divergence="kl").at(price=1.5)
    assert_close(
        [point.divergence, point.rejection], [6 * float(single.divergence), 6 * float(single.rejection)], "mass"
    )
    assert_close(point.policy(2).output_law[0], single.output_law, "mass")
    front = solve_sequence_pareto(draft, target, horizon=6, price=1.5)
    assert_close(front.alternatives(rejection=1.0).gain["common_price"], 1.0, "search")


def test_a_chain_of_order_two_equals_the_chain_of_order_one_over_its_pairs_of_tokens():
    draft, target = chains(2, tokens=3, order=2)
    point = solve_sequence_pareto(draft, target, horizon=4, price=0.9).points[0]
    # the same as [9, 9] transitions over pairs, most of them impossible
    wide = []
    for chain in (draft, target):
        law = np.zeros((9, 9))
        np.put_along_axis(law, chain.successors, chain.transitions, axis=1)
        wide.append(MarkovChain(transitions=law, initial=chain.initial))
    other = solve_sequence_pareto(wide[0], wide[1], horizon=4, price=0.9).points[0]
    assert_close(point.step_divergence, other.step_divergence, "divergence")
    assert_close(point.step_rejection, other.step_rejection, "divergence")


# --- ends and shape --------------------------------------------------------------------------------------------


def test_the_front_is_convex_and_falls_from_the_draft_to_lossless():
    draft, target = chains(1)
    front = solve_sequence_pareto(draft, target, horizon=6)
    assert front.price.tolist() == list(PRICES)
    assert (np.diff(front.rejection) < 0).all()
    assert (np.diff(front.divergence) > 0).all()
    slopes = -np.diff(front.divergence) / np.diff(front.rejection)
    # a chord is as steep as some price between those of its ends
    assert_at_most(front.price[:-1], slopes, "divergence")
    assert_at_most(slopes, front.price[1:], "divergence")
    assert_close([front.divergence[0], front.rejection[0]], [0.0, front.lossless_rejection], "mass")
    assert list(front.to_dict()) == ["rejection", "divergence", "price"]
    assert front.to_dict()["divergence"] == front.divergence.tolist()


def test_lossless_costs_what_theorem_1_says_and_more_rejections_buy_nothing():
    draft, target = chains(2)
    front = solve_sequence_pareto(draft, target, horizon=5, price=1.0)
    assert_close(front.lossless_rejection, expected_rejections(draft, target, horizon=5).mean, "mass")
    for rejections in (front.lossless_rejection, 100.0):
        point = front.at(rejection=rejections)
        assert point.price == 0
        assert_close(point.policy(3).output_law, target.transitions, "mass")


def test_no_rejections_and_an_infinite_price_are_the_draft():
    draft, target = chains(2, flatness=1.0)
    front = solve_sequence_pareto(draft, target, horizon=5, price=math.inf)
    kl = sum(law @ KL(draft.transitions, target.transitions) for law in draft.state_laws(5)[:-1])
    for point in (front.points[0], front.at(rejection=0.0)):
        assert point.price == LARGEST_PRICE
        assert_close([point.divergence, point.rejection], [kl, 0.0], "divergence")
        assert_close(point.policy(0).acceptance, np.ones((4, 4)), "mass")


@pytest.mark.parametrize("zeros", [False, True])
def test_every_number_of_rejections_is_met_exactly_and_costs_its_price(zeros):
    draft, target = chains(4, zeros=zeros)
    front = solve_sequence_pareto(draft, target, horizon=5, price=1.0)
    least = front.at(price=math.inf).rejection
    for share in (0.02, 0.3, 0.6, 0.97):
        wanted = least + share * (front.lossless_rejection - least)
        point = front.at(rejection=wanted)
        assert_close(point.rejection, wanted, "divergence")
        assert_close(front.at(price=point.price).divergence, point.divergence, "divergence")
        near = front.at(rejection=wanted + 1e-5)
        assert_close((point.divergence - near.divergence) / 1e-5, point.price, "interior point multiplier")


def test_policies_are_rules_with_the_laws_they_say():
    draft, target = chains(6, time=4, zeros=True)
    point = solve_sequence_pareto(draft, target, price=2.0).points[0]
    law = draft.initial
    for step in range(4):
        outcome = point.policy(step)
        assert_law(outcome.output_law)
        assert_law(outcome.residual)
        assert_close(outcome.rejection, tv(draft.laws(step), outcome.output_law), "mass")
        assert_close(outcome.leak, np.zeros(4), "mass")
        assert_close(law @ outcome.rejection, point.step_rejection[step], "divergence")
        assert_close(law @ outcome.kl, point.step_divergence[step], "divergence")
        law = law @ outcome.output_law


# --- proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["dynamic_programme", "cvxpy"])
@pytest.mark.parametrize("seed", range(4))
def test_points_are_proved_and_both_solvers_agree(solver, seed):
    draft, target = chains(seed, tokens=3, zeros=seed % 2 == 1)
    exact = solve_sequence_pareto(draft, target, horizon=4, price=[0.5, 2.0])
    front = solve_sequence_pareto(draft, target, horizon=4, price=[0.5, 2.0], solver=solver)
    half = exact.points[1].rejection
    for point, other in [*zip(front.points, exact.points, strict=True), (front.at(rejection=half), exact.points[1])]:
        assert point.certificate.holds(1e-11 if solver == "dynamic_programme" else 1e-6)
        assert_close(
            [point.divergence, point.rejection], [other.divergence, other.rejection], "interior point multiplier"
        )
        assert_close(point.price, other.price, "interior point multiplier")
        assert_close(point.divergence + other.price * point.rejection, other.objective, "interior point objective")
        assert_close(point.state_laws, other.state_laws, "interior point multiplier")
    assert front.points[0].solved_by.startswith("dynamic" if solver == "dynamic_programme" else "CLARABEL")


def test_policies_that_are_not_optimal_or_no_rules_are_not_proved():
    draft, target = chains(3, flatness=0.3)
    point = solve_sequence_pareto(draft, target, horizon=6, price=1.5).points[0]
    for rule in (rules.CommonPrice(price=1.5), rules.RatioClip(ceiling=2.0), rules.DecodingOPT(epsilon=0.2)):
        myopic = rule_laws(rule, draft, target)
        certificate = dataclasses.replace(point, _rule=lambda step, rule=myopic: rule).certificate
        assert certificate.gap > 1e-3
        assert_at_most(certificate.infeasibility, 0.0, "mass")
        assert not certificate.holds()
    acceptance, residual = point._rule(2)
    for broken in ((acceptance + 0.1, residual), (acceptance, 0.9 * residual), (acceptance * np.nan, residual)):
        wrong = dataclasses.replace(point, _rule=lambda step, rule=broken: rule)
        assert not wrong.certificate.infeasibility < 1e-3
    assert dataclasses.replace(point, floor=1.2 * point.floor).certificate.gap > 1e-3


def test_the_bound_is_below_every_rule_at_every_price():
    rng = np.random.default_rng(0)
    draft, target = chains(8)
    point = solve_sequence_pareto(draft, target, horizon=4, price=1.0).points[0]
    for _ in range(50):
        steps = [
            (rng.random((4, 4)), rng.dirichlet(np.ones(4), size=4))
            if rng.random() < 0.3
            else rule_laws(rules.CommonPrice(price=3 * rng.random()), draft, target)
            for _ in range(4)
        ]
        certificate = dataclasses.replace(point, _rule=lambda step, steps=steps: steps[step]).certificate
        assert certificate.gap > 0


def test_a_proof_holds_the_laws_of_one_step_at_a_time():
    point = solve_sequence_pareto(*chains(0, tokens=128), horizon=40, price=1.0).points[0]
    tracemalloc.start()
    assert point.certificate.holds(1e-9)
    peak = tracemalloc.get_traced_memory()[1] / point.problem.draft.nbytes
    tracemalloc.stop()
    assert peak < 20, f"{peak:.1f} arrays of the size of a law in every state"


# --- what rules that do not look ahead give away -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_looking_ahead_is_never_worse_and_all_spend_the_same(seed):
    draft, target = chains(seed, tokens=5, flatness=(0.3, 1.0)[seed % 2], time=6 if seed < 2 else None)
    front = solve_sequence_pareto(draft, target, horizon=6, price=1.0)
    wanted = (0.25 + 0.1 * seed) * front.lossless_rejection
    ways = front.alternatives(rejection=wanted)
    assert_close(ways.rejection, wanted, "divergence")
    assert_close(ways.optimum, front.at(rejection=wanted).divergence, "divergence")
    assert set(ways.gain) == {"common_price", "common_ceiling", "epsilon"}
    for name, rule in ways.rules.items():
        assert ways.gain[name] >= 1.0
        walk = expected_rejections(draft, target, rule, horizon=6)
        assert_close(walk.mean, wanted, "divergence")
        output = output_of(draft.transitions, *rule_laws(rule, draft, target))
        kl = (walk.state_laws[:-1] * KL(output, target.transitions)).sum()
        assert_close(getattr(ways, name), kl, "divergence")


def test_what_looking_ahead_saves_on_six_state_chains():
    gains = []
    for seed in range(12):
        draft, target = chains(seed, tokens=6)
        front = solve_sequence_pareto(draft, target, horizon=8, price=1.0)
        gains.append(front.alternatives(rejection=0.5 * front.lossless_rejection).gain)
    price, ceiling, epsilon = (np.array([gain[name] for gain in gains]) for name in gains[0])
    assert 1.01 < price.min() < np.median(price) < price.max() < 1.5
    assert 1.04 < np.median(price) < 1.15
    assert np.median(price) < np.median(ceiling) < np.median(epsilon) < 3


def test_the_smallest_knob_is_found_where_rejections_rise_again():
    # one prompt leads to the trap above, more surely the dearer a rejection is; the other is nearly the target's text
    initial = np.array([0.5, 0.0, 0.5, 0.0])
    draft = np.array([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]])
    target = np.array([[0.7, 0.3, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.45, 0.55], [0.0, 0.0, 0.45, 0.55]])
    draft, target = (MarkovChain(transitions=law, initial=initial) for law in (draft, target))
    front = solve_sequence_pareto(draft, target, horizon=5, price=0.0)
    prices = np.geomspace(0.01, 100.0, 60)
    spent = np.array([expected_rejections(draft, target, rules.CommonPrice(price=x), horizon=5).mean for x in prices])
    assert spent.min() + 0.02 < spent[0] < spent[-1]
    wanted = 0.5 * (spent.min() + spent[0])
    ways = front.alternatives(rejection=wanted)
    rule = ways.rules["common_price"]
    assert isinstance(rule, rules.CommonPrice)
    assert rule.price < prices[np.argmin(spent)]
    assert_close(expected_rejections(draft, target, rule, horizon=5).mean, wanted, "divergence")
    assert 1 < ways.gain["common_price"] < math.inf


def test_without_anything_to_give_away_all_ways_are_equal():
    draft, target = chains(1)
    front = solve_sequence_pareto(draft, target, horizon=4, price=1.0)
    assert set(front.alternatives(rejection=50.0).gain.values()) == {1.0}
    same = solve_sequence_pareto(target, target, horizon=4, price=1.0)
    assert set(same.alternatives(rejection=0.0).gain.values()) == {1.0}


def test_a_mask_stops_rules_that_leak_and_rules_that_do_not_look_ahead():
    # token 1 leads to a state in which every draft is rejected, for ever
    initial = np.array([1.0, 0.0])
    draft = MarkovChain(transitions=np.array([[0.5, 0.5], [1.0, 0.0]]), initial=initial)
    target = MarkovChain(transitions=np.array([[0.7, 0.3], [0.0, 1.0]]), initial=initial)
    front = solve_sequence_pareto(draft, target, horizon=5, price=1.0)
    # reject token 1 while more than one rejection would follow: 0.5 at three steps, then 0.5 at one of the last two
    assert_close(front.at(price=math.inf).rejection, 2.0, "mass")
    with pytest.raises(InputError, match="rejection: expected at least 2, the fewest that keep the text on the"):
        front.at(rejection=1.9)
    ways = front.alternatives(rejection=2.1)
    assert ways.optimum < 5
    assert ways.common_price == ways.common_ceiling == ways.epsilon == math.inf
    # accepting more of token 1 rejects less now and more over the text
    eager = expected_rejections(draft, target, rules.CommonPrice(price=9.0), horizon=5)
    assert eager.per_step[0] < 0.1
    assert eager.mean > front.lossless_rejection + 0.1


# --- the door ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": None}, "horizon: expected the number of tokens"),
        ({"horizon": 0}, "horizon: expected a whole number"),
        ({"price": -1.0}, "price: expected at least 0"),
        ({"price": [1.0, math.nan]}, "price: expected at least 0"),
        ({"price": []}, "price: expected at least one value"),
        ({"price": [[1.0, 2.0]]}, "price: expected one number"),
        ({"price": "high"}, "price: expected a number"),
        ({"solver": "linear"}, "solver: expected 'dynamic_programme' or 'cvxpy'; got 'linear'"),
        ({"draft": np.eye(4)}, "draft: expected a MarkovChain"),
    ],
)
def test_what_cannot_be_used_is_an_input_error(changes, message):
    draft, target = chains(0)
    arguments = {"draft": draft, "target": target, "horizon": 3, "price": 1.0} | changes
    with pytest.raises(InputError, match=message):
        solve_sequence_pareto(arguments.pop("draft"), arguments.pop("target"), **arguments)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "at: expected exactly one of rejection= and price="),
        ({"price": 1.0, "rejection": 1.0}, "at: expected exactly one of"),
        ({"rejection": -0.1}, "rejection: expected at least 0"),
        ({"rejection": [0.1, 0.2]}, "rejection: expected one number"),
    ],
)
def test_a_question_that_is_not_one_number_is_an_input_error(asked, message):
    front = solve_sequence_pareto(*chains(0), horizon=3, price=1.0)
    with pytest.raises(InputError, match=message):
        front.at(**asked)


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_outside_the_text_has_no_policy(step):
    with pytest.raises(InputError, match=r"step: expected 0 to 2; got"):
        solve_sequence_pareto(*chains(0), horizon=3, price=1.0).points[0].policy(step)


def test_states_that_no_text_gets_to_are_lossless_in_a_policy_of_the_convex_program():
    initial = np.eye(3)[0]
    transitions = np.array([[0.4, 0.6, 0.0], [0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])
    target = MarkovChain(transitions=transitions, initial=initial)
    draft = dataclasses.replace(target, transitions=np.full((3, 3), 1 / 3))
    point = solve_sequence_pareto(draft, target, horizon=3, price=1.0, solver="cvxpy").points[0]
    assert_close(point.policy(1).output_law[2], target.transitions[2], "mass")
    assert ChainProgram(point.problem).at_price(1.0).masses[1, 2].sum() == 0
