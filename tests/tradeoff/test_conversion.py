"""`convert` and `Positions`: one rule's knob as another's, against closed forms and against plain means."""

import numpy as np
import pytest
import torch
from laws import BACKENDS
from tolerances import assert_close

from solvers.errors import InputError
from tradeoff import Positions, convert, evaluate
from tradeoff.conversion import mean, set_knob
from tradeoff.outcome.positions import CHUNK, measure, rejections
from tradeoff.rules import (
    MARS,
    Cactus,
    DecodingUNO,
    Ensemble,
    Lenience,
    LogitComparison,
    RatioClip,
    SpeculativeSampling,
    TopKGate,
    Typical,
)
from tradeoff.rules.registry import families, family_from

LAWS = np.random.default_rng(0).dirichlet(np.full(30, 0.4), size=(2, 300))
DRAFT, TARGET = LAWS
LOGITS = np.random.default_rng(1).normal(size=(2, 50, 12)) * 3


def plain_mean(rule, match):
    outcome = evaluate(rule, DRAFT, TARGET)
    return float((outcome.rejection if match == "rejection" else outcome.divergence_in(match)).mean())


@pytest.mark.parametrize("match", ["rejection", "kl", "tv", "js"])
@pytest.mark.parametrize("to", ["lenience", "ensemble", "cactus:exact=true", "decoding_opt", "ears"])
def test_the_converted_rule_has_the_same_mean(to, match):
    found = convert(Lenience(factor=0.4), to=to, at=(DRAFT, TARGET), match=match)
    assert abs(plain_mean(found.rule, match) - plain_mean(Lenience(factor=0.4), match)) < 1e-8
    assert abs(found.error) < 1e-8
    assert found.reached == pytest.approx(plain_mean(found.rule, match), abs=1e-12)
    assert getattr(found.rule, found.knob) == found.value
    assert found.match == match


def test_to_itself_and_back():
    there = convert(Cactus(delta=0.3), to="ensemble", at=(DRAFT, TARGET))
    back = convert(there.rule, to="cactus", at=(DRAFT, TARGET))
    assert_close(back.value, 0.3, "search")
    assert_close(convert(Lenience(factor=0.4), to="ratio_clip", at=(DRAFT, TARGET)).value, 2.5, "search")


def test_an_ensembles_weight_is_the_share_of_the_total_variation():
    # R = w TV at every position
    rejection = plain_mean(Lenience(factor=0.4), "rejection")
    weight = rejection / float((np.abs(DRAFT - TARGET).sum(-1) / 2).mean())
    assert_close(convert(Lenience(factor=0.4), to="ensemble", at=(DRAFT, TARGET)).value, weight, "search")


def test_at_a_lossless_rule_the_knob_is_the_strict_end():
    for to, strict in (("lenience", 1.0), ("cactus", 0.0), ("decoding_opt", 0.0), ("ensemble", 1.0)):
        found = convert(SpeculativeSampling(), to=to, at=(DRAFT, TARGET))
        assert abs(found.error) < 1e-12
        assert_close(found.value, strict, "search")


def test_a_rule_that_moves_in_steps_takes_the_nearest_step_and_says_how_far_it_is():
    found = convert(Lenience(factor=0.4), to="top_k_gate", at=(DRAFT, TARGET))
    wanted = plain_mean(Lenience(factor=0.4), "rejection")
    errors = [abs(plain_mean(TopKGate(k=k), "rejection") - wanted) for k in range(1, 31)]
    assert isinstance(found.rule, TopKGate)
    assert found.rule.k == 1 + int(np.argmin(errors))
    assert_close(abs(found.error), min(errors), "mass")
    assert abs(found.error) > 1e-4
    assert found.setting.wanted == pytest.approx(wanted, abs=1e-12)


def test_a_jump_on_one_position_is_reported_as_an_error_not_hidden():
    # typical acceptance of one position rejects all of a token or nothing of it
    found = convert(Lenience(factor=0.4), to="typical", at=(DRAFT[0], TARGET[0]))
    reached = {
        float(evaluate(Typical(threshold=t), DRAFT[0], TARGET[0]).rejection) for t in np.geomspace(1e-12, 1, 999)
    }
    wanted = float(evaluate(Lenience(factor=0.4), DRAFT[0], TARGET[0]).rejection)
    assert_close(abs(found.error), min(abs(each - wanted) for each in reached), "mass")


