"""Training of the reward model, on a text made up here and models whose laws are known."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import load_file
from scipy.stats import beta, chisquare
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from benchmarks.training import judge as train_judge
from benchmarks.training import pair as train
from benchmarks.training.judge import JudgeRecipe, JudgeTraining, Story
from benchmarks.training.stories import read_stories
from decoding.embedded import TARGET
from decoding.evaluation.judges import Question, RewardModel
from decoding.huggingface import load_model, load_tokenizer
from solvers.errors import InputError

REAL = ["cat", "dog", "sun", "tree", "big", "red", "was", "ran", "and", "saw", "the", "a", "his", "her", "box", "ball"]
LAW = {" mom": 0.6, " park": 0.3, " bird": 0.1}
STORIES = 220


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(str(TARGET))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    stories = [" ".join(rng.choice(REAL, size=90)) for _ in range(STORIES)]
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("".join(f"{story}\n{train.SEPARATOR}\n" for story in stories))
    return path


@pytest.fixture(scope="module")
def stories(text, tokenizer) -> list[Story]:
    return train_judge.openings(read_stories(text)[0], tokenizer)


def small_model() -> Any:
    torch.manual_seed(1)
    return train.build(train.Recipe("small", layers=1, hidden=16, heads=2, dropout=0.1, rate=0.0, steps=0))


@torch.no_grad()
def save_writer(folder: Path, tokenizer: Any, law: dict[str, float]) -> Path:
    """A model that writes one of a few pieces, by this law whatever stands before."""
    model = small_model()
    model.gpt_neox.final_layer_norm.weight.zero_()
    model.gpt_neox.final_layer_norm.bias.fill_(1.0)
    embedding = model.gpt_neox.embed_in.weight
    embedding.fill_(-1e3)
    for piece, probability in law.items():
        (token,) = tokenizer(piece, add_special_tokens=False).input_ids
        embedding[token] = np.log(probability) / embedding.shape[1]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, tokenizer) -> JudgeRecipe:
    folder = tmp_path_factory.mktemp("models")
    small_model().save_pretrained(folder / "target")
    tokenizer.save_pretrained(folder / "target")
    draft = save_writer(folder / "draft", tokenizer, LAW)
    return JudgeRecipe(steps=4, pairs=8, rate=2e-2, target=folder / "target", draft=draft)


@pytest.fixture(autouse=True, scope="module")
def _often():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_judge, "SAVE_EVERY", 2)
        patch.setattr(train_judge, "WARM_UP", 2)
        yield


@pytest.fixture(scope="module")
def trained(text, recipe, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trained") / "judge"
    return folder, train_judge.train_judge(text, folder, dataclasses.replace(recipe, steps=14), "cpu")


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_loss_falls_and_real_texts_win_where_they_share_no_word_with_written_ones(trained):
    folder, metrics = trained
    assert metrics["training_loss"]["first"] == pytest.approx(np.log(2), abs=0.1)  # nothing is learnt yet
    assert metrics["training_loss"]["last"] < 0.05
    held_out = STORIES // 10
    assert metrics["text"] == {
        "name": "stories.txt",
        "training_stories": STORIES - held_out,
        "held_out_stories": held_out,
    }
    assert metrics["held_out"].keys() == {"real_over_draft", "real_over_target", "target_over_draft"}
    over_draft = metrics["held_out"]["real_over_draft"]
    assert over_draft["won"] == over_draft["comparisons"] > held_out / 2
    assert metrics == json.loads((folder / "judge_metrics.json").read_text())
    assert not (folder / "checkpoint.pt").exists()


def test_the_saved_folder_loads_and_padding_does_not_change_scores(trained, stories, tokenizer):
    folder, _ = trained
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.num_labels == 1
    mixed = tokenizer(" cat mom sun park tree mom park bird").input_ids
    texts = [stories[0].tokens[:70], mixed[:5], mixed, stories[1].tokens[:20]]
    with torch.no_grad():
        together = train_judge.rewards(model, texts, 1)[:, 0].tolist()
        alone = [
            (model.gpt_neox(input_ids=torch.tensor([text])).last_hidden_state[0, -1] @ model.score.weight[0]).item()
            for text in texts
        ]
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.ptp(alone) > 0.1
    words = [tokenizer.decode(text, skip_special_tokens=True) for text in texts]
    answers = RewardModel(str(folder), batch_size=3).judge([Question(prompt="", texts=({"text": w},)) for w in words])
    assert [answer.score for answer in answers] == pytest.approx(alone, abs=1e-5)


def test_the_same_seed_gives_the_same_weights_also_after_a_stop_and_another_seed_others(
    text, recipe, tmp_path, monkeypatch
):
    metrics = train_judge.train_judge(text, tmp_path / "whole", recipe, "cpu")
    train_judge.train_judge(text, tmp_path / "other", dataclasses.replace(recipe, seed=1), "cpu")
    original, taken = JudgeTraining.step, 0

    def stopped_once(self):
        nonlocal taken
        taken += 1
        if taken == 4:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(JudgeTraining, "step", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        train_judge.train_judge(text, tmp_path / "parts", recipe, "cpu")
    parts = train_judge.train_judge(text, tmp_path / "parts", recipe, "cpu")
    assert taken == 4 + (4 - 2)  # it went on from the checkpoint of step 2
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert not same(tmp_path / "whole", tmp_path / "other")
    assert parts["held_out"] == metrics["held_out"]
    assert parts["training_loss"] == metrics["training_loss"]

    assert train_judge.train_judge(text, tmp_path / "parts", recipe, "cpu") == parts
    assert taken == 6  # a finished training is read, not repeated
    with pytest.raises(InputError, match="out: expected a new folder or one with the same settings"):
        train_judge.train_judge(text, tmp_path / "parts", dataclasses.replace(recipe, steps=7), "cpu")


def test_an_epoch_shows_every_story_once_and_the_next_in_another_order_with_other_texts(
    stories, recipe, tmp_path, tokenizer, monkeypatch
):
    seeds = []

    def copy(_model, _tokenizer, some):
        seeds.append(torch.initial_seed())
        return [story.tokens for story in some]

    monkeypatch.setattr(train_judge, "write", copy)
    training = JudgeTraining(recipe, stories, tokenizer, tmp_path, "cpu")
    steps = len(stories) // recipe.pairs
    orders = [
        [tuple(real[:24]) for step in range(first, first + steps) for real, _ in training.batch(step)]
        for first in (0, steps)
    ]
    assert all(len(set(order)) == len(order) == steps * recipe.pairs for order in orders)
    assert orders[0] != orders[1]
    assert len(set(seeds)) == len(seeds) == 2 * steps


def test_openings_are_the_first_ten_words_of_stories_that_are_long_enough(tokenizer):
    begins = "One day, a big\ncat saw the red ball and"
    rest = " ran" * (train_judge.LONGEST + 1)
    endless = "x" * 3000 + " a b c d e f g h i" + rest
    kept, *others = train_judge.openings([begins + rest, begins + rest[:-4], "too short", endless], tokenizer)
    assert not others
    assert kept.opening == begins
    assert kept.tokens[: kept.start] == tokenizer(begins).input_ids
    assert tokenizer.decode(kept.tokens[kept.start :]) == rest


def test_texts_of_a_story_are_cut_to_its_length_and_left_out_where_one_ends_by_then(stories):
    lengths = np.array([24, 60, 39, 40, 41])
    some = stories[: len(lengths)]
    ended = [[*story.tokens[: story.start], *[7] * 40] for story in some]
    rows = train_judge.matched_texts(some, [[story.tokens for story in some], ended], lengths)
    expected = []
    for place in (0, 2):  # at 40 the text of 40 tokens ends with the cut: that it ends would tell
        real = some[place].tokens[: some[place].start + lengths[place]]
        expected.append([real, real, [*real[: some[place].start], *[7] * lengths[place]]])
    assert rows == expected


def test_the_reward_of_every_length_is_that_of_the_text_cut_there(recipe, stories):
    model = AutoModelForSequenceClassification.from_pretrained(recipe.target, num_labels=1).eval()
    texts = [story.tokens[:length] for story, length in zip(stories, (70, 55), strict=False)]
    with torch.no_grad():
        found = train_judge.rewards(model, texts, 3).numpy()
        cut = [[model(torch.tensor([text[: len(text) - i]])).logits.item() for i in range(3)] for text in texts]
    assert found == pytest.approx(np.array(cut), abs=1e-5)
    assert np.ptp(found, axis=1).min() > 1e-3


def test_a_step_takes_the_bradley_terry_loss_over_all_lengths_from_24_to_60(stories, recipe, tokenizer, tmp_path):
    training = JudgeTraining(recipe, stories, tokenizer, tmp_path, "cpu")
    training.model.config.hidden_dropout = 0.0
    for module in training.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        training.model.score.weight.mul_(20)
        losses = []
        for real, written in training.batch(0):
            start = len(real) - 60
            for length in range(24, 61):
                first, second = (
                    training.model(torch.tensor([text[: start + length]])).logits.item() for text in (real, written)
                )
                losses.append(np.log1p(np.exp(second - first)))
    assert training.step() == pytest.approx(np.mean(losses), rel=1e-4)
    assert training.model.training  # the target's dropout is part of it
    assert training.state["losses"] == pytest.approx([np.mean(losses)], rel=1e-4)


def test_a_writer_is_sampled_from_its_own_law(stories, recipe, tokenizer):
    torch.manual_seed(0)
    rows = train_judge.write(load_model(str(recipe.draft)), tokenizer, stories[:40])
    behind = [row[story.start :] for row, story in zip(rows, stories, strict=False)]
    assert {len(row) for row in behind} == {train_judge.LONGEST + train_judge.SLACK}
    assert all(row[: story.start] == story.tokens[: story.start] for row, story in zip(rows, stories, strict=False))
    pieces = [tokenizer.decode(token) for row in behind for token in row]
    counts = np.array([pieces.count(piece) for piece in LAW])
    assert counts.sum() == len(pieces)
    assert chisquare(counts, len(pieces) * np.array(list(LAW.values()))).pvalue > 1e-6  # false alarm 1e-6


@torch.no_grad()
def test_what_is_written_does_not_depend_on_the_batch_and_is_read_back_from_its_text(stories, tokenizer):
    model = small_model().eval()
    torch.manual_seed(0)
    sampled = train_judge.write(model, tokenizer, stories[:4])
    for row in sampled:  # near a uniform law over pieces, few samples are how their text is read
        assert row == tokenizer(tokenizer.decode(row, skip_special_tokens=True)).input_ids
    model.gpt_neox.final_layer_norm.weight.mul_(1e6)  # as good as greedy
    ragged = [dataclasses.replace(stories[0], opening=opening) for opening in ("cat", "the big red dog ran and saw")]
    together = train_judge.write(model, tokenizer, ragged)
    assert together == [row for story in ragged for row in train_judge.write(model, tokenizer, [story])]


def test_a_writer_that_ends_at_once_is_a_clear_error(text, recipe, tokenizer, tmp_path):
    ending = save_writer(tmp_path / "ending", tokenizer, {train.SEPARATOR: 1.0})
    with pytest.raises(InputError, match="models: expected texts that go on for 60 tokens; got none of 8 stories"):
        train_judge.train_judge(text, tmp_path / "out", dataclasses.replace(recipe, draft=ending), "cpu")


@pytest.mark.parametrize(("won", "of"), [(13, 20), (20, 20), (0, 7)])
def test_the_interval_of_a_win_rate_is_clopper_and_pearsons(won, of):
    found = train_judge.win(np.arange(of) < won)
    low = beta.ppf(0.025, won, of - won + 1) if won else 0.0
    high = beta.ppf(0.975, won + 1, of - won) if won < of else 1.0
    assert [found["value"], found["low"], found["high"]] == pytest.approx([won / of, low, high])
    assert (found["won"], found["comparisons"]) == (won, of)


def test_what_cannot_be_used_is_a_clear_error_in_one_line(text, recipe, tmp_path, tokenizer):
    taken, short = tmp_path / "taken", tmp_path / "short.txt"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    short.write_text(f"too short\n{train.SEPARATOR}\n" * STORIES)
    cases = {
        "cannot read the training text": (tmp_path / "nowhere.txt", tmp_path / "out", recipe),
        "out: expected a new or empty folder": (text, taken, recipe),
        "out.txt: cannot be made": (text, short / "out.txt", recipe),
        "text: expected at least 8 stories .* got 0 and 0": (short, tmp_path / "brief", recipe),
        "model: expected a folder with safetensors weights": (
            text,
            tmp_path / "out",
            dataclasses.replace(recipe, target=tmp_path),
        ),
    }
    for message, (file, out, settings) in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            train_judge.train_judge(file, out, settings, "cpu")
        assert "\n" not in str(caught.value)
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]


def test_the_command_ends_with_two_and_the_error_in_words(tmp_path, capsys):
    before = logging.get_verbosity()
    try:
        with pytest.raises(typer.Exit) as stopped:
            train_judge.main(text=tmp_path / "nowhere.txt", out=tmp_path / "out")
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
    assert stopped.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: cannot read the training text")
    assert not (tmp_path / "out").exists()
