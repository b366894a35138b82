"""A model's saved generation config: it does not reach what is measured, and where it acts the output says so."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import DRAFT, PROMPT, TARGET
from tiny_study import LOSSLESS, PLAIN, UNO
from transformers import CompileConfig, GenerationConfig, WatermarkingConfig

import decoding
from benchmarks.training import judge as train_judge
from decoding.evaluation.positions.collect import collect_positions, seed_for
from decoding.evaluation.study.cells import calibrated_cells
from decoding.evaluation.study.texts import batches, write_texts
from decoding.huggingface import generate_plainly, plainly
from decoding.huggingface.pair import Pair
from decoding.huggingface.saved_settings import SHAPING, WARPING
from decoding.sampling.parameters import Sampling

ACTING: dict[str, Any] = {
    "max_length": 3,
    "max_new_tokens": 1,
    "min_length": 30,
    "min_new_tokens": 30,
    "early_stopping": True,
    "max_time": 1e-9,
    "stop_strings": ["a"],
    "num_beams": 3,
    "use_mtp": True,
    "use_cache": False,
    "cache_implementation": "quantized",
    "cache_config": {"backend": "quanto"},
    "max_cache_len": 3,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.9,
    "top_h": 0.1,
    "typical_p": 0.1,
    "epsilon_cutoff": 0.3,
    "eta_cutoff": 0.3,
    "repetition_penalty": 3.0,
    "encoder_repetition_penalty": 3.0,
    "length_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[1], [2]],
    "renormalize_logits": True,
    "forced_bos_token_id": 2,
    "forced_eos_token_id": 2,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (1, 5.0),
    "suppress_tokens": [1, 3],
    "begin_suppress_tokens": [0, 1],
    "sequence_bias": {(1,): 9.0},
    "token_healing": True,
    "guidance_scale": 3.0,
    "watermarking_config": WatermarkingConfig(),
    "num_return_sequences": 3,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": False,
    "encoder_no_repeat_ngram_size": 1,
    "decoder_start_token_id": 3,
    "is_assistant": True,
    "num_assistant_tokens": 2,
    "num_assistant_tokens_schedule": "heuristic",
    "assistant_confidence_threshold": 0.9,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 1,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 1,
    "target_lookbehind": 1,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "mtp",
    "compile_config": CompileConfig(),
    "disable_compile": True,
    "low_memory": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "diversity_penalty": 1.0,
    "num_beam_groups": 3,
    "constraints": ["x"],
    "force_words_ids": [[1]],
    "prefill_chunk_size": 1,
    "a_setting_of_its_own": 1,
}
KEPT = {"bos_token_id", "eos_token_id", "pad_token_id"}
OTHERS = {"do_sample", "continuous_batching_config", "_from_model_config", "transformers_version"}
"""Set either way below; deprecated; and two that say where a config is from."""


def loaded_with(model: Any, **settings: Any) -> Any:
    """A model as a folder gives it whose generation_config.json has these settings."""
    changed = copy.copy(model)
    changed.generation_config = GenerationConfig(pad_token_id=0)
    for name, value in settings.items():  # one by one: no door checks them together
        setattr(changed.generation_config, name, value)
    return changed


CLEAN = loaded_with(TARGET)


def written(target: Any, **arguments: Any) -> list[list[int]]:
    prompts = PROMPT.repeat(2, 1)
    generators = [seed_for(1), seed_for(2)]
    output = generate_plainly(prompts, target=target, draft=DRAFT, generator=generators, max_new_tokens=6, **arguments)
    return output.sequences.tolist()


def test_every_setting_of_a_generation_config_is_tried():
    assert set(GenerationConfig().to_dict()) - KEPT - OTHERS <= set(ACTING)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.7), Sampling(top_p=0.8, top_k=4)], ids=str)
def test_measured_texts_are_those_of_a_model_without_a_saved_config(sampling):
    prompts, generators = PROMPT.repeat(2, 1), [seed_for(1), seed_for(2)]
    arguments = {"generator": generators, "max_new_tokens": 6, "do_sample": True} | vars(sampling)
    expected = decoding.generate(prompts, target=CLEAN, draft=DRAFT, **arguments).sequences.tolist()
    for do_sample in (True, False):
        everything = loaded_with(TARGET, do_sample=do_sample, **ACTING)
        assert written(everything, sampling=sampling) == expected
    for name, value in ACTING.items():
        assert written(loaded_with(TARGET, **{name: value}), sampling=sampling) == expected, name


def test_end_tokens_stay_and_a_model_has_its_saved_config_back_whatever_happens():
    ending = loaded_with(TARGET, eos_token_id=[0, 1, 2, 4], temperature=0.1)
    saved = ending.generation_config
    assert len(written(ending)[0]) < PROMPT.shape[1] + 6
    with pytest.raises(KeyError), plainly(ending, max_new_tokens=1):
        raise KeyError
    assert ending.generation_config is saved
    assert saved.temperature == 0.1


def pair_of(target: Any) -> Pair:
    class Words:
        @staticmethod
        def decode(tokens, **_):
            return " ".join(str(int(each)) for each in tokens)

    return Pair(target=target, draft=loaded_with(DRAFT, **ACTING), tokenizer=Words(), name="tiny")


def test_positions_and_compared_texts_are_those_of_a_clean_model():
    changed = loaded_with(TARGET, do_sample=True, **ACTING)

    def measured(target: Any) -> Any:
        pair = pair_of(target)
        positions = collect_positions(pair, [PROMPT], new_tokens=8, limit=16, seed=0)
        cells = calibrated_cells(positions, (UNO, LOSSLESS), ("rejection", (0.02,)), 0, lambda count: None)
        todo = batches(cells, 1, PLAIN.texts)
        written = write_texts(pair, [PROMPT], PLAIN.texts, todo, {}, seed=3, examples=0)
        texts = [row["text"] for rows, _ in written for row in rows]
        return positions.target.tolist(), [cell.knob for cell in cells], texts

    assert measured(changed) == measured(CLEAN)


def test_texts_for_a_judge_to_train_on_are_those_of_a_clean_model(monkeypatch):
    class Tokens(dict):
        input_ids = property(lambda self: self["input_ids"])

        def to(self, _device):
            return self

    class Tokenizer:
        def __call__(self, texts, return_tensors=None, **_):
            return Tokens(input_ids=PROMPT.repeat(len(texts), 1) if return_tensors else texts)

        def batch_decode(self, tokens, **_):
            return [str(row.tolist()) for row in tokens]

    monkeypatch.setattr(train_judge, "LONGEST", 8)
    monkeypatch.setattr(train_judge, "SLACK", 2)

    def texts(model: Any) -> Any:
        torch.manual_seed(0)
        return train_judge.write(model, Tokenizer(), [train_judge.Story(opening="once", start=2, tokens=[])] * 2)

    assert texts(loaded_with(TARGET, **ACTING)) == texts(CLEAN)


def test_nothing_that_measures_generates_in_another_way():
    root = Path(decoding.__file__).parent
    for file in (root / "evaluation").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\bgenerate\b *(,|\(|$)|\bspeculative\b *(,|\(|$)", text, re.MULTILINE), file


NEVER_ACTING = {
    *("max_length", "max_new_tokens"),  # the caller's business, and seen by the length
    *("early_stopping", "num_beams", "length_penalty", "diversity_penalty", "num_beam_groups", "constraints"),  # beams
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *(name for name in ACTING if "assist" in name or "lookup" in name or "lookbehind" in name),
    *("max_matching_ngram_size", "speculation_type", "use_mtp", "decoder_start_token_id", "prefill_chunk_size"),
    *("low_memory", "penalty_alpha", "dola_layers", "force_words_ids", "a_setting_of_its_own"),
}


def test_every_setting_either_shapes_texts_or_never_does():
    assert set(ACTING) | {"do_sample"} == NEVER_ACTING | set(SHAPING) | set(WARPING)
    assert not NEVER_ACTING & {*SHAPING, *WARPING}


def test_settings_that_came_from_the_model_are_shown_in_the_output():
    cool = loaded_with(TARGET, do_sample=True, temperature=0.6, top_k=50, repetition_penalty=1.2, stop_strings=None)
    output = decoding.generate(PROMPT, target=cool, draft=DRAFT, generator=seed_for(0), max_new_tokens=4)
    assert output.saved_settings == {"temperature": 0.6, "do_sample": True, "repetition_penalty": 1.2}
    assert str(output).splitlines()[-1] == (
        "  From the generation config saved with the target: temperature 0.6, do_sample True, repetition_penalty 1.2"
    )
    greedy = decoding.generate(
        PROMPT, target=cool, draft=DRAFT, max_new_tokens=4, do_sample=False, repetition_penalty=1.5
    )
    assert greedy.saved_settings == {}
    own = decoding.generate(
        PROMPT, target=cool, draft=DRAFT, max_new_tokens=4, temperature=0.9, generation_config=GenerationConfig()
    )
    assert own.saved_settings == {"do_sample": True, "repetition_penalty": 1.2}
    plain = generate_plainly(PROMPT, target=cool, draft=DRAFT, max_new_tokens=4, sampling=Sampling(temperature=0.6))
    assert plain.saved_settings == {}
    assert "From" not in str(plain)
