"""The training script on a text made up here: it resumes where it was stopped and ends with the same weights."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.training import pair as train
from benchmarks.training.stories import read_stories
from solvers.errors import InputError

RECIPES = [
    train.Recipe(name, layers=1, hidden=16, heads=2, dropout=0.1, rate=1e-3, steps=5) for name in ("target", "draft")
]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Stories of made-up words, enough of them for a vocabulary of 2048 pieces."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), size=rng.integers(2, 9))) for _ in range(3000)]
    stories = [" ".join(rng.choice(words, size=60)) for _ in range(220)]
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("".join(f"{story}\n{train.SEPARATOR}\n" for story in stories))
    return path


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    monkeypatch.setattr(train, "EVALUATE_EVERY", 2)
    monkeypatch.setattr(train, "WARM_UP", 2)


def weights(out: Path) -> dict[str, np.ndarray]:
    return load_file(out / "target" / "model.safetensors")


def test_a_stopped_training_goes_on_and_ends_with_the_same_weights(text, tmp_path, monkeypatch):
    metrics = train.train_pair(text, tmp_path / "whole", tmp_path / "work", 0, RECIPES, "cpu")
    original, steps = train.Training.step, 0

    def stopped_once(self):
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(train.Training, "step", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        train.train_pair(text, tmp_path / "parts", tmp_path / "again", 0, RECIPES, "cpu")
    train.train_pair(text, tmp_path / "parts", tmp_path / "again", 0, RECIPES, "cpu")
    assert steps == 4 + (5 - 2) + 5  # the target went on from the checkpoint of step 2
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert metrics == json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["target"]["held_out_loss"] < np.log(train.VOCABULARY) + 0.1
    assert 0 <= metrics["tv_along_target_samples"]["mean"] < 0.2  # two models that have learnt nothing yet

    other = [dataclasses.replace(recipe, steps=6) for recipe in RECIPES]
    with pytest.raises(InputError, match="other settings"):
        train.train_pair(text, tmp_path / "parts", tmp_path / "again", 0, other, "cpu")


def test_a_text_without_stories_is_a_clear_error(tmp_path):
    (tmp_path / "short.txt").write_text("one story\n<|endoftext|>\n")
    with pytest.raises(InputError, match="at least 200 are needed"):
        read_stories(tmp_path / "short.txt")
    with pytest.raises(InputError, match="cannot read the training text"):
        read_stories(tmp_path / "nowhere.txt")
