"""What generate is given is honoured or refused in one line that names it: arguments, wrappers, modes, placements."""

import copy
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from test_generation import Collect
from tiny import DRAFT, PROMPT, TARGET
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, pipeline
from transformers.generation.stopping_criteria import StopStringCriteria

import decoding
from decoding import ModelDrafter, MultiDraft, PromptLookup
from solvers.errors import InputError
from tradeoff.rules import CommonPrice, Lenience, from_spec

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
OWN = TARGET.generate(PROMPT, **GREEDY)
PAIR = Path(decoding.__file__).parent / "embedded"


def custom(model=TARGET, **arguments):
    return model.generate(PROMPT, custom_generate=decoding.speculative, draft=DRAFT, **GREEDY | arguments)


def as_config(model: Any, **modules: Any) -> Any:
    """A PEFT wrapper, by what is asked of one."""
    wrapper: Any = nn.Module()
    wrapper.base = model
    wrapper.peft_config = {"default": types.SimpleNamespace(**modules)}
    wrapper.active_peft_config = wrapper.peft_config["default"]
    wrapper.get_base_model = lambda: model
    return wrapper


class Rewriting(type(TARGET)):
    """Another prompt than the caller's."""

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return super().prepare_inputs_for_generation(input_ids % 2, **kwargs)


REFUSED = {
    "a rule's class": ({"rule": CommonPrice}, "generate: .* got the class CommonPrice; make a rule of it"),
    "a rule's name": ({"rule": "common-price:0.5"}, "expected the name of a rule; got 'common-price'; did you mean"),
    "a rule for several drafts": ({"rule": "k_seq"}, "generate: .* multi-draft rules are taken by"),
    "no rule": ({"rule": 3}, "generate: expected a rule that judges one token at a time or .*; got 3"),
    "half a length": ({"draft_length": 1.5}, "draft_length: expected a whole number .* got 1.5"),
    "a truth value": ({"draft_length": True}, "draft_length: expected a whole number .* got True"),
    "no length": ({"draft_length": 0}, "draft_length: expected at least 1; got 0"),
    "an account": ({"account": "foo"}, "account: expected one of None, 'exact', 'counts'; got 'foo'"),
    "a backend": ({"backend": "tirton"}, "backend: expected one of 'auto', 'torch', 'triton'; got 'tirton'"),
    "compiled": ({"compiled": 1}, "compiled: expected one of False, True; got 1"),
    "a seed": ({"generator": 0}, "generator: expected a torch.Generator, .* got 0"),
    "seeds": ({"generator": [0]}, r"generator: expected a torch.Generator, .* got \[0\]"),
    "contrastive": ({"penalty_alpha": 0.6, "top_k": 4}, "expected sampling or greedy decoding; got contrastive search"),
    "lookup": ({"prompt_lookup_num_tokens": 3}, "expected sampling or greedy decoding; got assisted generation"),
    "hidden states": ({"output_hidden_states": True}, "output_hidden_states: .* besides; leave it out"),
    "embeddings": ({"inputs_embeds": torch.zeros(1, 2, 16)}, "inputs_embeds: .* besides; leave it out"),
    "positions": ({"position_ids": torch.tensor([[3, 4]])}, "position_ids: expected the places of each row's tokens"),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_arguments_of_another_kind_are_refused(arguments, said):
    for call in (custom, lambda **more: decoding.generate(PROMPT, target=TARGET, draft=DRAFT, **GREEDY | more)):
        with pytest.raises(InputError, match=said) as caught:
            call(**arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"assistant_model": DRAFT}, "assistant_model: expected none beside draft"),
        ({"stopping_criteria": 3}, "stopping_criteria: expected a list of callables; got 3"),
        ({"attention_mask": torch.ones(1, 3)}, r"of the shape of input_ids, \[1, 2\]; got \[1, 3\]"),
        ({"stop_strings": "a"}, "stop_strings: expected the tokenizer with them; got 'a' alone"),
        ({"streamer": 3}, "streamer: expected one of transformers, with put and end; got 3"),
    ],
)
def test_what_generate_keeps_to_itself_is_seen_before_it(arguments, said):
    with pytest.raises(InputError, match=said):
        decoding.generate(PROMPT, target=TARGET, draft=DRAFT, **GREEDY | arguments)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (PROMPT[0], r"got shape \[2\]; input_ids\[None\] makes a batch of one"),
        (PROMPT.numpy(), "got ndarray; give a tokenizer's input_ids with return_tensors='pt'"),
        (PROMPT.float(), r"whole numbers; got torch.float32; call .long\(\)"),
        (torch.tensor([[1, 5]]), "from 0 to 4; got 5; use the target's own tokenizer"),
        (torch.tensor([[-1, 1]]), "from 0 to 4; got -1"),
        (None, "got NoneType"),
    ],
)
def test_prompts_of_another_kind_are_refused(ids, said):
    with pytest.raises(InputError, match=said):
        decoding.generate(ids, target=TARGET, draft=DRAFT, **GREEDY)


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (None, "draft: expected a Hugging Face causal LM or a drafter; got None"),
        ("org/name", "draft model: .* got the text 'org/name'; load it with"),
        (nn.DataParallel(DRAFT), "draft model: .* got it inside DataParallel; give its .module"),
        (PromptLookup, "draft model: .* got the class PromptLookup; give an instance"),
        (3, "draft model: .* got int"),
        (as_config(DRAFT, is_prompt_learning=True), "draft model: .* got Module with a learned prompt; use adapters"),
    ],
    ids=["none", "name", "parallel", "class", "number", "prompt"],
)
def test_drafts_of_another_kind_are_refused(draft, said):
    with pytest.raises(InputError, match=said):
        decoding.generate(PROMPT, target=TARGET, draft=draft, **GREEDY)
    if draft is not None:
        with pytest.raises(InputError, match=said):
            ModelDrafter(draft)
        with pytest.raises(InputError, match=said.replace("draft model", "target model")):
            decoding.generate(PROMPT, target=draft, draft=DRAFT, **GREEDY)


