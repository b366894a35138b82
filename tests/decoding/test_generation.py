"""What users of `generate` expect besides the text: streamers, scores, caches, interruptions, rows that end alone."""

from typing import Any

import numpy as np
import pytest
import torch
from test_loop import generate
from tiny import DRAFT, PROMPT, TARGET, VOCAB, law_after
from transformers import (
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

import decoding
from solvers.errors import InputError
from tradeoff.rules import (
    BlockVerification,
    CommonPrice,
    Consultant,
    SpeculativeSampling,
)


class PoisonAfter:
    """A logits processor that gives NaN to one row of the batch once its text is long enough."""

    def __init__(self, row: int, length: int) -> None:
        self.row, self.length = row, length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        if input_ids.shape[1] >= self.length:
            scores[self.row] = float("nan")
        return scores


@pytest.mark.parametrize("kind", [None, "static"])
@pytest.mark.parametrize("rule", [SpeculativeSampling(), CommonPrice(price=0.5), BlockVerification(), Consultant()])
def test_a_row_without_a_law_ends_and_leaves_the_others_alone(rule, kind):
    def run(processors):
        return decoding.generate(
            torch.tensor([[1, 3], [2, 1], [3, 3]]),
            target=TARGET,
            draft=DRAFT,
            rule=rule,
            generator=[torch.Generator().manual_seed(row) for row in range(3)],
            logits_processor=LogitsProcessorList(processors),
            cache_implementation=kind,
            do_sample=True,
            max_new_tokens=20,
            top_k=0,
        )

    whole = run([])
    with pytest.warns(RuntimeWarning, match=r"rows \[1\] of the batch ended early: draft model: expected"):
        broken = run([PoisonAfter(1, 9)])
    assert [error is None for error in broken.errors] == [True, False, True]
    for row in (0, 2):
        assert torch.equal(broken.sequences[row], whole.sequences[row])
    kept = broken.texts[1].generated
    assert 0 < kept < 9
    assert torch.equal(broken.sequences[1, 2 : 2 + kept], whole.sequences[1, 2 : 2 + kept])


class Interrupt:
    """A stopping criterion that presses Ctrl-C."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        if input_ids.shape[1] >= self.length:
            raise KeyboardInterrupt
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_ctrl_c_returns_what_was_generated_with_its_account():
    whole = generate(seed=1)
    output = generate(seed=1, stopping_criteria=StoppingCriteriaList([Interrupt(12)]))
    assert output.interrupted
    assert not whole.interrupted
    statistics = output.statistics
    assert 0 < statistics.generated == output.sequences.shape[1] - PROMPT.shape[1] < 12
    assert torch.equal(output.sequences, whole.sequences[:, : output.sequences.shape[1]])
    np.testing.assert_array_equal(statistics.rejection, whole.statistics.rejection[: statistics.verified])


def test_ctrl_c_is_not_swallowed_where_only_tokens_are_returned():
    with pytest.raises(KeyboardInterrupt):
        TARGET.generate(
            PROMPT,
            custom_generate=decoding.speculative,
            draft=DRAFT,
            do_sample=True,
            max_new_tokens=20,
            stopping_criteria=StoppingCriteriaList([Interrupt(12)]),
        )


class Collect(BaseStreamer):
    """What a streamer is told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.ended = False

    def put(self, value: Any) -> None:
        self.told += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_a_streamer_is_told_the_prompt_and_every_token():
    streamer = Collect()
    output = generate(streamer=streamer)
    assert streamer.told == output.sequences[0].tolist()
    assert streamer.ended
    with pytest.raises(InputError, match="streamer: expected a batch of one"):
        generate(prompt=PROMPT.repeat(2, 1), streamer=Collect())


def test_scores_are_the_targets_logits_at_every_token():
    ids = torch.tensor([[1, 3], [2, 1]])
    arguments = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 1.5, "eos_token_id": 2}
    expected = TARGET.generate(ids, output_scores=True, output_logits=True, return_dict_in_generate=True, **arguments)
    output = decoding.generate(ids, target=TARGET, draft=DRAFT, output_scores=True, output_logits=True, **arguments)
    assert torch.equal(output.sequences, expected.sequences)
    assert output.scores is not None
    assert output.logits is not None
    for row, text in enumerate(output.texts):
        for place in range(text.generated):
            np.testing.assert_allclose(output.scores[place][row], expected.scores[place][row], atol=1e-5)
            np.testing.assert_allclose(output.logits[place][row], expected.logits[place][row], atol=1e-5)
    sampled = generate(output_scores=True, temperature=0.5)
    plain = law_after(TARGET, PROMPT)[0].log() / 0.5
    assert sampled.scores is not None
    np.testing.assert_allclose(sampled.scores[0][0].double().softmax(-1), plain.softmax(-1), atol=1e-6)
    assert generate().scores is None


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_that_knows_the_prompt_is_taken_over(kind):
    prompt = torch.tensor([[1, 3, 2, 4, 3, 1]])
    expected = generate(prompt=prompt)
    cache = DynamicCache(config=TARGET.config)
    if kind == "static":
        cache = StaticCache(config=TARGET.config, max_cache_len=30)
    with torch.no_grad():
        TARGET(prompt[:, :4], past_key_values=cache)
    calls = []
    hook = TARGET.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        output = generate(prompt=prompt, past_key_values=cache)
    finally:
        hook.remove()
    assert torch.equal(output.sequences, expected.sequences)
    assert calls[0] == 1  # the fifth token; the sixth comes with the first block


