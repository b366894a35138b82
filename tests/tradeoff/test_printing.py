"""What results print, to the letter, and that it costs little at the size of a language model."""

import time
from typing import Any

import numpy as np
import pytest
import torch

import tradeoff
from solvers import printing
from solvers.divergences import DIVERGENCES
from tradeoff import chains, conformance, evaluate, solve_pareto
from tradeoff.outcome.block import joint_law
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.outcome.token import Outcome

DRAFT, TARGET = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
DRAFTS, TARGETS = np.stack([DRAFT, [0.5, 0.3, 0.2]]), np.stack([TARGET, [0.4, 0.4, 0.2]])
FRONT = solve_pareto(DRAFT, TARGET, divergence="kl")
TOGETHER = solve_pareto(DRAFTS, TARGETS, divergence="kl", budget="mean")
MANY = tradeoff.solve_multi_draft_pareto(DRAFT, TARGET, drafts=2, divergence="kl")
TEXTS = chains.solve_sequence_pareto(*chains.published_chains(4), price=[0.0, 1.0])
KEPT = conformance.check(lambda draft, target, drafted, randomness: drafted, "speculative_sampling", draws=100)

PRINTED: dict[str, tuple[Any, str]] = {
    "front": (
        FRONT,
        "ParetoFront (3 tokens): least KL(output, target) in nats at every rejection\n"
        "  from 0.1838 at rejection 0 to 0 at 0.3; lossless from 0.3 on\n"
        "  33 points by closed_form; .at(rejection= or divergence= or price=), .plot(), .to_dict()",
    ),
    "shared front": (
        TOGETHER,
        "ParetoFront (2 positions of 3 tokens, one budget together): least KL(output, target) in nats at every "
        "rejection\n"
        "  from 0.1045 at rejection 0 to 0 at 0.2; lossless from 0.2 on\n"
        "  33 points by closed_form; .at(rejection= or divergence= or price=), .plot(), .to_dict()",
    ),
    "point": (
        FRONT.at(rejection=0.15),
        "ParetoPoint: KL(output, target) 0.04569 nats at rejection 0.15\n"
        "  output / target from 0.75 to 1.375; one more rejection buys 0.6061\n"
        "  solved by closed form; .rule to decode with it, .certificate to prove it, .to_dict()",
    ),
    "shared point": (
        TOGETHER.at(price=0.5),
        "ParetoPoint (2 positions of 3 tokens, one budget together): KL(output, target) mean 0.02767 "
        "(0.02424 to 0.0311) nats at rejection mean 0.08921 (0.002033 to 0.1764)\n"
        "  output / target from mean 0.7745 (0.7551 to 0.794) to mean 1.277 (1.245 to 1.309); one more "
        "rejection buys 0.5\n"
        "  solved by closed form; .rule to decode with it, .certificate to prove it, .to_dict()",
    ),
    "certificate": (
        FRONT.at(rejection=0.15).certificate,
        "Certificate holds: value 0.04569, within 0 of the optimum\n"
        "  infeasibility 0; the only optimal law; .holds(tolerance)",
    ),
    "alternatives": (
        TOGETHER.alternatives(rejection=0.1),
        "Alternatives at mean rejection 0.1, by mean divergence:\n"
        "  common_price 0.02254 (the optimum), equal_budgets 0.04055 (1.799 times), common_ceiling 0.02284 "
        "(1.013 times)",
    ),
    "outcome": (
        evaluate("decoding_opt:epsilon=0.1", DRAFT, TARGET),
        "Outcome: rejection 0.2, TV 0.1, KL 0.02041 nats from the target, leak 0\n"
        "  above the best rule at this rejection: KL 0 nats, TV 0\n"
        "  .divergence_in(name), .optimum(name), .round(draft_length), .to_dict()",
    ),
    "round": (
        evaluate("decoding_opt:epsilon=0.1", DRAFT, TARGET).round(4),
        "RoundMixture: 3.362 tokens per target call\n  bonus tokens among them 0.1218; .divergence_in(name)",
    ),
    "conversion": (
        tradeoff.convert("lenience:factor=0.8", to="ensemble", at=(DRAFT, TARGET)),
        "Conversion: target_weight 0.6667 in Ensemble(target_weight=0.6666666666666667)\n"
        "  mean rejection 0.2 where 0.2 was wanted, error 0",
    ),
    "positions": (
        tradeoff.Positions.of(DRAFTS, TARGETS),
        "Positions: 2 positions of 3 tokens from 2 prompts\n  float64 laws, no logits; .chunks(), .total_variation",
    ),
    "multi-draft front": (
        MANY,
        "MultiDraftFront (3 tokens): least KL(output, target) in nats at every rejection\n"
        "  from 0.01656 at rejection 0 to 0 at 0.09; lossless from 0.09 on\n"
        "  33 points by closed_form; .at(rejection= or divergence= or price=), .plot(), .to_dict()",
    ),
    "multi-draft point": (
        MANY.at(rejection=0.05),
        "MultiDraftPoint: KL(output, target) 0.0033 nats at rejection 0.05\n"
        "  output / target from 0.9333 to 1.1; one more rejection buys 0.1643\n"
        "  solved by closed form; .acceptance and .residual of the picked draft, .certificate to prove it, .to_dict()",
    ),
    "multi-draft outcome": (
        evaluate_multi_draft("k_seq", DRAFT, TARGET, drafts=2),
        "MultiDraftOutcome (2 drafts, 3 tokens): rejection 0.1746, TV 0, KL 0 nats from the target\n"
        "  .divergence_in(name), .output_law",
    ),
    "joint law": (
        joint_law("decoding_opt:epsilon=0.1", [DRAFT], [TARGET], draft_length=1, horizon=1),
        "JointLaw (1 token): TV 0.1, KL 0.02041 nats from the target's text\n"
        "  1 target calls, 0.8 accepted tokens, 0.2 rejections expected; .divergence_in(name), .law",
    ),
    "texts": (
        TEXTS,
        "SequenceFront (7 states, 4 tokens): least KL of the text at every expected number of rejections\n"
        "  from 0.2815 nats at 0.678 rejections to 0 at 1.291; lossless at 1.291\n"
        "  2 points by dynamic_programme; .at(rejection= or price=), .alternatives(rejection=), .to_dict()",
    ),
    "text": (
        TEXTS.points[1],
        "SequencePoint (4 tokens): KL(text, target's text) 0.2815 nats at 0.678 expected rejections\n"
        "  price 1 nats per rejection; solved by dynamic programme; .policy(step), .certificate",
    ),
    "ways": (
        TEXTS.alternatives(rejection=1.0),
        "SequenceAlternatives at 1 expected rejections, by KL of the text in nats:\n"
        "  0.0581 (the optimum), common_price 0.06058 (1.043 times), common_ceiling 0.06585 (1.133 times), "
        "epsilon 0.0966 (1.663 times)",
    ),
    "report": (
        KEPT,
        "Report FAILED: 18 of 35 cases against SpeculativeSampling(); 4 skipped; 100 draws for each pair of "
        "laws; false alarm <= 1e-06\n"
        "  first one-hot laws apart: possible tokens: drafted 1, emitted 1: 100 times, expected never\n"
        "  print(report) shows every case",
    ),
}


