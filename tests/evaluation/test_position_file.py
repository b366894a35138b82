"""Positions in a file: collected text by text, resumable, guarded by their settings, read by other commands."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DRAFT, TARGET, kept_at, law_after
from typer.testing import CliRunner

import decoding
from decoding.cli import app
from decoding.evaluation.positions import collect as collecting
from decoding.evaluation.positions import file
from decoding.evaluation.positions.file import Collection, collect_logits, read_logits, stored_logits
from decoding.evaluation.rule_map.options import MapOptions
from decoding.huggingface.pair import Pair
from decoding.sampling.parameters import Sampling
from solvers.errors import InputError

PAIR = Pair(target=TARGET, draft=DRAFT, tokenizer=None, name="tiny")
PROMPTS = [torch.tensor([[1, 3]]), torch.tensor([[2]]), torch.tensor([[4, 2, 1]])]
SETTINGS = Collection(
    pair="tiny",
    target=None,
    draft=None,
    prompts=("a", "b", "c"),
    positions=23,
    new_tokens=5,
    seed=0,
    dtype="float32",
    device="cpu",
)


def collect(path, settings=SETTINGS, **more):
    return collect_logits(PAIR, PROMPTS, settings, path, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "positions.npz"
    return path, collect(path)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("draft_logits", "target_logits", "prompt")
    )


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_positions_are_those_that_knobs_are_set_on_in_batches_of_any_size(whole, batch_size):
    _, found = whole
    laws = collecting.collect_positions(PAIR, PROMPTS, new_tokens=5, limit=23, seed=0, batch_size=batch_size)
    assert found.draft_logits.shape == found.target_logits.shape == (23, 5)
    assert found.draft_logits.dtype == np.float32
    for logits, law in ((found.draft_logits, laws.draft), (found.target_logits, laws.target)):
        assert torch.equal(torch.from_numpy(logits).softmax(-1), law)
    # texts of five tokens from three prompts in turn, the last one cut
    assert found.prompt.tolist() == laws.prompt.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [0] * 5 + [1] * 3


def test_a_prompt_that_is_met_again_gets_a_fresh_text(whole):
    _, found = whole
    first, again = (found.target_logits[start : start + 5] for start in (0, 15))
    assert np.allclose(first[0], again[0])
    assert not np.allclose(first, again)


def test_texts_are_drawn_as_the_laws_are(tmp_path):
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=3)
    found = collect(tmp_path / "positions.npz", replace(SETTINGS, sampling=sampling))
    assert read_logits(tmp_path / "positions.npz").sampling == sampling
    options = MapOptions.checked((0.1,), "mars", sampling, greedy_draft=False, seed=0)
    positions, settings = options.positions("tiny", found)
    assert settings.texts == str(settings.sampling) == "temperature 0.7, top-p 0.8, top-k 3"
    assert positions.draft_logits is found.draft_logits
    place = 0
    for number in range(5):
        prompt = PROMPTS[number % 3]
        text = decoding.generate(
            prompt,
            target=TARGET,
            draft=DRAFT,
            generator=collecting.seed_for(0, 1, number),
            max_new_tokens=5,
            do_sample=True,
            **vars(sampling),
        ).sequences
        for length in range(prompt.shape[1], text.shape[1])[: 23 - place]:
            for model, law in ((DRAFT, positions.draft), (TARGET, positions.target)):
                expected = law_after(model, text[:, :length], kept_at(sampling))[0]
                assert law[place] == pytest.approx(expected.numpy(), abs=1e-6)
            place += 1
    assert place == 23


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        (None, None),
        ({"seed": 0}, Sampling()),  # made when nothing else could be asked for
        ({"seed": 0, "temperature": 0.7, "top_k": 3}, Sampling(temperature=0.7, top_k=3)),
        ({"temperature": 0.7}, None),
        ({"seed": 0, "temperature": "hot"}, None),
        ({"seed": 0, "top_p": 7}, None),
    ],
)
def test_a_file_tells_how_its_texts_were_drawn_or_does_not(whole, settings, sampling):
    assert replace(whole[1], settings=settings).sampling == sampling


def test_the_file_reads_back_and_leaves_nothing_beside_it(whole):
    path, found = whole
    again = read_logits(path)
    assert same(again, found)
    assert again.settings == found.settings == SETTINGS.to_dict()
    assert (again.digest, len(again)) == (found.digest, 23)
    assert [each.name for each in path.parent.iterdir()] == ["positions.npz"]


def test_the_front_command_reads_the_same_file(whole):
    path, _ = whole
    result = CliRunner().invoke(app, ["front", str(path), "--rejection=0.05", "--divergence=kl"])
    assert result.exit_code == 0, result.output
    assert "23 positions, one mean budget" in result.stdout


@pytest.mark.parametrize("torn", ["empty", "half", "other"])
def test_an_interrupted_collection_goes_on_behind_the_last_whole_text(whole, tmp_path, monkeypatch, torn):
    path = tmp_path / "out" / "positions.npz"
    texts = []

    def interrupt(size):
        texts.append(size)
        if len(texts) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(path, progress=interrupt)
    assert not path.exists()
    parts = sorted(path.with_suffix(".parts").glob("*.npz"))
    assert len(parts) == 3
    stored = parts[-1].read_bytes()
    parts[-1].write_bytes({"empty": b"", "half": stored[: len(stored) // 2], "other": b"no archive at all"}[torn])
    made, sizes = [], []
    original = collecting.generate_plainly
    monkeypatch.setattr(collecting, "generate_plainly", lambda *a, **k: made.append(1) or original(*a, **k))
    assert same(collect(path, progress=sizes.append), whole[1])
    assert len(made) == 3  # of five texts two were there
    assert sizes == [5, 5, 5, 5, 3]
    assert [each.name for each in path.parent.iterdir()] == ["positions.npz"]


@pytest.mark.parametrize("written", [None, b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_parts_that_do_not_tell_their_settings_are_refused(tmp_path, written):
    path = tmp_path / "positions.npz"
    with pytest.raises(ZeroDivisionError):
        collect(path, progress=lambda size: 1 // 0)
    settings = path.with_suffix(".parts") / "settings.json"
    settings.unlink() if written is None else settings.write_bytes(written)
    for refused in (stored_logits, lambda path, settings: collect(path, settings)):
        with pytest.raises(InputError, match=r"positions.parts: expected positions of these settings.*or delete it"):
            refused(path, SETTINGS)


def test_a_merge_that_was_interrupted_is_cleared_away(whole, tmp_path, monkeypatch):
    path = tmp_path / "positions.npz"
    with monkeypatch.context() as patch:
        patch.setattr(file.shutil, "rmtree", lambda *_, **__: None)
        collect(path)
    assert path.with_suffix(".parts").exists()
    assert same(stored_logits(path, SETTINGS), whole[1])
    assert not path.with_suffix(".parts").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"prompts": ("a", "b", "other")},
        {"new_tokens": 4},
        {"positions": 22},
        {"dtype": "bfloat16"},
        {"sampling": Sampling(temperature=0.7)},
        {"sampling": Sampling(top_p=0.9)},
        {"target": "one/model", "draft": "another/model"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_are_refused_whether_the_file_or_its_parts_are_there(whole, tmp_path, change):
    path, _ = whole
    other = replace(SETTINGS, **change)
    with pytest.raises(InputError, match=r"expected positions of these settings.*choose another --out"):
        stored_logits(path, other)
    assert stored_logits(path, SETTINGS) is not None
    unfinished = tmp_path / "positions.npz"
    with pytest.raises(ZeroDivisionError):
        collect(unfinished, progress=lambda size: 1 // 0)
    assert stored_logits(unfinished, SETTINGS) is None
    for refused in (stored_logits, lambda path, settings: collect(path, settings)):
        with pytest.raises(InputError, match=r"positions.parts: expected positions of these settings"):
            refused(unfinished, other)


def test_texts_that_end_early_are_as_short_as_they_are(tmp_path, monkeypatch):
    original = collecting.written_tokens
    monkeypatch.setattr(collecting, "written_tokens", lambda *arguments: original(*arguments)[:-2])
    found = collect(tmp_path / "positions.npz")
    assert np.bincount(found.prompt).tolist() == [9, 8, 6]


def test_the_digest_is_of_every_number_and_owner(whole):
    _, found = whole
    moved = found.draft_logits.copy()
    moved[7, 3] += 1e-6
    others = [replace(found, draft_logits=moved), replace(found, prompt=found.prompt[::-1]), found.first(22)]
    assert len({found.digest, *(other.digest for other in others)}) == 4


def test_the_first_positions_are_a_file_of_their_own(whole):
    _, found = whole
    few = found.first(7)
    assert (len(few), few.prompt.tolist()) == (7, [0] * 5 + [1] * 2)
    for count in (0, 24):
        with pytest.raises(InputError, match=f"count: expected 1 to 23, the positions of this file; got {count}"):
            found.first(count)


LOGITS = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)


def test_any_file_of_logits_will_do_whatever_its_shape_and_owners(tmp_path):
    path = tmp_path / "any.npz"
    np.savez(path, draft_logits=LOGITS[0].reshape(2, 3, 4), target_logits=LOGITS[1].reshape(2, 3, 4), settings=3)
    found = read_logits(path)
    assert np.array_equal(found.target_logits, LOGITS[1])
    assert found.prompt.tolist() == list(range(6))
    assert found.settings is None
    np.savez(path, draft_logits=LOGITS[0], target_logits=LOGITS[1], prompt=np.array([9, 9, 4, 4, 4, 7]))
    assert read_logits(path).prompt.tolist() == [2, 2, 0, 0, 0, 1]


def masked(value):
    logits = LOGITS[0].copy()
    logits[2] = value
    return logits


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"draft": LOGITS[0], "target": LOGITS[1]},
            "expected arrays draft_logits and target_logits, .*got draft, target",
        ),
        ({"draft_logits": LOGITS[0]}, "expected arrays draft_logits and target_logits, .*got draft_logits"),
        ({"draft_logits": LOGITS[0], "target_logits": LOGITS[1][:5]}, r"equal shapes .*\(6, 4\) and \(5, 4\)"),
        ({"draft_logits": LOGITS[0][:0], "target_logits": LOGITS[1][:0]}, "expected logits of equal shapes"),
        ({"draft_logits": np.float32(1), "target_logits": np.float32(1)}, "expected logits of equal shapes"),
        ({"draft_logits": masked(np.nan), "target_logits": LOGITS[1]}, "draft_logits: expected finite logits"),
        ({"draft_logits": LOGITS[1], "target_logits": masked(-np.inf)}, "target_logits: expected at least one token"),
        ({"draft_logits": LOGITS[0] > 0, "target_logits": LOGITS[1]}, "draft_logits: expected real numbers; got bool"),
        (
            {"draft_logits": LOGITS[0], "target_logits": LOGITS[1], "prompt": np.arange(5)},
            "prompt to be 6 whole numbers",
        ),
        ({"draft_logits": LOGITS[0], "target_logits": LOGITS[1], "prompt": np.ones(6)}, "expected prompt to be 6"),
    ],
)
def test_files_of_anything_else_are_one_line_errors(tmp_path, arrays, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_logits(path)
    assert "\n" not in str(caught.value)
    result = CliRunner().invoke(app, ["map", f"--positions={path}", f"--out={tmp_path / 'out'}"])
    assert result.exit_code == 2
    assert re.search(message, result.output.replace("\n", " "))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stored", [None, b"", b"PK no archive", "half"])
def test_files_that_cannot_be_read_are_one_line_errors(whole, tmp_path, stored):
    path = tmp_path / "positions.npz"
    if stored is not None:
        good = whole[0].read_bytes()
        path.write_bytes(good[: len(good) // 2] if stored == "half" else stored)
    with pytest.raises(InputError, match="no such file" if stored is None else "npz"):
        read_logits(path)


@pytest.mark.parametrize(("change", "message"), [({"positions": 0}, "count"), ({"new_tokens": 0}, "max_new_tokens")])
def test_a_collection_of_nothing_is_refused_by_its_options_name(change, message):
    with pytest.raises(InputError, match=f"{message}: expected at least 1; got 0"):
        replace(SETTINGS, **change)


def test_a_folder_that_cannot_be_made_is_a_one_line_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        collect(tmp_path / "file" / "positions.npz")
