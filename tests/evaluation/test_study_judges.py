"""A study before models as judges: a reward model, and a chat model behind a server that fails half of the time."""

import json
import threading
from collections import Counter

import pytest
import torch
import yaml
from chat_server import Answer, Proxy, refusal, serving
from study_files import SMALL, evaluate, rows, written
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from decoding import embedded
from decoding.evaluation.judges import Question, RewardModel
from decoding.evaluation.study.configuration import CONFIGS

for package in ("openai", "fastapi", "uvicorn", "accelerate"):
    pytest.importorskip(package)

pytestmark = pytest.mark.xdist_group("chat server")

PAIRS = 2 * 2  # levels, and rules compared with decoding_opt
STUDY = SMALL.replace("examples: 2", "examples: 0").replace("{limit: 5}", "{limit: 4}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("chat")) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key nobody may see")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def chat(model, url, **more):
    settings = {"kind": "chat", "name": "chatty", "model": model, "base_url": url, "max_retries": 0} | more
    return STUDY + f"judges: [{json.dumps(settings)}]\n"


class HalfFails:
    """Refuses every question the first time it is asked."""

    def __init__(self):
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __call__(self, number, question):
        with self.lock:
            self.seen[question] += 1
            return refusal(500, "try again") if self.seen[question] == 1 else None


def test_a_judge_that_fails_half_of_its_calls_loses_nothing(server, tmp_path):
    url = f"http://127.0.0.1:{server.port}/v1"
    # base_url stands in the judge's identity, so the two runs are judges of two folders
    direct = evaluate(written(tmp_path / "a.yaml", chat(server.first, url)), f"--out={tmp_path / 'a'}")
    assert direct.exit_code == 0, direct.output
    with Proxy(server.port, HalfFails()) as proxy:
        flaky = written(tmp_path / "b.yaml", chat(server.first, proxy.url, max_retries=3))
        failing = evaluate(flaky, f"--out={tmp_path / 'b'}")
        assert failing.exit_code == 0, failing.output
        assert len(proxy.times) == 2 * 2 * PAIRS * 4 * 2  # each of two orders twice
    found = [rows(tmp_path / name / "judgements" / "chatty.jsonl") for name in "ab"]
    assert len(found[0]) == PAIRS * 4 * 2
    for left, right in zip(*found, strict=True):
        for differs in ("judge_settings", "crc32"):  # the checksum covers the settings
            assert left.pop(differs) != right.pop(differs)
        assert left == right
        # this model always answers A: asked in both orders it has no preference
        assert left["score"] == 0.5
    judge = [row for row in rows(tmp_path / "a" / "results.jsonl") if row["kind"] == "judge"][0]
    assert (judge["judgements"], judge["unreadable"], judge["missing"]) == (PAIRS * 4 * 2, 0, 0)
    assert judge["details"]["calls"] == 2 * PAIRS * 4 * 2
    for comparison in (row for row in rows(tmp_path / "a" / "results.jsonl") if row["kind"] == "comparison"):
        assert comparison["found"]["majority"]["value"] == 0.5
        assert comparison["found"]["tied"] == comparison["found"]["prompts"] == 4


def test_what_stays_without_an_answer_is_asked_again_and_nothing_else(server, tmp_path):
    refused: list[str] = []

    def fault(number, question):
        # the first three questions that come by are refused for good
        if question in refused or len(refused) < 3:
            refused.append(question)
            return refusal(503, "busy")
        return None

    def healed(number, question):
        return None

    with Proxy(server.port, fault) as proxy:
        configuration = written(tmp_path / "c.yaml", chat(server.first, proxy.url, prices=[1, 2], comparisons=1))
        first = evaluate(configuration, f"--out={tmp_path / 'out'}")
        assert first.exit_code == 0, first.output
        total = PAIRS * 4
        assert f"judge chatty: {2 * total} calls" in first.output
        assert "USD" in first.output
        file = tmp_path / "out" / "judgements" / "chatty.jsonl"
        kept = rows(file)
        missing = total - len(kept)
        assert 1 <= missing <= 3
        assert f"judge chatty: {missing} questions have no answer; the same command asks them again" in first.output
        proxy.fault, before = healed, len(proxy.times)
        again = evaluate(configuration, f"--out={tmp_path / 'out'}")
        assert again.exit_code == 0, again.output
        assert len(proxy.times) - before == 2 * missing
        whole = rows(file)
        assert len(whole) == total
        assert [row for row in whole if row in kept] == kept
        third = evaluate(configuration, f"--out={tmp_path / 'out'}")
        assert third.exit_code == 0
        assert len(proxy.times) - before == 2 * missing


