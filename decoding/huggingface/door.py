"""Whether what `generate` was given, and what it made of it, is what the loop can honour; told before any work."""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import Cache
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from decoding.drafting import Drafter, ModelDrafter
from decoding.models.wrappers import plain_model
from decoding.policies.price import Controller
from decoding.verification import Backend
from solvers.errors import InputError
from tradeoff.rule import BlockRule, Rule
from tradeoff.rules import SpeculativeSampling
from tradeoff.rules.registry import as_rule

ACCOUNTS = ("exact", "counts")

HONOURED = {"attention_mask", "past_key_values", "position_ids", "use_cache", "logits_to_keep"}
"""What `generate` prepares for a model and the loop reads, checks or does without."""

REWRITING = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
"""Methods by which a model says what it is shown at each step, instead of its tokens and their positions."""

KNOWN = {
    "ctrl",
    "exaone4_5",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4_unified",
    "hyperclovax_vision_v2",
    "mllama",
    "molmo2",
    "phi3",
    "phimoe",
    "roc_bert",
}
"""Families of transformers whose own such methods change nothing where only text is given."""


def drafter_of(draft: Any, *, static: bool, compiled: bool) -> Drafter:
    """Return who drafts: a causal LM, whatever is wrapped around it, as a drafter; a drafter as it is.

    Raises
    ------
    InputError
        Something else.
    """
    if isinstance(draft, type) or not all(hasattr(draft, part) for part in ("start", "propose", "select")):
        if draft is None:
            raise InputError(
                "draft: expected a Hugging Face causal LM or a drafter; got None; give a smaller model of the "
                "target's tokenizer, or decoding.PromptLookup()"
            )
        return ModelDrafter(draft, static=static, compiled=compiled)
    return draft


def check_named(call: str, by_position: tuple[Any, ...]) -> None:
    """Check that models are given by name: `tradeoff` has the draft first, and a swapped pair would run.

    Raises
    ------
    InputError
        Something is given by position.
    """
    if by_position:
        got = ", ".join(type(each).__name__ for each in by_position)
        raise InputError(f"models: expected target and draft by name; got {got} by position; write {call}")


def check_target(target: Any) -> None:
    """Check that a target is a causal LM that generates.

    Raises
    ------
    InputError
        Something else.
    """
    plain_model(target, "target")
    if not callable(getattr(target, "generate", None)):
        raise InputError(
            f"target model: expected a Hugging Face causal LM; got {type(target).__name__}, which has no generate; "
            "load one with AutoModelForCausalLM.from_pretrained"
        )


def check_prompts(input_ids: Any, vocab: int) -> None:
    """Check that prompts are `[batch, length]` token ids of the target.

    Raises
    ------
    InputError
        Something else.
    """
    expected = "input_ids: expected a tensor of token ids, [batch, length]"
    if not isinstance(input_ids, Tensor):
        remedy = "give a tokenizer's input_ids with return_tensors='pt', or torch.tensor([ids])"
        raise InputError(f"{expected}; got {type(input_ids).__name__}; {remedy}")
    if input_ids.ndim != 2 or 0 in input_ids.shape[:1]:
        remedy = "input_ids[None] makes a batch of one" if input_ids.ndim == 1 else "give one row per text"
        raise InputError(f"{expected}; got shape {list(input_ids.shape)}; {remedy}")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"{expected}, whole numbers; got {input_ids.dtype}; call .long()")
    wrong = (input_ids < 0) | (input_ids >= vocab)
    if bool(wrong.any()):
        raise InputError(
            f"{expected}, from 0 to {vocab - 1}; got {int(input_ids[wrong][0])}; use the target's own tokenizer"
        )


def judge_of(rule: Any) -> Rule | BlockRule | Controller:
    """Return what judges drafted tokens: a rule or its spec, or a controller as it is; lossless where none is given.

    Raises
    ------
    InputError
        Something else, or a rule of another kind.
    """
    if rule is None:
        return SpeculativeSampling()
    if isinstance(rule, Controller) and not isinstance(rule, type):
        return rule
    return as_rule(rule, kind=("token", "block"), taken_by="decoding.generate")


