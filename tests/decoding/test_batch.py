"""A batch is many texts, each of the law it has alone: exact joint laws by rule, cache and drafter."""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DRAFT, FALSE_ALARM, RULES, TARGET, VOCAB, FavourEven, chi_square_p_value, law_after
from transformers import LogitsProcessorList

import decoding
from decoding.drafting import MultiDraft, PromptLookup, early_exit
from tradeoff.outcome.block import joint_law
from tradeoff.outcome.multi_draft import evaluate_multi_draft
from tradeoff.rule import LogitRule, TokenByToken
from tradeoff.rules import (
    MARS,
    BlockVerification,
    Cactus,
    CommonPrice,
    Consultant,
    Contrastive,
    RatioClip,
    RecursiveRejection,
    SampleMatch,
    SGLang,
    SpeculativeSampling,
    Typical,
)

PROMPTS = ([1], [3, 2, 1, 3], [2, 0])
"""Of unlike lengths, one of a single token."""

HORIZON = 3
COPIES = 500
CACHES = ["dynamic", "static"]


def padded(prompts, copies=1):
    """Left-padded `input_ids` and `attention_mask`, every prompt `copies` times in a row."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return {
        each: values.repeat_interleave(copies, 0) for each, values in (("input_ids", ids), ("attention_mask", mask))
    }


def write(rule, seed=0, prompts=PROMPTS, copies=1, draft=DRAFT, kind="dynamic", **arguments):
    inputs = padded(prompts, copies)
    defaults: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": HORIZON,
        "account": "counts",
        "draft_length": 2,
    }
    return decoding.generate(
        inputs["input_ids"],
        target=TARGET,
        draft=draft,
        attention_mask=inputs["attention_mask"],
        rule=rule,
        generator=torch.Generator().manual_seed(seed),
        cache_implementation=None if kind == "dynamic" else kind,
        **defaults | arguments,
    )


def tables(output, prompts=PROMPTS, copies=COPIES):
    """Counts of every text of `HORIZON` tokens, one table per prompt."""
    texts = output.sequences[:, -HORIZON:].reshape(len(prompts), copies, HORIZON)
    found = np.zeros((len(prompts), *[VOCAB] * HORIZON), dtype=int)
    for table, rows in zip(found, texts, strict=True):
        np.add.at(table, tuple(rows.numpy().T), 1)
    return found


@cache
def after(model_name, prompt, prefix):
    model = {"draft": DRAFT, "target": TARGET}[model_name]
    return law_after(model, torch.tensor([[*prompt, *prefix]]))[0].numpy()


@cache
def logits_after(prompt, prefix):
    with torch.no_grad():
        return TARGET(torch.tensor([[*prompt, *prefix]])).logits[0, -1].double().numpy()


def exact(rule, prompt, *, draft="draft", draft_length=2):
    """The joint law of the first `HORIZON` tokens, by enumeration."""
    prompt = tuple(prompt)
    return joint_law(
        rule if hasattr(rule, "verdict") else TokenByToken(rule),
        draft if callable(draft) else lambda prefix: after(draft, prompt, prefix),
        lambda prefix: after("target", prompt, prefix),
        draft_length=draft_length,
        horizon=HORIZON,
        target_logits=lambda prefix: logits_after(prompt, prefix),
    ).law


def check(found, rule, prompts=PROMPTS, **how):
    """Every row of the batch has its own exact law: `FALSE_ALARM` per prompt."""
    for table, prompt in zip(found, prompts, strict=True):
        assert chi_square_p_value(table, exact(rule, prompt, **how)) > FALSE_ALARM


@pytest.mark.parametrize(("rule", "kind"), [*((rule, "dynamic") for rule in RULES), (RULES[-1], "static")], ids=repr)
def test_every_row_of_a_ragged_batch_has_the_exact_joint_law(rule, kind):
    check(tables(write(rule, copies=COPIES, kind=kind)), rule)


@pytest.mark.parametrize(
    "rule",
    [
        SampleMatch(),
        Cactus(delta=0.2),
        SGLang(single=0.4, acc=0.4),
        Typical(threshold=0.2),
        BlockVerification(),
        Consultant(),
    ],
    ids=repr,
)
def test_kernels_own_bonuses_and_block_rules_have_it_too(rule):
    check(tables(write(rule, copies=COPIES)), rule)


def test_a_rule_that_compares_raw_logits_has_it_too():
    rule = MARS()
    assert isinstance(rule, LogitRule)
    check(tables(write(rule, copies=COPIES, draft_length=1)), rule, draft_length=1)


@pytest.mark.parametrize("account", ["exact", "counts"])
def test_the_account_does_not_change_the_law(account):
    rule = CommonPrice(price=0.5)
    check(tables(write(rule, copies=COPIES, account=account)), rule)


def test_the_check_rejects_a_neighbours_law():
    found = tables(write(SpeculativeSampling(), copies=COPIES))
    assert chi_square_p_value(found[0], exact(SpeculativeSampling(), PROMPTS[1])) < FALSE_ALARM


def target_law(prompt):
    """Law of `HORIZON` tokens of the target's own text."""
    law = [
        np.prod([after("target", tuple(prompt), text[:place])[text[place]] for place in range(HORIZON)])
        for text in product(range(VOCAB), repeat=HORIZON)
    ]
    return np.reshape(law, [VOCAB] * HORIZON)


