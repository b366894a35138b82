"""Rules by name: what a spec may say, what it may not, what the list tells, and how far each knob reaches."""

import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
from rule_cases import random_pairs

from tradeoff import InputError, evaluate, rules
from tradeoff.rules import available, from_spec
from tradeoff.rules.info import Knob
from tradeoff.rules.registry import families, family_from

SPECS: dict[str, Any] = {
    "speculative_sampling": rules.SpeculativeSampling(),
    "lenience:factor=0.5": rules.Lenience(factor=0.5),
    "distillspec:function=linear,epsilon=0.5": rules.DistillSpec(function="linear", epsilon=0.5),
    "distillspec:function=square,epsilon=0.5": rules.DistillSpec(function="square", epsilon=0.5),
    "distillspec:function=exponential,epsilon=0.5": rules.DistillSpec(function="exponential", epsilon=0.5),
    "distillspec:epsilon=0.5": rules.DistillSpec(epsilon=0.5),
    "lossy_speculative:alpha=0.4,beta=0.8": rules.LossySpeculative(alpha=0.4, beta=0.8),
    "lossy_speculative:alpha=0.4": rules.LossySpeculative(alpha=0.4),
    "mentored:kl=0.2": rules.Mentored(kl=0.2),
    "decoding_opt:epsilon=0.1": rules.DecodingOPT(epsilon=0.1),
    "decoding_uno:epsilon=0.1,residual=target": rules.DecodingUNO(epsilon=0.1, residual="target"),
    "decoding_uno:epsilon=0.1,residual=draft": rules.DecodingUNO(epsilon=0.1, residual="draft"),
    "ears": rules.EARS(beta=0.0),
    "ears:beta=0.3": rules.EARS(beta=0.3),
    "additive_slack:epsilon=0.1": rules.AdditiveSlack(epsilon=0.1),
    "ensemble:target_weight=0.8": rules.Ensemble(target_weight=0.8),
    "contrastive:alpha=0.5": rules.Contrastive(alpha=0.5),
    "cactus:delta=0.75": rules.Cactus(delta=0.75, exact=False),
    "cactus:delta=0.75,exact=false": rules.Cactus(delta=0.75, exact=False),
    "cactus:delta=0.75,exact=true": rules.Cactus(delta=0.75, exact=True),
    "top_k_gate": rules.TopKGate(k=5),
    "top_k_gate:k=3": rules.TopKGate(k=3),
    "typical": rules.Typical(threshold=0.09, alpha=0.3),
    "typical:threshold=0.2,alpha=0.4": rules.Typical(threshold=0.2, alpha=0.4),
    "tensorrt_relaxed": rules.TensorRTRelaxed(top_k=1, delta=0.0),
    "tensorrt_relaxed:top_k=10,delta=0.6": rules.TensorRTRelaxed(top_k=10, delta=0.6),
    "sglang": rules.SGLang(single=1.0, acc=1.0),
    "sglang:single=0.6,acc=0.8": rules.SGLang(single=0.6, acc=0.8),
    "sample_match": rules.SampleMatch(),
    "synthetic:rate=0.7": rules.Synthetic(rate=0.7),
    "openvino": rules.OpenVINO(),
    **{
        f"fuzzy:divergence={divergence},threshold=0.2,fallback={fallback}": rules.Fuzzy(
            divergence=divergence, threshold=0.2, fallback=fallback
        )
        for divergence in ("kl", "js", "tv")
        for fallback in ("target", "speculative")
    },
    "fuzzy:threshold=0.2": rules.Fuzzy(divergence="js", threshold=0.2, fallback="target"),
    **{
        f"cascade:variant={variant},alpha=-0.1": rules.Cascade(variant=variant, alpha=-0.1)
        for variant in ("chow", "diff", "opt", "tok1", "tok2", "tok3")
    },
    "bild": rules.BiLD(rollback=5.0),
    "bild:rollback=2": rules.BiLD(rollback=2.0),
    "mars": rules.MARS(theta=0.9),
    "mars:theta=0.8": rules.MARS(theta=0.8),
    "logit_comparison": rules.LogitComparison(),
    "ratio_clip:ceiling=1.5": rules.RatioClip(ceiling=1.5),
    "ratio_clip:ceiling=inf": rules.RatioClip(ceiling=math.inf),
    "ratio_clip:rejection=0.1": rules.RatioClip(rejection=0.1),
    "common_price:price=0.5": rules.CommonPrice(price=0.5),
    "common_price:price=0.5,divergence=js": rules.CommonPrice(price=0.5, divergence="js"),
    "common_price:price=0.5,divergence=alpha=0.5": rules.CommonPrice(price=0.5, divergence="alpha=0.5"),
    "  lenience: factor = 5e-1 ": rules.Lenience(factor=0.5),
}
TOKEN = [info for info in available() if info.kind == "token"]