@pytest.mark.parametrize(("result", "text"), PRINTED.values(), ids=PRINTED.keys())
def test_results_print_what_a_person_wants_to_know(result, text):
    assert repr(result) == text


def test_a_tensor_prints_as_an_array_does():
    assert repr(solve_pareto(torch.asarray(DRAFT), torch.asarray(TARGET), divergence="kl")) == repr(FRONT)


def test_a_rejected_sampler_says_so_in_full_too():
    assert str(KEPT).splitlines()[0] == repr(KEPT).splitlines()[0].removeprefix("Report ")
    assert len(str(KEPT).splitlines()) == len(KEPT.cases) + 2


def test_infinities_print():
    point = solve_pareto(DRAFT, np.array([0.0, 0.5, 0.5]), divergence="kl").at(rejection=0.1)
    assert repr(point).startswith("ParetoPoint: KL(output, target) inf nats at rejection 0.1")
    assert repr(point.certificate).startswith("Certificate holds: value inf, within 0 of the optimum")
    assert "KL inf nats" in repr(evaluate("synthetic:rate=0.5", np.eye(3)[0], np.eye(3)[1]))


@pytest.mark.parametrize("front", [FRONT, MANY, TEXTS], ids=["front", "several drafts", "texts"])
def test_a_front_has_a_table_and_a_curve_for_notebooks(front):
    page = front._repr_html_()
    assert page.startswith("<svg")
    assert page.endswith("</table>")
    assert repr(front).splitlines()[0] in page.replace("&#x27;", "'")
    # a front of positions that have budgets of their own has many curves, and no picture
    assert solve_pareto(DRAFTS, TARGETS)._repr_html_().startswith("<table>")


def test_an_outcome_has_a_row_for_every_divergence():
    page = evaluate("decoding_opt:epsilon=0.1", DRAFT, TARGET)._repr_html_()
    assert page.count("<tr>") == 1 + len(DIVERGENCES)
    assert ">0.02041<" in page


def test_words_of_other_people_are_escaped_in_tables():
    assert "<td" in printing.html_table(["a"], [["<b>"]], caption="c")
    assert "<b>" not in printing.html_table(["<b>"], [["<b>"]], caption="<b>")


def test_printing_a_large_batch_looks_at_no_law():
    class Law:
        """Laws of 1000 positions whose every entry is out of bounds."""

        shape, ndim = (1000, 150_000), 2

    law: Any = Law()
    outcome = Outcome(
        draft=law,
        target=law,
        sampled_draft=law,
        acceptance=law,
        residual=law,
        rejection=np.linspace(0.1, 0.3, 1000),
        output_law=law,
        bonus_law=law,
    )
    assert repr(outcome) == (
        "Outcome (1000 positions of 150000 tokens): rejection mean 0.2 (0.1 to 0.3)\n"
        "  .divergence_in('kl'), .excess('kl'), .leak, .round(draft_length) tell the rest"
    )
    assert "mean 0.2" in outcome._repr_html_()


def test_printing_a_point_computes_no_certificate():
    rng = np.random.default_rng(0)
    laws = rng.random((40, 50_000)), rng.random((40, 50_000))
    front = solve_pareto(*laws, divergence="kl", rejection=[0.0, 0.1], normalise=True)
    point = front.at(rejection=0.1)
    start = time.perf_counter()
    _ = repr(front), repr(point), front._repr_html_()
    assert time.perf_counter() - start < 0.05
    assert "certificate" not in vars(point)
