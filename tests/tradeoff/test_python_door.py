"""The Python door of `tradeoff`: what is no law, no rule or no number is told in one line, for every function."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from solvers.errors import InputError
from tradeoff import best_residual, chains, convert, evaluate, rules, solve_multi_draft_pareto, solve_pareto
from tradeoff.conformance.checking import check
from tradeoff.outcome.block import joint_law
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.outcome.positions import Positions
from tradeoff.rule import TokenByToken

DRAFT, TARGET = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
LOSSLESS, LENIENT = rules.SpeculativeSampling(), rules.Lenience(factor=0.5)
CHAIN = chains.MarkovChain(transitions=np.full((3, 3), 1 / 3), initial=DRAFT)
LOGITS = np.zeros((1, 3))
BAD = {
    "None": None,
    "text": "abc",
    "dict": {},
    "object": object(),
    "float": 1.5,
    "list": [],
    "True": True,
    "complex": DRAFT * 1j,
    "texts": np.array(["a", "b", "c"]),
    "objects": np.array([None, 1, 2]),
    "booleans": DRAFT > 0.3,
    "ragged": [[0.5, 0.5], [1]],
    "NaN": float("nan"),
    "huge": 10**40,
    "-1": -1,
    "class": rules.Lenience,
    "rule": LENIENT,
    "empty": np.zeros(0),
    "NaNs": np.full(3, np.nan),
    "grad": torch.tensor(DRAFT, requires_grad=True),
}
CALLS = {
    "solve_pareto draft": lambda bad: solve_pareto(bad, TARGET),
    "solve_pareto target": lambda bad: solve_pareto(DRAFT, bad),
    "solve_pareto divergence": lambda bad: solve_pareto(DRAFT, TARGET, divergence=bad),
    "solve_pareto rejection": lambda bad: solve_pareto(DRAFT, TARGET, rejection=bad),
    "solve_pareto weights": lambda bad: solve_pareto(DRAFT, TARGET, budget="mean", weights=bad),
    "solve_pareto budget": lambda bad: solve_pareto(DRAFT, TARGET, budget=bad),
    "solve_pareto solver": lambda bad: solve_pareto(DRAFT, TARGET, solver=bad),
    "at rejection": lambda bad: solve_pareto(DRAFT, TARGET).at(rejection=bad),
    "at divergence": lambda bad: solve_pareto(DRAFT, TARGET).at(divergence=bad),
    "at price": lambda bad: solve_pareto(DRAFT, TARGET).at(price=bad),
    "evaluate rule": lambda bad: evaluate(bad, DRAFT, TARGET),
    "evaluate draft": lambda bad: evaluate(LOSSLESS, bad, TARGET),
    "evaluate sampled_draft": lambda bad: evaluate(LOSSLESS, DRAFT, TARGET, sampled_draft=bad),
    "evaluate logits": lambda bad: evaluate(rules.TensorRTRelaxed(), DRAFT, TARGET, target_logits=bad),
    "outcome divergence": lambda bad: evaluate(LOSSLESS, DRAFT, TARGET).divergence_in(bad),
    "outcome round": lambda bad: evaluate(LOSSLESS, DRAFT, TARGET).round(bad),
    "from_spec": rules.from_spec,
    "best_residual": lambda bad: best_residual(DRAFT, TARGET, bad),
    "evaluate_multi_draft rule": lambda bad: evaluate_multi_draft(bad, DRAFT, TARGET, drafts=2),
    "evaluate_multi_draft drafts": lambda bad: evaluate_multi_draft(rules.KSeq(rho=1.0), DRAFT, TARGET, drafts=bad),
    "several drafts": lambda bad: solve_multi_draft_pareto(DRAFT, TARGET, drafts=bad),
    "convert rule": lambda bad: convert(bad, to="lenience", at=(DRAFT, TARGET)),
    "convert to": lambda bad: convert(LENIENT, to=bad, at=(DRAFT, TARGET)),
    "convert at": lambda bad: convert(LENIENT, to="cactus", at=bad),
    "convert match": lambda bad: convert(LENIENT, to="ratio_clip", at=(DRAFT, TARGET), match=bad),
    "positions logits": lambda bad: Positions.from_logits(bad, LOGITS),
    "positions temperature": lambda bad: Positions.from_logits(LOGITS, LOGITS, temperature=bad),
    "positions prompt": lambda bad: Positions.from_logits(LOGITS, LOGITS, prompt=bad),
    "joint_law rule": lambda bad: joint_law(bad, [DRAFT], [TARGET], draft_length=1, horizon=1),
    "joint_law draft": lambda bad: joint_law(TokenByToken(LOSSLESS), bad, [TARGET], draft_length=1, horizon=1),
    "joint_law length": lambda bad: joint_law(TokenByToken(LOSSLESS), [DRAFT], [TARGET], draft_length=bad, horizon=1),
    "joint_law horizon": lambda bad: joint_law(TokenByToken(LOSSLESS), [DRAFT], [TARGET], draft_length=1, horizon=bad),
    "chain transitions": lambda bad: chains.MarkovChain(transitions=bad, initial=DRAFT),
    "chain initial": lambda bad: chains.MarkovChain(transitions=CHAIN.transitions, initial=bad),
    "expected_rejections draft": lambda bad: chains.expected_rejections(bad, CHAIN, horizon=2),
    "expected_rejections rule": lambda bad: chains.expected_rejections(CHAIN, CHAIN, bad, horizon=2),
    "expected_rejections horizon": lambda bad: chains.expected_rejections(CHAIN, CHAIN, horizon=bad),
    "tokens_per_call": lambda bad: chains.tokens_per_call(CHAIN, CHAIN, draft_length=bad, horizon=3),
    "batch drafts": lambda bad: chains.batch_expected_rejections(CHAIN, CHAIN, drafts=bad, horizon=2),
    "batch root": lambda bad: chains.batch_expected_rejections(CHAIN, CHAIN, drafts=2, horizon=2, first_root=bad),
    "batch_algorithm": lambda bad: chains.batch_algorithm(CHAIN, CHAIN, drafts=bad, horizon=2),
    "Lenience": lambda bad: rules.Lenience(factor=bad),
    "RatioClip ceiling": lambda bad: rules.RatioClip(ceiling=bad),
    "RatioClip rejection": lambda bad: rules.RatioClip(rejection=bad),
    "CommonPrice": lambda bad: rules.CommonPrice(price=bad),
    "CommonPrice divergence": lambda bad: rules.CommonPrice(price=1.0, divergence=bad),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_bad_arguments_are_told_in_one_line_or_used(call):
    for name, bad in BAD.items():
        message = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                call(bad)
        except InputError as error:
            message = str(error)
        except Exception as error:  # noqa: BLE001  any other is what this test is about
            pytest.fail(f"{name}: {type(error).__name__}: {error}")
        assert "\n" not in message, name
        assert len(message) < 400, name


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (rules.Lenience, r"got the class Lenience; make a rule of it, Lenience\(...\)"),
        ("lenience:factor=7", "factor: expected"),
        (rules.KSeq(rho=1.0), r"got KSeq\(rho=1.0\)"),
        (None, "or its spec such as 'lenience:factor=0.8'; got None"),
    ],
)
def test_every_function_that_takes_a_rule_names_what_is_wrong_with_it(rule, message):
    for call in (
        lambda: evaluate(rule, DRAFT, TARGET),
        lambda: convert(rule, to="lenience", at=(DRAFT, TARGET)),
        lambda: check(lambda draft, target, drafted, source: drafted, rule, draws=10),
        lambda: solve_pareto(DRAFT, TARGET).plot(rules={"mine": rule}),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_spec_that_is_no_text_is_told():
    for spec in (None, 3, LENIENT):
        with pytest.raises(InputError, match="rule: expected a spec such as 'lenience'"):
            rules.from_spec(spec)  # type: ignore[arg-type]


# --- gradients, complex numbers ----------------------------------------------------------------------------------


def test_laws_that_require_grad_have_the_answers_of_laws_that_do_not():
    draft, target = (torch.tensor(law, requires_grad=True) for law in (DRAFT, TARGET))
    point, plain = (
        solve_pareto(*pair, divergence="kl").at(rejection=0.15) for pair in ((draft, target), (DRAFT, TARGET))
    )
    np.testing.assert_array_equal(point.output_law.numpy(), plain.output_law)
    assert point.certificate.holds()
    assert float(evaluate(rules.RatioClip(rejection=0.15), draft, target).kl) == float(plain.divergence)
    assert abs(float(best_residual(draft, target, draft * 0 + 0.5).rejection) - 0.5) < 1e-15
    shared = solve_pareto(draft[None], target[None], budget="mean")
    assert shared.at(rejection=0.1).certificate.holds()
    assert len(Positions.of(draft[None], target[None])) == 1
    assert len(Positions.from_logits(draft[None], target[None])) == 1
    chain = chains.MarkovChain(transitions=draft.expand(3, 3), initial=draft)  # type: ignore[arg-type]
    assert chain.tokens == 3


@dataclass(frozen=True)
class _Complex:
    def acceptance(self, draft, target):
        return np.full(3, 0.5 + 0.1j)

    def residual(self, draft, target):
        return target


def test_complex_numbers_are_no_probabilities():
    with pytest.raises(InputError, match="expected an acceptance of real numbers; got complex128"):
        evaluate(_Complex(), DRAFT, TARGET)
    with pytest.raises(InputError, match="acceptance: expected real numbers; got complex128"):
        best_residual(DRAFT, TARGET, np.full(3, 0.5 + 0.1j))
    with pytest.raises(InputError, match="transitions: expected real numbers; got complex128"):
        chains.MarkovChain(transitions=CHAIN.transitions * 1j, initial=DRAFT)


# --- chains ------------------------------------------------------------------------------------------------------


def test_chains_of_unlike_length_need_a_horizon():
    short, long = (chains.MarkovChain(transitions=np.full((steps, 3, 3), 1 / 3), initial=DRAFT) for steps in (5, 6))
    with pytest.raises(InputError, match="horizon: expected chains of one length; got 5 and 6 steps; pass horizon="):
        chains.expected_rejections(short, long)
    assert len(chains.expected_rejections(short, long, horizon=5).per_step) == 5
    assert len(chains.expected_rejections(short, CHAIN).per_step) == 5


def test_a_million_drafts_are_refused_and_infinity_is_answered():
    for function in (chains.batch_expected_rejections, chains.batch_algorithm):
        with pytest.raises(InputError, match="drafts: expected at most 10000, .* or inf; got 1000000"):
            function(CHAIN, CHAIN, drafts=10**6, horizon=2)
    assert float(chains.batch_expected_rejections(CHAIN, CHAIN, drafts=np.inf, horizon=2)) == 0.0