def _laws_of(rule: Any) -> list[list[float]]:
    draft, target = random_pairs(4, (8, 6))
    logits: dict[str, Any] = {"draft_logits": np.log(draft + 1e-9), "target_logits": np.log(target + 1e-9)}
    return evaluate(rule, draft, target, **logits).output_law.tolist()


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_is_the_rule_it_names(spec):
    found = from_spec(spec)
    assert type(found) is type(SPECS[spec])
    # defaults that are left to the rule, such as a square root, are equal in what they do
    assert found == SPECS[spec] or _laws_of(found) == _laws_of(SPECS[spec])


def test_every_rule_a_text_can_hold_is_built_from_one_here():
    # rules of whole blocks and of several drafts have suites of their own
    held = {info.name for info in TOKEN if not set(info.needs) & set(info.parameters)}
    assert {spec.strip().partition(":")[0] for spec in SPECS} == held


MISTAKES = {
    "lenienc:factor=0.5": "rule: expected the name of a rule; got 'lenienc'; did you mean 'lenience'?",
    "Typical": "got 'Typical'; did you mean 'typical'?",
    "zzz": "got 'zzz'; tradeoff.rules.available() lists them",
    "": "rule: expected the name of a rule; got ''",
    "lenience": "lenience: expected a value for factor, as in lenience:factor=...",
    "cascade:variant=opt": "expected a value for alpha, as in cascade:alpha=...",
    "lenience:": "expected a value for factor",
    "lenience:fctor=0.5": "lenience:fctor=0.5: expected factor, each once; got 'fctor'",
    "openvino:rate=1": "expected no parameters, each once; got 'rate'",
    "lenience:factor=0.5,factor=0.5": "expected factor, each once; got 'factor'",
    "lenience:factor": "expected parameter=value; got 'factor'; as in lenience:factor=...",
    "lenience:factor=": "expected parameter=value; got 'factor='",
    "lenience:factor=0.5,": "expected parameter=value; got ''",
    "lenience:=0.5": "expected factor, each once; got ''",
    "lenience:factor=half": "lenience: expected factor to be a number; got 'half'",
    "lenience:factor=nan": "factor: expected a number in [0, 1]; got nan",
    "lenience:factor=2": "factor: expected a number in [0, 1]; got 2.0; 1 is lossless",
    "typical:alpha=none": "typical: expected alpha to be a number; got 'none'",
    "top_k_gate:k=2.5": "top_k_gate: expected k to be a whole number; got '2.5'",
    "top_k_gate:k=0": "k: expected a whole number >= 1; got 0",
    "tensorrt_relaxed:top_k=true": "expected top_k to be a whole number; got 'true'",
    "cactus:delta=1,exact=1": "cactus: expected exact=true or exact=false; got '1'",
    "distillspec:epsilon=0": "epsilon: expected a number in (0, 1]; got 0",
    "distillspec:function=cube,epsilon=0.5": "function: expected 'linear' or 'square' or 'exponential'; got 'cube'",
    "decoding_uno:epsilon=0.1,residual=uniform": "residual: expected 'target' or 'draft'; got 'uniform'",
    "fuzzy:divergence=chi2,threshold=1": "divergence: expected 'kl' or 'js' or 'tv'; got 'chi2'",
    "fuzzy:threshold=1,fallback=none": "fallback: expected 'target' or 'speculative'; got 'none'",
    "cascade:variant=tok4,alpha=0": "variant: expected 'chow' or 'diff' or 'opt' or 'tok1' or 'tok2' or 'tok3'; got",
    "lossy_speculative:alpha=1": "alpha: expected a number in [0, 1); got 1",
    "lossy_speculative:alpha=0.4,beta=0.2": "beta: expected a finite number >= 0.6; got 0.2; by default 1 - alpha",
    "common_price:price=1,divergence=bogus": "divergence: expected one of",
    "common_price:price=-1": "price: expected a number >= 0",
    "mentored:kl=inf": "kl: expected a finite number >= 0; got inf",
    "ratio_clip": "expected exactly one of ceiling= and rejection=",
    "ratio_clip:ceiling=2,rejection=0.1": "expected exactly one of ceiling= and rejection=",
    "synthetic:rate=1.5": "rate: expected a number in [0, 1]; got 1.5",
    "sglang:acc=-1": "acc: expected a number in [0, 1]; got -1.0",
    "judge": "judge: expected scores, which no text can hold; build tradeoff.rules.Judge(scores=...) in Python",
    "judge:threshold=0.5": "expected scores, which no text can hold; build tradeoff.rules.Judge(scores=...)",
    "reward_guided": "expected rewards, which no text can hold; build tradeoff.rules.RewardGuided(rewards=...)",
    "csd:ratio=1": "expected frequencies, which no text can hold; build tradeoff.rules.CSD(frequencies=...)",
    "lantern:delta=0.1": "expected neighbours, which no text can hold; build tradeoff.rules.Lantern(neighbours=...)",
}


@pytest.mark.parametrize("spec", MISTAKES)
def test_a_spec_that_means_nothing_is_a_one_line_error(spec):
    with pytest.raises(InputError, match=re.escape(MISTAKES[spec])) as caught:
        from_spec(spec)
    assert "\n" not in str(caught.value)


# --- the list ---


