"""Controllers and draft length policies in the real loop: what they promise holds along the texts it writes."""

import numpy as np
import pytest
import torch
from test_batch import COPIES, PROMPTS, padded, tables, target_law, write
from tiny import DRAFT, FALSE_ALARM, TARGET, chi_square_p_value

import decoding
from decoding.policies.draft_length import DraftLength, StepCosts
from decoding.policies.price import HoldKL, HoldRejection, SequenceBudget
from tradeoff.rules import SpeculativeSampling


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_no_text_spends_more_than_its_budget(kind):
    # ends make texts finish in different rounds
    controller = SequenceBudget(kl=0.4)
    output = write(controller, copies=40, max_new_tokens=20, kind=kind, account="exact", eos_token_id=4, draft_length=3)
    spent = np.array([text.spent["kl"] for text in output.texts])
    assert (spent <= 0.4 * (1 + 1e-9)).all()
    assert (spent > 0).all()
    whole = np.array([text.generated == 20 for text in output.texts])
    assert spent[whole].mean() > 0.5 * 0.4
    lossless = write(SpeculativeSampling(), copies=40, max_new_tokens=20, eos_token_id=4, draft_length=3)
    rate, before = (each.statistics.rejected / each.statistics.verified for each in (output, lossless))
    assert rate < before


@pytest.mark.parametrize(
    ("controller", "quantity", "wanted"),
    [(HoldRejection(rejection=0.15), "rejection", 0.15), (HoldKL(kl_per_token=0.05), "kl", 0.05)],
    ids=["rejection", "kl"],
)
def test_a_held_mean_is_met_along_the_text(controller, quantity, wanted):
    pair = decoding.load_pair()
    prompt = pair.tokenizer("One day, a small dragon", return_tensors="pt").input_ids
    statistics = decoding.generate(
        prompt.repeat(4, 1),
        target=pair.target,
        draft=pair.draft,
        attention_mask=torch.ones_like(prompt).repeat(4, 1),
        rule=controller,
        generator=torch.Generator().manual_seed(0),
        do_sample=True,
        top_k=0,
        max_new_tokens=120,
    ).statistics
    per = statistics.verified if quantity == "rejection" else statistics.generated
    assert statistics.spent[quantity] / per == pytest.approx(wanted, rel=0.1)
    assert controller.attained


def test_a_draft_length_that_changes_from_round_to_round_does_not_change_the_law():
    policy = DraftLength(most=3, costs=StepCosts(draft=1.0, target=1.5))
    output = write(SpeculativeSampling(), copies=COPIES, draft_length=policy)
    for table, prompt in zip(tables(output), PROMPTS, strict=True):
        assert chi_square_p_value(table, target_law(prompt)) > FALSE_ALARM


def test_a_draft_length_policy_learns_from_the_rounds_it_decides():
    inputs = padded([[1, 3]])
    policy = DraftLength(most=4, costs=StepCosts(draft=1.0, target=0.01))
    drafted = []
    for _ in range(6):
        output = decoding.generate(
            inputs["input_ids"],
            target=TARGET,
            draft=DRAFT,
            attention_mask=inputs["attention_mask"],
            draft_length=policy,
            do_sample=True,
            max_new_tokens=20,
            generator=torch.Generator().manual_seed(0),
        )
        drafted.append(output.statistics.drafted.max())
    # a target that costs nothing is asked for every token
    assert drafted[-1] == 1
    assert policy.acceptance[0] < 1
