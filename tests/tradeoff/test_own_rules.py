"""Rules of one's own wherever a rule is taken, and rules of the wrong kind where they are not."""

import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import tradeoff
from tradeoff import InputError, chains, conformance, evaluate, rules
from tradeoff.outcome.block import joint_law
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rule import TokenByToken
from tradeoff.rules import Knob, as_rule, available, from_spec, register
from tradeoff.rules.parts import capped, ordinary_residual, ratio
from tradeoff.rules.registry import families, family_from

PAIR = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.35, 0.25])
HERE = f"{__name__}:PowerRatio"


@dataclass(frozen=True, kw_only=True)
class PowerRatio:
    """b = min(1, (target / draft)^exponent), residual [target - draft]_+ / TV; 1 is lossless."""

    knob: ClassVar[Knob] = Knob(name="exponent", strict=1.0, loose=0.0)
    source: ClassVar[str] = "this test"

    exponent: float

    def acceptance(self, draft: Any, target: Any) -> Any:
        return capped(ratio(draft, target) ** self.exponent)

    def residual(self, draft: Any, target: Any) -> Any:
        return ordinary_residual(draft, target)


class Plain:
    """A class without annotations, and none of a rule's methods but one."""

    def acceptance(self, draft, target):
        return draft


class WrongKnob(PowerRatio):
    knob: ClassVar[Knob] = Knob(name="power", strict=1.0, loose=0.0)