def test_prompt_lookup_drafts_are_lossless_and_sometimes_accepted():
    prompts = ([1, 2, 1, 2, 1], [3], [2, 2, 2])
    output = write(SpeculativeSampling(), prompts=prompts, copies=COPIES, draft=PromptLookup())
    for table, prompt in zip(tables(output, prompts), prompts, strict=True):
        assert chi_square_p_value(table, target_law(prompt)) > FALSE_ALARM
    assert 0 < output.statistics.rejected < output.statistics.verified


def test_a_drafter_with_nothing_to_say_is_taken_to_agree_with_the_target():
    # this rule's bonus divides by the draft's law, and there is nothing to look up after one token
    output = write(Contrastive(alpha=1.0), prompts=([3],), copies=COPIES, draft=PromptLookup(), max_new_tokens=1)
    counts = np.bincount(output.sequences[:, -1].numpy(), minlength=VOCAB)
    assert chi_square_p_value(counts, after("target", (3,), ())) > FALSE_ALARM


def test_an_early_exit_of_the_target_drafts_for_it():
    torch.manual_seed(3)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    target = LlamaForCausalLM(config).eval()
    draft = early_exit(target, layers=1)
    rule = RatioClip(ceiling=1.5)
    inputs = padded(PROMPTS, COPIES)
    output = decoding.generate(
        inputs["input_ids"],
        target=target,
        draft=draft,
        attention_mask=inputs["attention_mask"],
        rule=rule,
        draft_length=2,
        generator=torch.Generator().manual_seed(1),
        do_sample=True,
        top_k=0,
        max_new_tokens=HORIZON,
    )
    for table, prompt in zip(tables(output), PROMPTS, strict=True):
        law = joint_law(
            TokenByToken(rule),
            lambda prefix, prompt=prompt: law_after(draft, torch.tensor([[*prompt, *prefix]]))[0].numpy(),
            lambda prefix, prompt=prompt: law_after(target, torch.tensor([[*prompt, *prefix]]))[0].numpy(),
            draft_length=2,
            horizon=HORIZON,
        ).law
        assert chi_square_p_value(table, law) > FALSE_ALARM


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("draft_length", [1, 2])
def test_several_drafts_chosen_by_recursive_rejection_are_lossless(kind, draft_length):
    output = write(
        SpeculativeSampling(),
        copies=COPIES,
        kind=kind,
        draft=MultiDraft(DRAFT, drafts=3, static=kind == "static"),
        draft_length=draft_length,
    )
    for table, prompt in zip(tables(output), PROMPTS, strict=True):
        assert chi_square_p_value(table, target_law(prompt)) > FALSE_ALARM
    single = write(SpeculativeSampling(), copies=COPIES, draft_length=draft_length)
    assert output.statistics.rejected < 0.8 * single.statistics.rejected


def test_every_line_of_several_drafts_is_processed_by_its_own_text():
    processors = LogitsProcessorList([FavourEven()])
    output = write(SpeculativeSampling(), copies=COPIES, draft=MultiDraft(DRAFT, drafts=2), logits_processor=processors)
    for table, prompt in zip(tables(output), PROMPTS, strict=True):
        law = np.zeros([VOCAB] * HORIZON)
        for text in product(range(VOCAB), repeat=HORIZON):
            laws = (law_after(TARGET, torch.tensor([[*prompt, *text[:place]]]), processors) for place in range(HORIZON))
            law[text] = np.prod([float(each[0, token]) for each, token in zip(laws, text, strict=True)])
        assert chi_square_p_value(table, law) > FALSE_ALARM