def test_texts_are_put_before_the_judge_in_the_order_of_the_row(server, tmp_path):
    with Proxy(server.port, lambda number, question: None) as proxy:
        configuration = written(tmp_path / "c.yaml", chat(server.garbage, proxy.url, comparisons=1))
        assert evaluate(configuration, f"--out={tmp_path / 'out'}").exit_code == 0
        asked = [body["messages"][0]["content"] for _, body in proxy.requests]
    texts = {(row["cell"], row["prompt"], row["sample"]): row["text"] for row in rows(tmp_path / "out" / "texts.jsonl")}
    judged = rows(tmp_path / "out" / "judgements" / "chatty.jsonl")
    assert len(judged) == PAIRS * 4
    for row in judged:
        assert row["score"] is None  # nothing can be read from "perhaps"
        assert row["sample"] == 0
        first, second = (texts[row[name], row["prompt"], 0] for name in ("cell", "against"))
        places = [(question.find(first), question.find(second)) for question in asked]
        places = [pair for pair in places if min(pair) >= 0]
        assert len(places) == 2
        assert {left < right for left, right in places} == {True, False}
    judge = [row for row in rows(tmp_path / "out" / "results.jsonl") if row["kind"] == "judge"][0]
    assert judge["unreadable"] == PAIRS * 4
    assert all(row["found"] is None for row in rows(tmp_path / "out" / "results.jsonl") if row["kind"] == "comparison")


def test_a_judge_that_may_not_be_asked_is_one_line_and_the_texts_are_kept(server, tmp_path):
    def denied(number, question):
        return Answer(401, {"error": {"message": "who are you?"}})

    with Proxy(server.port, denied) as proxy:
        configuration = written(tmp_path / "c.yaml", chat(server.first, proxy.url))
        result = evaluate(configuration, f"--out={tmp_path / 'out'}")
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert "who are you?" in line
    assert "a key nobody" not in result.output
    assert (tmp_path / "out" / "texts.jsonl").exists()


def save_reward_model(folder):
    """The embedded target with a head that is random, but of this seed."""
    torch.manual_seed(5)
    config = AutoConfig.from_pretrained(embedded.TARGET, num_labels=1)
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(AutoModel.from_pretrained(embedded.TARGET).state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded.TARGET).save_pretrained(folder)


def test_a_reward_model_scores_every_text_whatever_its_neighbours(tmp_path):
    folder = tmp_path / "reward"
    save_reward_model(folder)
    settings = {"kind": "reward_model", "model": str(folder), "template": "{text}", "batch_size": 5}
    configuration = written(tmp_path / "r.yaml", STUDY + f"judges: [{json.dumps(settings)}]\n")
    result = evaluate(configuration, f"--out={tmp_path / 'out'}")
    assert result.exit_code == 0, result.output
    model = RewardModel(str(folder), template="{text}")
    texts = {(row["cell"], row["prompt"], row["sample"]): row for row in rows(tmp_path / "out" / "texts.jsonl")}
    judged = rows(tmp_path / "out" / "judgements" / "reward.jsonl")
    assert len(judged) == len(texts)
    for row in judged[::9]:
        text = texts[row["cell"], row["prompt"], row["sample"]]
        (alone,) = model.judge([Question(prompt="", texts=(text,))])
        assert alone is not None
        assert row["score"] == pytest.approx(alone.score, abs=1e-5)
    assert len({row["score"] for row in judged}) > len(judged) / 2


def test_the_paper_s_table_runs_from_beginning_to_end_on_small_models(server, tmp_path):
    save_reward_model(tmp_path / "reward")
    table = yaml.safe_load((CONFIGS / "table1.yaml").read_text())
    table["pair"] = {"device": "cpu"}
    table["prompts"] = {"source": "embedded", "limit": 3}
    table["texts"] |= {"samples": 2, "max_new_tokens": 8, "batch_size": 3}
    table["calibration"]["positions"] = 60
    table["examples"] = 1
    likelihood, divergence, reward, asked = table["judges"]
    reward |= {"model": str(tmp_path / "reward"), "name": "RM-Mistral-7B", "dtype": "float32"}
    asked |= {"model": server.truthful, "name": "gpt-4", "base_url": f"http://127.0.0.1:{server.port}/v1"}
    configuration = written(tmp_path / "table1.yaml", yaml.safe_dump(table))
    result = evaluate(configuration, "--force", f"--out={tmp_path / 'out'}")
    assert result.exit_code == 0, result.output
    found = rows(tmp_path / "out" / "results.jsonl")
    compared = [row for row in found if row["kind"] == "comparison"]
    assert len(compared) == 4 * 4 * 2  # judges, values of epsilon, readings of UNO
    published = [row for row in compared if row["published"] is not None]
    rates = {(row["judge"], row["level"]): row["published"]["win_rate"] for row in published}
    assert len(published) == 2 * len(rates) == 16
    assert [rates["RM-Mistral-7B", f"epsilon {value}"] for value in (0.1, 0.2, 0.4, 0.8)] == [0.53, 0.535, 0.575, 0.525]
    assert [rates["gpt-4", f"epsilon {value}"] for value in (0.1, 0.2, 0.4, 0.8)] == [0.545, 0.53, 0.535, 0.55]
    # the paper's cells, at their own number of prompts
    assert all(row["published"]["adjusted_p"] > 0.05 for row in published)
    assert "Of 8 published win rates, 8 are within noise" in (tmp_path / "out" / "report.md").read_text()
    assert all(row["found"] is not None for row in compared)