class BrokenImport:
    """Stands for a module that is found and lacks one of its own."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "found_but_broken":
            raise ModuleNotFoundError("No module named 'something_else'", name="something_else")


@pytest.fixture
def registry(monkeypatch):
    from tradeoff.rules import registry

    monkeypatch.setattr(registry, "_BY_NAME", dict(registry._BY_NAME))


# --- specs, classes, names ---


def test_a_spec_of_a_module_and_its_class_is_the_rule():
    assert from_spec(f"{HERE}:exponent=0.5") == PowerRatio(exponent=0.5)
    family = family_from(HERE)
    assert family.at(0.25) == PowerRatio(exponent=0.25)
    assert (family.info.name, family.info.source, family.info.kind) == (HERE, "this test", "token")
    assert family_from(PowerRatio).spec == HERE
    assert family_from(rules.Lenience).spec == "lenience"


def test_every_function_that_takes_a_rule_takes_its_spec():
    rule, spec = rules.Lenience(factor=0.8), "lenience:factor=0.8"
    pair = chains.published_chains(horizon=4)
    both: list[tuple[Any, Any]] = [
        (evaluate(each, *PAIR).output_law.tolist(), chains.expected_rejections(*pair, each).mean)
        for each in (rule, spec)
    ]
    assert both[0] == both[1]
    for function in (
        lambda each: chains.output_chain(*pair, each).transitions.tolist(),
        lambda each: chains.tokens_per_call(*pair, each, draft_length=2).target_calls,
        lambda each: chains.simulate(*pair, each, runs=10, seed=0).rejections.tolist(),
        lambda each: tradeoff.convert(each, to="cactus", at=PAIR).value,
        lambda each: str(conformance.check(lambda draft, target, drafted, randomness: drafted, each, draws=50)),
        lambda each: joint_law(each, [PAIR[0]], [PAIR[1]], draft_length=1, horizon=1).law.tolist(),
    ):
        assert function(rule) == function(spec)
    assert evaluate_multi_draft("k_seq", *PAIR, drafts=2).kl == evaluate_multi_draft(rules.KSeq(), *PAIR, drafts=2).kl


def test_an_ordinary_rule_and_a_block_rule_have_joint_laws_alike():
    laws: dict[str, Any] = {"draft_length": 1, "horizon": 1}
    rule = rules.DecodingOPT(epsilon=0.1)
    found = [joint_law(each, [PAIR[0]], [PAIR[1]], **laws).law.tolist() for each in (rule, TokenByToken(rule))]
    assert found[0] == found[1] == pytest.approx(evaluate(rule, *PAIR).output_law.tolist())


def test_a_rule_of_ones_own_is_converted_to_by_its_spec_and_by_its_class():
    wanted = evaluate("lenience:factor=0.8", *PAIR).rejection
    for to in (HERE, PowerRatio):
        found = tradeoff.convert("lenience:factor=0.8", to=to, at=PAIR)
        assert isinstance(found.rule, PowerRatio)
        assert evaluate(found.rule, *PAIR).rejection == pytest.approx(wanted, abs=1e-9)
    back = tradeoff.convert(PowerRatio(exponent=0.5), to=rules.Lenience, at=PAIR)
    assert evaluate(back.rule, *PAIR).rejection == pytest.approx(evaluate(PowerRatio(exponent=0.5), *PAIR).rejection)


@pytest.mark.usefixtures("registry")
def test_a_registered_rule_is_in_the_list_and_on_the_map():
    info = register("power_ratio", PowerRatio, variants=("",))
    assert available()[-1] is info
    assert (info.knob, info.source) == (PowerRatio.knob, "this test")
    assert from_spec("power_ratio:exponent=0.5") == PowerRatio(exponent=0.5)
    assert "power_ratio" in {family.spec for family in families()}
    assert family_from(PowerRatio).spec == "power_ratio"
    taken = f"register: expected a new name; got 'power_ratio', which is taken by {__name__}.PowerRatio"
    with pytest.raises(InputError, match=re.escape(taken)):
        register("power_ratio", rules.Lenience)


@pytest.mark.usefixtures("registry")
def test_a_taken_name_a_bad_one_and_what_is_no_rule_are_refused():
    refused: list[tuple[str, Any, str]] = [
        ("lenience", PowerRatio, "got 'lenience', which is taken by tradeoff.rules.Lenience"),
        ("Power Ratio", PowerRatio, "expected a name of small letters, digits and underscores; got 'Power Ratio'"),
        ("plain", Plain, "plain: expected the class of a rule, with methods acceptance and residual"),
        ("wrong", WrongKnob, r"wrong: expected as knob a tradeoff.rules.Knob of a parameter (exponent); got Knob("),
    ]
    before = available()
    for name, rule, message in refused:
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            register(name, rule)
        assert "\n" not in str(caught.value)
    assert available() == before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_package.rules:Mine", "and there is no module 'no_such_package'; install it, or put its folder on"),
        ("lenienc:factor", "and there is no module 'lenienc'; did you mean 'lenience'?"),
        (f"{__name__}:Missing", f"and {__name__} has no class 'Missing'"),
        (f"{__name__}:HERE", f"and {__name__} has no class 'HERE'"),
        ("tradeoff.rules", "and tradeoff.rules has no class ''"),
        (f"{__name__}:Plain", "Plain: expected the class of a rule, with methods"),
        (HERE, f"{HERE}: expected a value for exponent, as in {HERE}:exponent=..."),
        (f"{HERE}:exponent=half", "expected exponent to be a number; got 'half'"),
        (f"{HERE}:power=1", f"{HERE}:power=1: expected exponent, each once; got 'power'"),
    ],
)
def test_a_spec_of_ones_own_that_means_nothing_is_a_one_line_error(spec, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        from_spec(spec)
    assert "\n" not in str(caught.value)


def test_an_error_inside_the_module_of_a_rule_is_its_own(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [BrokenImport(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="something_else"):
        from_spec("found_but_broken:Rule")


# --- the wrong kind ---

TOKEN, BLOCK, SEVERAL = rules.SpeculativeSampling(), rules.BlockVerification(), rules.KSeq()
WRONG: dict[str, tuple[Any, str]] = {
    "class": (
        lambda: evaluate(rules.RatioClip, *PAIR),  # type: ignore[arg-type]
        "evaluate: expected a rule that judges one token at a time; got the class RatioClip; make a rule of it, "
        "RatioClip(...)",
    ),
    "block": (
        lambda: evaluate("block_verification", *PAIR),
        "evaluate: expected a rule that judges one token at a time; got block_verification; block rules are taken by "
        "tradeoff.outcome.block.joint_law and decoding.generate",
    ),
    "several": (
        lambda: tradeoff.convert(SEVERAL, to="lenience", at=PAIR),  # type: ignore[arg-type]
        "convert: expected a rule that judges one token at a time; got KSeq(rho=None); multi-draft rules are taken by "
        "tradeoff.outcome.multi_draft.evaluate_multi_draft",
    ),
    "one": (
        lambda: evaluate_multi_draft(TOKEN, *PAIR, drafts=2),  # type: ignore[arg-type]
        "evaluate_multi_draft: expected a rule that chooses among several drafts; got SpeculativeSampling(); rules of "
        "one token at a time are taken by tradeoff.evaluate, tradeoff.convert and decoding.generate",
    ),
    "several in a text": (
        lambda: joint_law("k_seq", [PAIR[0]], [PAIR[1]], draft_length=1, horizon=1),
        "joint_law: expected a rule that judges one token at a time or a rule that judges a block of tokens; got k_seq",
    ),
    "chain": (
        lambda: chains.simulate(*chains.published_chains(2), BLOCK, runs=2, seed=0),  # type: ignore[arg-type]
        "simulate: expected a rule that judges one token at a time; got BlockVerification(); block rules are",
    ),
    "sampler": (
        lambda: conformance.check(lambda *_: 0, BLOCK),  # type: ignore[arg-type]
        "conformance.check: expected a rule that judges one token at a time; got BlockVerification(); block rules are",
    ),
    "nothing": (
        lambda: evaluate(None, *PAIR),  # type: ignore[arg-type]
        "evaluate: expected a rule that judges one token at a time, or its spec such as 'lenience:factor=0.8'; got "
        "None",
    ),
    "family": (lambda: family_from(3), "rule: expected a spec such as 'lenience', or the class of a rule; got 3"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_rule_of_the_wrong_kind_is_told_where_it_is_taken(call, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_functions_that_messages_name_exist():
    from importlib import import_module

    from tradeoff.rules.registry import TAKERS

    for name in re.findall(r"[a-z_]+(?:\.[a-z_]+)+", " ".join(TAKERS.values())):
        module, _, function = name.rpartition(".")
        assert callable(getattr(import_module(module), function)), name


def test_what_is_taken_is_returned_as_it_is():
    assert as_rule(TOKEN, kind="token", taken_by="x") is TOKEN
    assert as_rule(BLOCK, kind=("token", "block"), taken_by="x") is BLOCK
    assert as_rule(SEVERAL, kind="multi_draft", taken_by="x") is SEVERAL