def check_choices(
    *,
    draft_length: Any,
    generator: Any,
    account: Any,
    backend: Any,
    compiled: Any,
    streamed: bool,
    batch: int,
) -> None:
    """Check the loop's own arguments.

    Raises
    ------
    InputError
        One of another kind.
    """
    _check_length(draft_length)
    _check_word("account", account, (None, *ACCOUNTS))
    _check_word("backend", backend, get_args(Backend))
    _check_word("compiled", compiled, (False, True))
    _check_generator(generator, batch)
    if streamed and batch > 1:
        raise InputError(f"streamer: expected a batch of one; got {batch} rows; stream them one at a time")


def check_streamer(streamer: Any) -> None:
    """Check that a streamer, if there is one, can be told tokens and the end.

    Raises
    ------
    InputError
        Something else.
    """
    if streamer is None:
        return
    if not all(callable(getattr(streamer, part, None)) for part in ("put", "end")) or isinstance(streamer, type):
        raise InputError(f"streamer: expected one of transformers, with put and end; got {streamer!r}")


def _check_length(draft_length: Any) -> None:
    if isinstance(draft_length, type) or not all(hasattr(draft_length, part) for part in ("most", "choose", "observe")):
        if isinstance(draft_length, bool) or not isinstance(draft_length, int):
            raise InputError(
                f"draft_length: expected a whole number of tokens, or a DraftLength; got {draft_length!r}; 4 is usual"
            )
        if draft_length < 1:
            raise InputError(f"draft_length: expected at least 1; got {draft_length}")


def _check_word(name: str, value: Any, words: tuple[Any, ...]) -> None:
    # by type too: 1 equals True
    if not any(type(value) is type(word) and value == word for word in words):
        raise InputError(f"{name}: expected one of {', '.join(map(repr, words))}; got {value!r}")


def _check_generator(generator: Any, batch: int) -> None:
    if generator is None or isinstance(generator, torch.Generator):
        return
    if not isinstance(generator, Sequence) or not all(isinstance(each, torch.Generator) for each in generator):
        raise InputError(
            f"generator: expected a torch.Generator, or a list of one per row; got {generator!r}; "
            "torch.Generator().manual_seed(0) makes one"
        )
    if len(generator) != batch:
        raise InputError(f"generator: expected one, or one per row; got {len(generator)} for {batch} rows")


def check_config(generation_config: Any) -> None:
    """Check that a generation config asks for sampling or greedy decoding, and for nothing that is not recorded.

    Raises
    ------
    InputError
        Beams, contrastive search and the like; attention weights or hidden states.
    """
    if (generation_config.num_beams or 1) > 1:
        raise InputError(f"speculative decoding: expected no beams; got num_beams {generation_config.num_beams}")
    mode = generation_config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise InputError(
            f"generation config: expected sampling or greedy decoding; got {mode.value.replace('_', ' ')}; "
            "leave out what asks for it"
        )
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(generation_config, name, None):
            raise InputError(f"{name}: expected False; got True; they are not kept, ask the model for them afterwards")