def test_a_cache_of_a_padded_batch_is_taken_over_too():
    prompt = torch.tensor([[1, 3, 2, 4, 3, 1], [0, 0, 2, 4, 1, 3]])
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    expected = generate(prompt=prompt, attention_mask=mask)
    cache = DynamicCache(config=TARGET.config)
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, :4]
        TARGET(prompt[:, :4], attention_mask=mask[:, :4], position_ids=positions, past_key_values=cache)
    output = generate(prompt=prompt, attention_mask=mask, past_key_values=cache)
    assert torch.equal(output.sequences, expected.sequences)


def test_the_time_is_split_into_parts_that_add_up():
    seconds = generate().seconds
    assert min(seconds.draft, seconds.target, seconds.verify, seconds.rest) > 0
    assert seconds.total == pytest.approx(seconds.draft + seconds.target + seconds.verify + seconds.rest)


def test_counts_only_leave_exact_columns_empty_and_all_counts_in_place():
    exact, counts = generate(seed=2).statistics, generate(seed=2, account="counts").statistics
    assert np.isnan(counts.rejection).all()
    assert np.isnan(counts.log_likelihood).all()
    np.testing.assert_array_equal(counts.accepted, exact.accepted)
    assert counts.verified == exact.verified
    assert exact.spent["kl"] == pytest.approx(exact.divergences["kl"].sum())


@pytest.mark.parametrize("kind", [None, "static"])
def test_drafts_behind_the_last_position_of_a_model_are_harmless(kind):
    # learned positions: a token at position 12 would be an index error
    def model(seed):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=VOCAB, n_positions=12, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5)
        config.bos_token_id = config.eos_token_id = None
        return GPT2LMHeadModel(config).eval()

    target, draft = model(0), model(1)
    ids = torch.tensor([[1, 3, 2, 4], [0, 0, 0, 2]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    arguments: dict[str, Any] = {
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": 8,
        "draft_length": 5,
        "pad_token_id": 0,
    }

    def write(rows, **more):
        return decoding.generate(
            ids[rows],
            target=target,
            draft=draft,
            attention_mask=mask[rows],
            generator=[torch.Generator().manual_seed(row) for row in rows],
            **arguments | more,
        ).sequences

    together = write([0, 1], cache_implementation=kind)
    for row in (0, 1):
        assert torch.equal(together[row : row + 1], write([row]))
