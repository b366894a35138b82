"""Logits processors are shown what a row may come to write and nothing else, and must be functions of it."""

from typing import Any

import pytest
import torch
from test_batch import PROMPTS, padded
from tiny import DRAFT, FALSE_ALARM, PROMPT, TARGET, VOCAB, FavourEven, chi_square_p_value, law_after, tiny_model
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    WatermarkingConfig,
)

import decoding
from decoding.drafting import MultiDraft, PromptLookup
from solvers.errors import InputError
from tradeoff.rules import CommonPrice, SpeculativeSampling

END = 2
WORDS = [[5, 6, 7, END], [5, 8, END], [9, 10, 11, 12, END], [9, END]]


def next_of(words: list[list[int]], written: list[int]) -> list[int]:
    """What may follow: nothing behind a whole word, and nothing where no word begins like this."""
    return sorted(
        {word[len(written)] for word in words if len(word) > len(written) and word[: len(written)] == written}
    )


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("draft", [tiny_model(2, 16), PromptLookup(), MultiDraft(tiny_model(2, 16), drafts=2)])
def test_a_prefix_function_that_knows_whole_words_only_gives_the_targets_own_text(draft: Any, kind: str):
    target = tiny_model(28, 16)
    if isinstance(draft, MultiDraft):
        draft = MultiDraft(draft.model, drafts=2, static=kind == "static")
    # tokens of the words stand in the prompts, so that lookup has something to copy
    prompts = torch.tensor([[9, 10, 9], [3, 4, 3], [5, 6, 5], [9, 5, 9]])
    # every row has words of its own, and raises where it is shown another row's text
    words = [WORDS, WORDS[:2], [[9, 10, 9, 10, 11, END]], [[9, END], [9, 5, 9, 5, END], [14, 15, 14, END]]]

    def allowed(row: int, text: Tensor) -> list[int]:
        assert text[:3].tolist() == prompts[row].tolist()
        return next_of(words[row], text[3:].tolist())

    arguments = {
        "prefix_allowed_tokens_fn": allowed,
        "max_new_tokens": 8,
        "do_sample": False,
        "eos_token_id": END,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(prompts),
    }
    output = decoding.generate(prompts, target=target, draft=draft, cache_implementation=kind, **arguments)
    for row, text in enumerate(output.sequences):
        # own `generate` shows a finished row with its padding, which these words do not know: one row at a time
        def alone(_: int, text: Tensor, row: int = row) -> list[int]:
            return allowed(row, text)

        one = {"prefix_allowed_tokens_fn": alone, "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
        own = target.generate(prompts[row : row + 1], **arguments | one)[0]
        assert text[: len(own)].tolist() == own.tolist()
        assert not text[len(own) :].any()
    assert len({tuple(text) for text in output.sequences.tolist()}) == 4


class Shown:
    """A processor that notes what it is shown."""

    def __init__(self) -> None:
        self.texts: list[list[list[int]]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.texts.append(input_ids.tolist())
        return FavourEven()(input_ids, scores)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_nothing_behind_an_end_or_beyond_the_length_is_shown_and_no_text_that_nobody_wrote(kind: str):
    inputs, shown = padded(PROMPTS), Shown()
    arguments = {"do_sample": True, "top_k": 0, "max_new_tokens": 9, "eos_token_id": 4, "pad_token_id": 0}
    output = decoding.generate(
        target=TARGET,
        draft=DRAFT,
        **inputs,
        **arguments,
        draft_length=3,
        generator=[torch.Generator().manual_seed(row) for row in range(len(PROMPTS))],
        cache_implementation=kind,
        logits_processor=LogitsProcessorList([shown]),
    )
    lengths = {text.generated for text in output.texts}
    assert len(lengths) > 1
    width = inputs["input_ids"].shape[1]
    prompts = inputs["input_ids"].tolist()
    for batch in shown.texts:
        assert len(batch) == len(PROMPTS)
        for text in batch:
            assert text[:width] in prompts
            assert 4 not in text[width:]
            assert len(text) < width + 9


def test_a_row_that_another_criterion_ended_is_not_shown_again_though_its_lines_stay():
    width, ended = 2, []

    def ends_the_first_row(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done = torch.tensor([text[0] == 1 and len(text) == width + 2 for text in input_ids.tolist()])
        if done.any():
            ended.append(len(shown.texts))
        return done

    shown = Shown()
    decoding.generate(
        torch.tensor([[1, 3], [2, 1]]),
        target=TARGET,
        draft=DRAFT,
        do_sample=False,
        max_new_tokens=12,
        cache_implementation="static",
        stopping_criteria=StoppingCriteriaList([ends_the_first_row]),
        logits_processor=LogitsProcessorList([shown]),
        draft_length=2,
    )
    later = [text for batch in shown.texts[ended[0] :] for text in batch if len(text) > width]
    assert later
    assert all(text[:width] == [2, 1] for text in later)


class Counting:
    """Answers by how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        return scores + (torch.arange(VOCAB) == self.calls % VOCAB) * 5.0


class Advancing:
    """A grammar that moves on by the newest tokens since it was last asked: one and the same answer to a repetition."""

    def __init__(self) -> None:
        self.seen, self.state = PROMPT.shape[1], 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.state += int(input_ids[0, self.seen :].sum())
        self.seen = max(self.seen, input_ids.shape[1])
        return scores.masked_fill(torch.arange(VOCAB) == self.state % VOCAB, -torch.inf)


class Asserting:
    """As a grammar library's: from its second call on it accepts the last token, or raises."""

    def __init__(self) -> None:
        self.started = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        assert not self.started or int(input_ids[0, -1]) not in PROMPT
        self.started = True
        return scores


class GrammarLibrarys:
    """Goes by the name of one whose state shows only where the grammar is strict."""

    __module__, __qualname__ = "xgrammar.contrib.hf", "LogitsProcessor"

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores


def noise(input_ids: Tensor, scores: Tensor) -> Tensor:
    return scores + torch.rand_like(scores)


@pytest.mark.parametrize(
    ("processor", "name"),
    [(Counting, "Counting"), (Advancing, "Advancing"), (Asserting, "Asserting"), (lambda: noise, "noise")],
)
@pytest.mark.parametrize("draft_length", [1, 4])
def test_a_processor_with_a_state_is_refused_by_name(processor: Any, name: str, draft_length: int):
    with pytest.raises(InputError, match=f"logits processor {name}: expected a function of the text"):
        decoding.generate(
            PROMPT,
            target=TARGET,
            draft=DRAFT,
            logits_processor=LogitsProcessorList([processor()]),
            do_sample=False,
            max_new_tokens=8,
            draft_length=draft_length,
        )


def test_a_prefix_function_with_a_state_is_refused_too():
    states = iter(range(1000))
    with pytest.raises(InputError, match="logits processor prefix_allowed_tokens_fn: expected a function of the text"):
        decoding.generate(
            PROMPT,
            target=TARGET,
            draft=DRAFT,
            prefix_allowed_tokens_fn=lambda row, text: [next(states) % VOCAB],
            do_sample=False,
            max_new_tokens=8,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits_processor": [GrammarLibrarys()]}, "xgrammar.contrib.hf.LogitsProcessor: .*leave it out"),
        ({"guidance_scale": 1.5}, "UnbatchedClassifierFreeGuidanceLogitsProcessor: .*leave guidance_scale out"),
        (
            {"watermarking_config": SynthIDTextWatermarkingConfig(ngram_len=2, keys=[3, 5])},
            "SynthIDTextWatermarkLogitsProcessor: .*leave watermarking_config out",
        ),
    ],
)
def test_known_processors_with_a_state_are_refused_by_name(arguments: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        decoding.generate(PROMPT, target=TARGET, draft=DRAFT, do_sample=True, max_new_tokens=4, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"no_repeat_ngram_size": 2},
        {"encoder_no_repeat_ngram_size": 2},
        {"encoder_repetition_penalty": 1.5},
        {"sequence_bias": [[[1, 2], 5.0]]},
        {"bad_words_ids": [[1, 2], [3]]},
        {"forced_eos_token_id": 4},
        {"exponential_decay_length_penalty": (3, 1.5)},
        {"begin_suppress_tokens": [0, 1, 3]},
        {"min_new_tokens": 5},
        {"watermarking_config": WatermarkingConfig(bias=3.0)},
        {"remove_invalid_values": True, "suppress_tokens": [1]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_transformers_processors_give_its_own_greedy_text(arguments: dict[str, Any]):
    inputs = padded(PROMPTS)
    arguments = arguments | {"do_sample": False, "max_new_tokens": 8, "eos_token_id": 4, "pad_token_id": 0}
    own = TARGET.generate(**inputs, **arguments)
    for draft in (DRAFT, PromptLookup()):
        assert torch.equal(decoding.generate(target=TARGET, draft=draft, **inputs, **arguments).sequences, own)


class Cooling(TemperatureLogitsWarper):
    """A temperature that depends on the text."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores * torch.where(input_ids[:, -1:] % 2 == 1, 4.0, -1.0)


class TopOne(TopKLogitsWarper):
    """A top-k that depends on the text, and on the scale of the scores."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores + 3.0 * (input_ids[:, -1:] % 2 == 1) * (torch.arange(VOCAB) == 3)


@pytest.mark.parametrize(
    "processors", [[Cooling(1.0)], [TemperatureLogitsWarper(0.3), TopOne(3)]], ids=["temperature", "top-k"]
)
def test_a_class_derived_from_a_known_one_is_not_taken_for_it(processors: list[Any]):
    processors = LogitsProcessorList(processors)
    prompts = torch.tensor([[1, 3]]).repeat(3000, 1)
    output = decoding.generate(
        prompts,
        target=TARGET,
        draft=DRAFT,
        attention_mask=torch.ones_like(prompts),
        logits_processor=processors,
        generator=torch.Generator().manual_seed(0),
        do_sample=True,
        top_k=0,
        max_new_tokens=2,
        rule=SpeculativeSampling(),
        account="counts",
    )
    law = law_after(TARGET, PROMPT, processors)[0][:, None] * torch.cat(
        [law_after(TARGET, torch.tensor([[1, 3, first]]), processors) for first in range(VOCAB)]
    )
    counts = torch.bincount(output.sequences[:, 2] * VOCAB + output.sequences[:, 3], minlength=VOCAB**2)
    assert chi_square_p_value(counts.numpy(), law.detach().numpy()) > FALSE_ALARM


def test_a_lossy_rule_does_not_accept_a_copied_token_that_is_masked():
    prompt = torch.tensor([[1, 3, 1, 3, 1, 3, 1]])
    arguments = {"do_sample": True, "max_new_tokens": 16, "rule": CommonPrice(price=1e6), "draft_length": 3}
    seed = torch.Generator().manual_seed(0)
    assert (
        3
        in decoding.generate(prompt, target=TARGET, draft=PromptLookup(), generator=seed, **arguments).sequences[0, 7:]
    )
    masked: list[dict[str, Any]] = [
        {"suppress_tokens": [3]},
        {"prefix_allowed_tokens_fn": lambda row, text: [0, 1, 2, 4]},
    ]
    for masks in masked:
        output = decoding.generate(prompt, target=TARGET, draft=PromptLookup(), generator=seed, **arguments, **masks)
        assert 3 not in output.sequences[0, 7:]