def test_what_is_wrapped_around_a_draft_is_taken_off():
    wrapped = [
        torch.compile(DRAFT, backend="eager"),
        as_config(DRAFT, is_prompt_learning=False),
        ModelDrafter(torch.compile(DRAFT, backend="eager")),
    ]
    plain = decoding.generate(PROMPT, target=TARGET, draft=DRAFT, **GREEDY)
    for draft in wrapped:
        output = decoding.generate(PROMPT, target=TARGET, draft=draft, **GREEDY)
        assert torch.equal(output.sequences, OWN)
        assert output.statistics.accepted.tolist() == plain.statistics.accepted.tolist()
    assert torch.equal(
        decoding.generate(PROMPT, target=torch.compile(TARGET, backend="eager"), draft=DRAFT, **GREEDY).sequences, OWN
    )


def test_a_target_that_rewrites_its_inputs_is_refused():
    model = copy.deepcopy(TARGET)
    plain = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda input_ids, **more: plain(input_ids % 2, **more)
    with pytest.raises(InputError, match="whose prepare_inputs_for_generation is replaced"):
        custom(model)
    rewriting = Rewriting(TARGET.config).eval()
    with pytest.raises(InputError, match="got Rewriting, whose prepare_inputs_for_generation is its own"):
        custom(rewriting)


def test_token_types_are_refused_where_a_model_takes_them():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=5, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=None)
    model = GPT2LMHeadModel(config).eval()
    with pytest.raises(InputError, match="token_type_ids: expected a text of tokens alone"):
        custom(model, token_type_ids=torch.ones_like(PROMPT))


def test_a_reader_of_a_streamer_hears_the_end_after_an_error():
    for call in (
        lambda s: custom(text_streamer=s, draft_length=0),
        lambda s: decoding.generate(PROMPT, target=3, draft=DRAFT, streamer=s),
    ):
        streamer = Collect()
        with pytest.raises(InputError):
            call(streamer)
        assert streamer.ended
    streamer = Collect()
    custom(text_streamer=streamer)
    assert streamer.told == OWN[0].tolist()