def test_the_exact_rejection_of_several_drafts_is_that_of_recursive_rejection():
    output = write(
        SpeculativeSampling(), copies=20, draft=MultiDraft(DRAFT, drafts=2), account="exact", max_new_tokens=6
    )
    prompts = [prompt for prompt in PROMPTS for _ in range(20)]
    for prompt, text, statistics in zip(prompts, output.sequences, output.texts, strict=True):
        written = tuple(text[-6:].tolist())
        for place, position in enumerate(statistics.position):
            laws = [after(model, tuple(prompt), written[:position]) for model in ("draft", "target")]
            drafts = 2 if statistics.draft_index[place] == 0 else 1
            expected = evaluate_multi_draft(RecursiveRejection(), *laws, drafts=drafts).rejection
            np.testing.assert_allclose(statistics.rejection[place], expected, atol=1e-6)
    assert abs(output.statistics.divergences["kl"]).max() < 1e-9


def generators(count, seed=5):
    return [torch.Generator().manual_seed(seed + row) for row in range(count)]


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("rule", [SpeculativeSampling(), CommonPrice(price=0.5), Typical(threshold=0.2)], ids=repr)
def test_with_a_generator_per_row_a_text_does_not_depend_on_its_neighbours(rule, kind):
    # ends inside blocks make rows finish in different rounds
    arguments: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": 4, "draft_length": 3}
    inputs = padded(PROMPTS)
    together = decoding.generate(
        inputs["input_ids"],
        target=TARGET,
        draft=DRAFT,
        attention_mask=inputs["attention_mask"],
        rule=rule,
        generator=generators(3),
        do_sample=True,
        top_k=0,
        cache_implementation=None if kind == "dynamic" else kind,
        **arguments,
    )
    for row, prompt in enumerate(PROMPTS):
        alone = decoding.generate(
            torch.tensor([prompt]),
            target=TARGET,
            draft=DRAFT,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            rule=rule,
            generator=generators(3)[row : row + 1],
            do_sample=True,
            top_k=0,
            **arguments,
        )
        text = alone.sequences[0, len(prompt) :]
        found = together.sequences[row, max(len(each) for each in PROMPTS) :]
        assert torch.equal(found[: len(text)], text)
        assert (found[len(text) :] == 0).all()  # padding
        np.testing.assert_allclose(together.texts[row].rejection, alone.texts[0].rejection, atol=1e-6)
        np.testing.assert_array_equal(together.texts[row].kept, alone.texts[0].kept)


@pytest.mark.parametrize("kind", CACHES)
def test_greedy_rows_are_the_targets_greedy_rows(kind):
    inputs = padded(PROMPTS)
    expected = TARGET.generate(**inputs, do_sample=False, max_new_tokens=20)
    output = write(CommonPrice(price=1.0), do_sample=False, max_new_tokens=20, kind=kind, draft_length=3)
    assert torch.equal(output.sequences, expected)
    assert 0 < output.statistics.rejected < output.statistics.verified


@pytest.mark.parametrize("kind", CACHES)
def test_both_caches_write_the_same_text(kind):
    expected = write(CommonPrice(price=0.5), max_new_tokens=20)
    assert torch.equal(write(CommonPrice(price=0.5), max_new_tokens=20, kind=kind).sequences, expected.sequences)


@pytest.mark.parametrize("count", [5, 8])
def test_rows_that_are_full_idle_in_a_static_cache_without_leaving_it(count):
    # a rule with a bonus of its own drafts one token more, behind texts that have no room left
    arguments = {"copies": 60, "max_new_tokens": count, "draft_length": 3}
    expected = write(Typical(threshold=0.2), **arguments)
    assert torch.equal(write(Typical(threshold=0.2), kind="static", **arguments).sequences, expected.sequences)


def test_processors_that_read_the_text_see_every_row_as_generate_lays_it_out():
    inputs = padded(PROMPTS)
    arguments = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": 1.5, "min_new_tokens": 6}
    expected = TARGET.generate(**inputs, eos_token_id=2, **arguments)
    output = write(SpeculativeSampling(), eos_token_id=2, **arguments)
    assert torch.equal(output.sequences, expected)
    assert not torch.equal(expected, TARGET.generate(**inputs, do_sample=False, max_new_tokens=12, eos_token_id=2))


def test_several_texts_of_one_prompt():
    output = decoding.generate(
        torch.tensor([PROMPTS[1]]),
        target=TARGET,
        draft=DRAFT,
        num_return_sequences=4,
        generator=torch.Generator().manual_seed(0),
        do_sample=True,
        max_new_tokens=10,
    )
    assert output.sequences.shape == (4, len(PROMPTS[1]) + 10)
    assert len({tuple(row) for row in output.sequences.tolist()}) > 1
    assert [text.generated for text in output.texts] == [10] * 4
