"""The shipped pair is what its card says, and the wheel carries it."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import assert_at_most

import decoding
from decoding import embedded
from decoding.evaluation.positions.collect import collect_positions
from decoding.evaluation.prompts import read_prompts
from tradeoff.rules.registry import families

ROOT = Path(__file__).parents[2]
METRICS = json.loads((Path(embedded.__file__).parent / "metrics.json").read_text())


@pytest.fixture(scope="module")
def pair():
    return decoding.load_pair()


@pytest.fixture(scope="module")
def positions(pair):
    prompts = [pair.tokenizer(text, return_tensors="pt").input_ids for text in read_prompts(embedded.PROMPTS)[:8]]
    return collect_positions(pair, prompts, new_tokens=12, limit=64, seed=7)


def test_the_pair_is_small_and_of_one_family(pair):
    files = [file for folder in (embedded.TARGET, embedded.DRAFT) for file in folder.rglob("*")]
    assert sum(file.stat().st_size for file in files) <= 12e6
    assert (embedded.TARGET / "model.safetensors").exists()
    assert type(pair.target) is type(pair.draft)
    assert 2000 <= len(pair.tokenizer) <= 4096


def test_the_draft_is_between_useful_and_perfect(pair):
    prompts = [pair.tokenizer(text, return_tensors="pt").input_ids for text in read_prompts(embedded.PROMPTS)[:16]]
    positions = collect_positions(pair, prompts, new_tokens=32, limit=400, seed=5)
    assert len(np.unique(positions.prompt)) > 8
    assert 0.15 < positions.total_variation.mean() < 0.5
    # the target explains its own text better than the draft does
    gain = (positions.target * (positions.target.log() - positions.draft.log())).sum(-1).mean()
    assert gain > 0.1


def test_the_card_reports_what_was_measured():
    card = (Path(embedded.__file__).parent / "MODEL_CARD.md").read_text()
    target, draft = METRICS["target"], METRICS["draft"]
    assert target["held_out_loss"] < draft["held_out_loss"] - 0.25
    for value in (target["held_out_loss"], draft["held_out_loss"]):
        assert f"{value:.3f}"[:-1] in card


def test_sampled_text_ends_and_reads_as_words(pair):
    ids = pair.tokenizer("Once upon a time", return_tensors="pt").input_ids
    output = decoding.generate(
        ids,
        target=pair.target,
        draft=pair.draft,
        do_sample=True,
        max_new_tokens=60,
        generator=torch.Generator().manual_seed(0),
    )
    text = pair.tokenizer.decode(output.sequences[0])
    assert sum(word.strip('.,!?"').isalpha() for word in text.split()) > 0.8 * len(text.split())


def test_the_wheel_ships_three_packages_with_the_pair_and_nothing_else(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tradeoff", "solvers", "decoding"}
    assert "decoding/embedded/target/model.safetensors" in names
    assert "decoding/embedded/draft/model.safetensors" in names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize("family", [each for each in families() if not each.info.needs], ids=lambda family: family.spec)
def test_no_rule_is_below_the_front_at_real_positions(positions, family):
    for dial in (0.25, 0.6):
        outcome = next(positions.chunks()).outcome(family.at(family.knob.value(dial)))
        for divergence in ("tv", "kl", "reverse_kl", "js"):
            assert_at_most(0.0, outcome.excess(divergence), "divergence")
        assert_at_most(0.0, outcome.gap, "mass of a large vocabulary")