def check_prepared(model: Any, input_ids: Tensor, prepared: dict[str, Any]) -> None:
    """Check that a model is shown its tokens at their positions, and nothing else.

    Parameters
    ----------
    model
        The target.
    input_ids
        `[batch, length]`.
    prepared
        What `generate` has for the model besides.

    Raises
    ------
    InputError
        Images, embeddings, token types or anything else; other positions; a model that rewrites its inputs.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(f"target model: expected a Hugging Face causal LM; got {type(model).__name__}")
    if prepared.get("cache_params") is not None:  # made by `generate`, not given by the caller
        raise InputError(
            f"target model: expected one with a key-value cache; got {type(model).__name__}, which keeps a state that "
            "cannot be wound back; choose a decoder with attention layers only"
        )
    for name, value in prepared.items():
        # an empty dictionary: no images for a model that takes them
        if name not in HONOURED and value is not None and not (isinstance(value, dict) and not value):
            got = "encoded images" if name == "mm_encoder_outputs" else name
            raise InputError(
                f"{name}: expected a text of tokens alone, input_ids with attention_mask and past_key_values; got "
                f"{got} besides; leave it out, or call generate without speculative decoding"
            )
    _check_positions(input_ids, prepared.get("attention_mask"), prepared.get("position_ids"))
    for name in REWRITING:
        _check_method(model, name)


def _check_positions(input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> None:
    """Positions must count every row's own tokens from 0, in all planes of a model that has several."""
    if position_ids is None:
        return
    batch, longest = input_ids.shape
    if position_ids.shape[-1] != longest:
        raise InputError(
            f"attention_mask or position_ids: expected one entry for each of the {longest} tokens of input_ids; got "
            f"{position_ids.shape[-1]}; give whole texts, those a cache knows included"
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids.device)
    counted = mask.long().cumsum(-1) - 1
    wrong = (position_ids.to(counted.device) != counted) & (mask != 0)
    if position_ids.ndim < 2 or position_ids.shape[-2] not in (1, batch) or bool(wrong.any()):
        raise InputError(
            "position_ids: expected the places of each row's tokens, 0, 1, ..., padding not counted; got others; "
            "leave them out"
        )


def _check_method(model: Any, name: str) -> None:
    used = getattr(getattr(model, name), "__func__", None)
    module = getattr(used, "__module__", "")
    family = module.removeprefix("transformers.models.").partition(".")[0] if "transformers.models." in module else ""
    if used is not getattr(type(model), name) or not (module == "transformers.generation.utils" or family in KNOWN):
        raise InputError(
            f"target model: expected one that is shown its tokens alone; got {type(model).__name__}, whose {name} is "
            f"{'its own' if used is getattr(type(model), name) else 'replaced'}; call generate without speculative "
            "decoding"
        )


def check_arguments(arguments: dict[str, Any], input_ids: Tensor) -> None:
    """Check arguments of `generate` that it keeps to itself, or passes on without looking.

    Raises
    ------
    InputError
        One that would be ignored, or is of another kind.
    """
    for name in ("assistant_model", "assistant_tokenizer", "custom_generate", "token_healing", "synced_gpus"):
        if arguments.get(name):
            raise InputError(f"{name}: expected none beside draft; got {type(arguments[name]).__name__}; leave it out")
    for name in ("logits_processor", "stopping_criteria"):
        if not isinstance(arguments.get(name), list | None) or not all(map(callable, arguments.get(name) or ())):
            raise InputError(f"{name}: expected a list of callables; got {arguments[name]!r}; put it in a list")
    cache = arguments.get("past_key_values")
    if not isinstance(cache, Cache | None):
        raise InputError(f"past_key_values: expected a DynamicCache or StaticCache; got {type(cache).__name__}")
    mask = arguments.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != input_ids.shape):
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(
            f"attention_mask: expected a tensor of the shape of input_ids, {list(input_ids.shape)}; got {got}; "
            "give whole texts, those a cache knows included"
        )


def with_stop_strings(target: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Make stop strings a stopping criterion: `generate` does not let the tokenizer through to custom loops.

    Raises
    ------
    InputError
        Stop strings without a tokenizer.
    """
    arguments = dict(arguments)
    tokenizer = arguments.pop("tokenizer", None)
    configs = (arguments.get("generation_config"), target.generation_config)
    saved = (getattr(config, "stop_strings", None) for config in configs)
    strings = arguments["stop_strings"] if "stop_strings" in arguments else next(filter(None, saved), None)
    if strings is None:
        return arguments
    if tokenizer is None:
        raise InputError(f"stop_strings: expected the tokenizer with them; got {strings!r} alone; give tokenizer=")
    given = arguments.get("stopping_criteria") or []
    # as `generate`: of one kind, the caller's own goes first
    own = [] if any(type(each) is StopStringCriteria for each in given) else [StopStringCriteria(tokenizer, strings)]
    return arguments | {"stop_strings": None, "stopping_criteria": StoppingCriteriaList([*own, *given])}