def test_the_list_tells_names_parameters_defaults_sources_and_which_rules_are_lossless():
    names = [info.name for info in available()]
    assert len(names) == len(set(names))
    for info in available():
        assert info.parameters.keys() == inspect.signature(info.rule).parameters.keys()
        assert info.source
        assert info.rule.__name__ in rules.__all__
        assert info.kind in ("token", "block", "multi_draft")
        assert info.knob is None or info.knob.name in info.parameters
    assert {info.name for info in TOKEN if info.lossless} == {"speculative_sampling", "sample_match"}
    assert [info.name for info in TOKEN if "target_logits" in info.needs] == ["mars", "logit_comparison"]


def test_defaults_are_the_published_ones():
    published: dict[str, dict[str, Any]] = {
        "typical": {"threshold": 0.09, "alpha": None},  # None: the root of the threshold, 0.3
        "ears": {"beta": 0.0},
        "tensorrt_relaxed": {"top_k": 1, "delta": 0.0},
        "sglang": {"single": 1.0, "acc": 1.0},
        "bild": {"rollback": 5.0},
        "mars": {"theta": 0.9},
        "top_k_gate": {"k": 5},
        "cactus": {"delta": inspect.Parameter.empty, "exact": False},
    }
    assert {info.name: info.parameters for info in TOKEN if info.name in published} == published


@pytest.mark.parametrize("info", available(), ids=lambda info: info.name)
def test_a_docstring_begins_with_a_sentence_and_names_its_source(info):
    assert info.summary.endswith(".")
    text = " ".join((inspect.getdoc(info.rule) or "").split())
    found = re.findall(r"arXiv \d{4}\.\d{5}|pull requests? \d+|docs/theory.md T\d", text)
    codes = ("llama.cpp", "OpenVINO GenAI", "vLLM's `synthetic`", "SecureSD", "sgl-kernel", "Modular MAX")
    assert found or any(code in text for code in codes)
    # what the list calls its paper is what the docstring calls it
    for number in re.findall(r"arXiv (\d{4}\.\d{5})", info.source):
        assert number in text, number


# --- knobs ---


def _rejection(family: Any, dial: float) -> float:
    draft, target = random_pairs(6, (30, 6), masks=False)
    logits: dict[str, Any] = {"target_logits": np.log(target) + 9.0} if "target_logits" in family.info.needs else {}
    return float(evaluate(family.at(family.knob.value(dial)), draft, target, **logits).rejection.mean())


@pytest.mark.parametrize("family", families(), ids=lambda family: family.spec)
def test_a_knob_runs_from_its_strict_to_its_loose_end_and_rejects_less(family):
    knob, dials = family.knob, [i / 16 for i in range(17)]
    assert (knob.value(0.0), knob.value(1.0)) == (knob.strict, knob.loose)
    values = np.array([knob.value(dial) for dial in dials])
    steps = np.diff(values) * np.sign(knob.loose - knob.strict)
    # whole numbers wait where the scale is finer than they are
    assert (steps >= 0).all() if knob.scale == "integer" else (steps > 0).all()
    rejections = np.array([_rejection(family, dial) for dial in dials[::4]])
    assert (np.diff(rejections) <= 1e-12).all()
    assert rejections[0] > rejections[-1] + 1e-3


def test_families_are_every_rule_of_one_position_with_a_knob_variant_by_variant():
    found = families()
    assert {family.info.name for family in found} == {info.name for info in TOKEN if info.knob is not None}
    assert {info.name for info in TOKEN if info.knob is None} == {
        *("speculative_sampling", "sample_match", "openvino", "logit_comparison"),
        *("judge", "reward_guided", "csd", "lantern"),
    }
    assert len({family.spec for family in found}) == len(found) == sum(len(i.variants) or 1 for i in TOKEN if i.knob)
    for family in found:
        assert not {name for name, default in family.info.parameters.items() if default is inspect.Parameter.empty} - {
            *family.fixed,
            family.knob.name,
        }
        assert family_from(family.spec).fixed == family.fixed


def test_scales_meet_in_the_middle_where_they_say():
    middle = {"linear": 0.505, "log": 0.1, "power": 0.01 + 0.99 / 64, "integer": 0}
    for scale, value in middle.items():
        assert Knob(name="x", strict=0.01, loose=1.0, scale=scale).value(0.5) == pytest.approx(value)  # type: ignore
    assert Knob(name="x", strict=1, loose=100, scale="integer").value(0.5) == 10
    assert Knob(name="x", strict=0.0, loose=0.9999, scale="complement").value(0.5) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openvino", "openvino: expected a rule with a knob; got one that has none"),
        ("lenience:factor=0.5", "lenience:factor=0.5: expected its knob, factor, left free; got it set"),
    ],
)
def test_a_family_without_a_free_knob_is_an_error_where_the_knob_is_asked_for(spec, message):
    with pytest.raises(InputError, match=message):
        _ = family_from(spec).knob


def test_defaults_are_the_parameters_that_may_be_left_out():
    for info in available():
        assert info.defaults.keys() <= info.parameters.keys()
    known = {info.name: info.defaults for info in available()}
    assert known["tensorrt_relaxed"] == {"top_k": 1, "delta": 0.0}
    assert known["lenience"] == {}
    assert known["cactus"] == {"exact": False}
