"""Model folders that are cut, broken, hostile or of another model: one line, and never random weights."""

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from judge_models import ONE_LABEL, SIZES, WORDS, save_words
from safetensors.torch import load_file, save_file

from decoding.huggingface import load_model, load_tokenizer
from decoding.huggingface.reward import RewardScorer
from solvers.errors import InputError

LAYER = "model.layers.0.mlp.up_proj.weight"


def saved(folder: Path, **changed):
    torch.manual_seed(3)
    sizes: dict[str, Any] = SIZES | changed
    hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)).save_pretrained(folder)
    save_words(folder, padding=None, chat=False)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def configured(folder, **changed):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(load, folder):
    """The one line with which a folder is refused."""
    with pytest.raises(InputError) as error:
        load(str(folder))
    line = str(error.value)
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 600
    return line


def score(folder):
    return RewardScorer(folder, device="cpu", dtype="float32", template=None)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: weights(folder, lambda tensors: tensors.pop(LAYER)), f"{LAYER} missing, which would be random"),
        (lambda folder: configured(folder, num_hidden_layers=3), "and 6 more missing, which would be random"),
        (lambda folder: configured(folder, num_hidden_layers=1), "and 6 more left over, which would be ignored"),
        (lambda folder: configured(folder, intermediate_size=8), "of other shapes, which would be random"),
        (lambda folder: configured(folder, vocab_size=12), "model.embed_tokens.weight of other shapes"),
        (lambda folder: configured(folder, tie_word_embeddings=False), None),
        (
            lambda folder: weights(folder, lambda tensors: tensors.update({"v_head.weight": torch.zeros(1, 16)})),
            "v_head.weight left over",
        ),
    ],
)
def test_weights_that_are_not_the_models_are_named_and_refused(folder, capfd, break_it, told):
    load_model(str(folder))
    break_it(folder)
    if told is None:
        load_model(str(folder))
    else:
        assert told in refused(load_model, folder)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_are_stored_once_and_missing_where_there_are_none(tmp_path, tied):
    folder = saved(tmp_path / "tied", tie_word_embeddings=tied)
    names = set(load_file(folder / "model.safetensors"))
    assert ("lm_head.weight" in names) is not tied
    text = torch.arange(6)[None]
    direct = hf.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(load_model(str(folder))(text).logits, direct(text).logits)
    configured(folder, tie_word_embeddings=not tied)
    if tied:
        assert "lm_head.weight missing" in refused(load_model, folder)
    weights(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    configured(folder, tie_word_embeddings=True)
    if tied:
        assert "model.embed_tokens.weight" in refused(load_model, folder)


def test_a_reward_model_is_held_to_the_same(tmp_path):
    hf.LlamaForSequenceClassification(hf.LlamaConfig(**ONE_LABEL)).save_pretrained(tmp_path)
    save_words(tmp_path, padding=None, chat=False)
    score(str(tmp_path))
    weights(tmp_path, lambda tensors: tensors.pop(LAYER))
    assert f"{LAYER} missing" in refused(score, tmp_path)


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def pickled(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)


def stored(folder, content):
    (folder / "model.safetensors").write_bytes(content)


def written(folder, name, text):
    (folder / name).write_text(text)


BROKEN = {
    "empty": lambda folder: stored(folder, b""),
    "garbage": lambda folder: stored(folder, bytes(range(256)) * 9),
    "cut": lambda folder: stored(folder, (folder / "model.safetensors").read_bytes()[:-100]),
    "huge header": lambda folder: stored(folder, struct.pack("<Q", 1 << 60) + b"{}"),
    "lying header": lambda folder: stored(folder, struct.pack("<Q", 2) + b"[]"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "cut pickle": lambda folder: pickled(folder, pickle.dumps({"a": 1})[:-4]),
    "no pickle": lambda folder: pickled(folder, b"x"),
    "empty pickle": lambda folder: pickled(folder, b""),
    "malicious pickle": lambda folder: pickled(folder, pickle.dumps(Malice(folder / "executed"))),
    "empty config": lambda folder: written(folder, "config.json", ""),
    "list config": lambda folder: written(folder, "config.json", "[]"),
    "unknown architecture": lambda folder: configured(folder, model_type="nope"),
    "code of its own": lambda folder: configured(folder, model_type="x", auto_map={"AutoConfig": "x.Y"}),
    "text for a size": lambda folder: configured(folder, hidden_size="many"),
    "negative size": lambda folder: configured(folder, vocab_size=-3),
    "no heads": lambda folder: configured(folder, num_attention_heads=0),
    "uneven heads": lambda folder: configured(folder, num_attention_heads=3, head_dim=None),
    "terabytes": lambda folder: configured(folder, vocab_size=10**15),
    "unknown activation": lambda folder: configured(folder, hidden_act="nope"),
    "deep config": lambda folder: written(folder, "config.json", '{"a":' * 100_000),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_models_are_refused_in_one_line(folder, kind):
    BROKEN[kind](folder)
    line = refused(load_model, folder)
    assert str(folder) in line
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"model": ',
        '{"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
        '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
        "[" * 100_000,
    ],
)
def test_broken_tokenizers_are_refused_in_one_line(folder, text):
    written(folder, "tokenizer.json", text)
    assert str(folder) in refused(load_tokenizer, folder)


def test_a_tokenizer_without_an_unknown_token_is_refused_when_it_is_loaded(folder):
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None}
    model = {"type": "WordLevel", "vocab": dict(zip(WORDS, range(len(WORDS)), strict=True)), "unk_token": "nowhere"}
    written(folder, "tokenizer.json", json.dumps(tokenizer | {"model": model}))
    assert str(folder) in refused(load_tokenizer, folder)


@pytest.mark.parametrize("device", ["meta", "cuda:77", "abacus", "", "cpu:x", "xla"])
def test_devices_that_keep_no_numbers_are_refused_before_weights_are_read(tmp_path, device):
    with pytest.raises(InputError, match=r"^device: expected one .*; try cpu or cuda$"):
        load_model(str(tmp_path / "nowhere"), device=device)