def test_what_cannot_be_reached_says_what_can():
    with pytest.raises(
        InputError, match=r"ensemble: expected a mean its target_weight can reach, from \S+ to 0\.658 here"
    ):
        convert(Typical(threshold=0.9), to="ensemble", at=(DRAFT, TARGET))
    # its residual is biased however little it accepts
    with pytest.raises(InputError, match=r"from 1\.\d+ to 2\.\d+ here; got 0\.09"):
        convert(Lenience(factor=0.4), to="decoding_uno:residual=draft", at=(DRAFT, TARGET), match="kl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "openvino"}, "openvino: expected a rule with a knob"),
        ({"to": "lenience:factor=0.5"}, "expected its knob, factor, left free"),
        ({"to": "lenient"}, "did you mean 'lenience'"),
        ({"to": "lenience", "match": "speed"}, "divergence"),
        ({"to": "lenience", "at": (DRAFT, 2 * TARGET)}, "target law: expected probabilities that sum to 1"),
        ({"to": "lenience", "at": (DRAFT, TARGET[:, :5])}, "equal shapes"),
    ],
)
def test_arguments_that_cannot_be_used_are_one_line_errors(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        convert(Lenience(factor=0.4), **{"at": (DRAFT, TARGET)} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [f for f in families() if not f.info.needs], ids=lambda family: family.spec)
def test_every_knob_is_found_again_from_the_rejection_it_leads_to(family):
    positions = Positions.of(DRAFT[:40], TARGET[:40])
    wanted = mean(family.at(family.knob.value(0.4)), positions, "rejection")
    setting = set_knob(family, lambda rule: mean(rule, positions, "rejection"), wanted)
    assert abs(setting.error) < 1e-8
    assert setting.reached == mean(family.at(setting.value), positions, "rejection")


def test_measurements_made_before_are_not_made_again():
    family, asked = family_from("ensemble"), []

    def measured(rule):
        asked.append(rule)
        return 0.5 * rule.target_weight

    known = ((0.0, 0.5), (0.25, 0.375), (0.5, 0.25), (1.0, 0.0))
    setting = set_knob(family, measured, 0.25, known=known)
    assert (setting.value, asked) == (0.5, [])
    setting = set_knob(family, measured, 0.3, known=known)
    assert_close(setting.value, 0.6, "search")
    assert all(0.5 < rule.target_weight < 0.75 for rule in asked)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS.keys())
def test_positions_measure_what_evaluate_does_in_any_library_and_chunk_by_chunk(backend):
    positions = Positions.of(backend(DRAFT), backend(TARGET))
    assert len(positions) == len(DRAFT) > 2 * CHUNK
    columns = measure(DecodingUNO(epsilon=0.05), positions, ("kl", "js"))
    outcome = evaluate(DecodingUNO(epsilon=0.05), DRAFT, TARGET)
    for name in ("rejection", "gap", "leak", "tv", "kl"):
        wanted = getattr(outcome, name)
        assert_close(columns[name], wanted, "mass") if name in columns else None
    assert_close(columns["js"], outcome.divergence_in("js"), "mass")
    assert_close(rejections(DecodingUNO(epsilon=0.05), positions), outcome.rejection, "mass")
    assert_close(positions.total_variation, np.abs(DRAFT - TARGET).sum(-1) / 2, "mass")


def test_positions_of_logits_are_softmaxes_at_the_temperature():
    for backend in (np.asarray, torch.asarray):
        positions = Positions.from_logits(backend(LOGITS[0]), backend(LOGITS[1]), temperature=0.5)
        chunk = next(positions.chunks())
        masses = np.exp(2 * LOGITS)
        laws = masses / masses.sum(-1, keepdims=True)
        assert_close(chunk.draft, laws[0], "mass")
        assert_close(chunk.target, laws[1], "mass")
        assert_close(chunk.target_logits, LOGITS[1], "mass")


def test_a_greedy_draft_is_a_point_mass():
    positions = Positions.from_logits(*LOGITS, greedy_draft=True, prompt=np.arange(50) // 10)
    assert (positions.draft.argmax(-1) == LOGITS[0].argmax(-1)).all()
    assert set(np.unique(positions.draft)) == {0.0, 1.0}
    assert positions.prompts == 5
    # against a point mass, the mass of the drafted token off the target's is all there is to reject
    own = np.take_along_axis(next(positions.chunks()).target, LOGITS[0].argmax(-1)[:, None], axis=-1)
    assert_close(rejections(SpeculativeSampling(), positions), 1 - own[:, 0], "mass")


def test_rules_that_compare_logits_find_them_in_the_positions():
    positions = Positions.from_logits(*LOGITS)
    accepted = LOGITS[0] <= LOGITS[1] + 1e-5
    draft = next(positions.chunks()).draft
    assert_close(rejections(LogitComparison(), positions), 1 - (draft * accepted).sum(-1), "mass")
    assert convert(LogitComparison(), to="ensemble", at=positions, match="kl").error < 1e-8
    assert 0 < mean(MARS(theta=0.5), positions, "rejection") < mean(MARS(theta=0.99), positions, "rejection") < 1
    with pytest.raises(InputError, match="MARS: expected raw logits"):
        mean(MARS(), Positions.of(DRAFT, TARGET), "rejection")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Positions.from_logits(*LOGITS, temperature=0.0), "temperature: expected a number > 0; got 0.0"),
        (lambda: Positions.from_logits(LOGITS[0], LOGITS[1][:3]), r"logits: expected equal shapes .*\(50, 12\)"),
        (lambda: Positions.from_logits(LOGITS[0][0], LOGITS[1][0]), "logits: expected equal shapes"),
    ],
)
def test_positions_that_cannot_be_made_are_one_line_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_at_equal_rejection_the_common_ceiling_is_never_worse_than_what_it_was_converted_from():
    for rule in (Lenience(factor=0.4), Ensemble(target_weight=0.6), Cactus(delta=0.3)):
        clip = convert(rule, to="ratio_clip", at=(DRAFT, TARGET)).rule
        assert isinstance(clip, RatioClip)
        assert plain_mean(clip, "kl") < plain_mean(rule, "kl")


def test_a_mean_that_rises_and_falls_is_met_between_the_ends():
    def measured(rule):
        return rule.target_weight * (1 - rule.target_weight)

    setting = set_knob(family_from("ensemble"), measured, 0.2)
    # the first of the two, from the strict end
    assert_close(setting.value, (1 + 0.2**0.5) / 2, "search")