def test_criteria_read_scores_after_the_temperature_as_they_are_given_out():
    shown: list[Any] = []
    output = decoding.generate(
        PROMPT,
        target=TARGET,
        draft=DRAFT,
        stopping_criteria=[lambda _, scores: shown.append(scores) or len(scores) == 3],
        do_sample=True,
        temperature=0.5,
        top_k=0,
        max_new_tokens=6,
        output_scores=True,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        own = TARGET(output.sequences[:, :-1]).logits[:, PROMPT.shape[1] - 1 :] / 0.5
    torch.testing.assert_close(torch.stack(shown[-1], dim=1), own)


def test_criteria_may_say_one_word_and_read_the_scores():
    def stop(input_ids, scores):
        return bool(len(scores) >= 4 and scores[-1].argmax() == input_ids[0, -1])

    arguments = GREEDY | {"stopping_criteria": [stop], "output_scores": True, "return_dict_in_generate": True}
    expected = TARGET.generate(PROMPT, **arguments)
    output = decoding.generate(PROMPT, target=TARGET, draft=DRAFT, **arguments)
    assert torch.equal(output.sequences, expected.sequences)
    assert output.sequences.shape[1] == PROMPT.shape[1] + 4
    shown: list[Any] = []
    decoding.generate(
        PROMPT,
        target=TARGET,
        draft=DRAFT,
        stopping_criteria=[lambda _, scores: shown.append(scores) or False],
        **GREEDY,
    )
    assert set(shown) == {None}
    for answer in (None, [False], 0.0):
        with pytest.raises(InputError, match="stopping_criteria: expected a boolean tensor, one entry per row; got"):
            decoding.generate(
                PROMPT, target=TARGET, draft=DRAFT, stopping_criteria=[lambda *_, word=answer: word], **GREEDY
            )
    # for generate one word speaks for all rows
    with pytest.raises(InputError, match="one entry per row; got False from function"):
        decoding.generate(
            PROMPT.repeat(2, 1), target=TARGET, draft=DRAFT, stopping_criteria=[lambda *_: False], **GREEDY
        )


@pytest.fixture(scope="module")
def embedded():
    pair = [decoding.huggingface.load_model(str(PAIR / name)) for name in ("target", "draft")]
    return *pair, decoding.huggingface.load_tokenizer(str(PAIR / "target"))


def test_stop_strings_end_a_text_where_they_end_the_targets(embedded):
    target, draft, tokenizer = embedded
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    arguments: dict[str, Any] = {"do_sample": False, "max_new_tokens": 30}
    whole = target.generate(ids, **arguments)
    word = tokenizer.decode(whole[0, ids.shape[1] :])[12:15]
    expected = target.generate(ids, stop_strings=[word], tokenizer=tokenizer, **arguments)
    assert expected.shape[1] < whole.shape[1]
    for given in ({"stop_strings": [word]}, {"stopping_criteria": [StopStringCriteria(tokenizer, [word])]}):
        output = decoding.generate(ids, target=target, draft=draft, tokenizer=tokenizer, **given, **arguments)
        assert torch.equal(output.sequences, expected)


def test_a_pipeline_takes_the_output(embedded):
    target, draft, tokenizer = embedded
    write = pipeline("text-generation", model=target, tokenizer=tokenizer)
    arguments: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "return_dict_in_generate": True}
    expected = write("Once upon", **arguments)
    assert write("Once upon", custom_generate=decoding.speculative, draft=draft, **arguments) == expected


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_training_mode_without_dropout_is_left_for_the_call():
    model = copy.deepcopy(TARGET)
    model.gradient_checkpointing_enable()
    model.train()
    for target, draft in ((model, DRAFT), (TARGET, model)):
        assert torch.equal(decoding.generate(PROMPT, target=target, draft=draft, **GREEDY).sequences, OWN)
    assert all(module.training for module in model.modules())
    model.gpt_neox.emb_dropout.p = 0.1
    with pytest.raises(
        InputError, match=r"target model: .* training mode with dropout 0.1 in gpt_neox.emb_dropout; call"
    ):
        custom(model)
    model.eval()
    assert torch.equal(custom(model), OWN)


def test_offloaded_layers_are_brought_where_they_compute(tmp_path):
    for offload in (cpu_offload, lambda model: disk_offload(model, str(tmp_path))):
        model = copy.deepcopy(TARGET)
        offload(model)
        assert model.device.type == "meta"
        for pair in ((model, DRAFT), (TARGET, model), (model, MultiDraft(model, drafts=2))):
            assert torch.equal(decoding.generate(PROMPT, target=pair[0], draft=pair[1], **GREEDY).sequences, OWN)
    with torch.device("meta"):
        nowhere = type(TARGET)(TARGET.config)
    with pytest.raises(InputError, match="draft model: expected weights, or offloaded ones; got the meta device"):
        decoding.generate(PROMPT, target=TARGET, draft=nowhere, **GREEDY)


def test_drafters_take_whole_numbers():
    with pytest.raises(InputError, match="drafts: expected a whole number"):
        MultiDraft(DRAFT, drafts=2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="prompt lookup: expected whole numbers"):
        PromptLookup(longest=2.5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rule", ["common_price:price=0.5", "block_verification"])
def test_a_rule_is_taken_by_its_spec(rule):
    def text(judge: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return decoding.generate(
            PROMPT, target=TARGET, draft=DRAFT, rule=judge, generator=generator, do_sample=True, max_new_tokens=12
        ).sequences

    assert torch.equal(text(rule), text(from_spec(rule)))


def test_verify_takes_a_spec_and_names_who_takes_other_rules():
    logits = torch.tensor([[[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]]])
    rest = logits[:, :1].flip(-1), logits, torch.tensor([[0]]), torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    by_name, by_value = (decoding.verify(rule, *rest) for rule in ("lenience:factor=0.5", Lenience(factor=0.5)))
    assert torch.equal(by_name.accepted, by_value.accepted)
    assert torch.equal(by_name.next_token, by_value.next_token)
    with pytest.raises(InputError, match=r"decoding.verify: .* multi-draft rules are taken by"):
        decoding.verify("k_seq", *rest)


def test_models_are_given_by_name():
    with pytest.raises(InputError, match=r"by position; write generate\(input_ids, target=..., draft=...\)"):
        decoding.generate(TARGET, DRAFT, PROMPT, **GREEDY)
    with pytest.raises(InputError, match=r"got str, str by position; write load_pair\(target=..., draft=...\)"):
        decoding.load_pair("a", "b")
