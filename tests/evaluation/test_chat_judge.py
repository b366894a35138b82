"""A chat model as a judge, asked of a real server, through real failures."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chat_server import KEY, Answer, Proxy, answered, cases, completion, free_port, judge_at, question, refusal, serving

from decoding.evaluation.judges import Judgement
from solvers.errors import InputError

for package in ("openai", "fastapi", "uvicorn", "accelerate"):
    pytest.importorskip(package)

pytestmark = pytest.mark.xdist_group("chat server")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("chat")) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_preferences_of_a_model_that_reads_the_texts_are_the_truth(server):
    questions, truth = cases()
    assert set(truth) == {0.0, 0.5, 1.0}
    found = answered(judge_at(f"http://127.0.0.1:{server.port}/v1", server.truthful).judge(questions))
    assert [each.score for each in found] == truth
    letters = {1.0: ("A", "B"), 0.0: ("B", "A"), 0.5: ("TIE", "TIE")}
    assert [(each.details["forward"], each.details["backward"]) for each in found] == [letters[true] for true in truth]
    assert found[0].details == {
        "forward": "A",
        "backward": "B",
        "reply_forward": "A",
        "reply_backward": "B",
        "calls": 2,
        "prompt_tokens": 2,  # this tokenizer makes one of a whole question
        "completion_tokens": 4,  # the word and the end, twice
        "cost": None,
        "cut_off": 0,
    }


def test_a_preference_for_the_place_is_a_tie_everywhere(server):
    questions, _ = cases()
    found = answered(judge_at(f"http://127.0.0.1:{server.port}/v1", server.first).judge(questions))
    assert [each.score for each in found] == [0.5] * len(questions)
    assert {each.details["forward"] + each.details["backward"] for each in found} == {"AA"}


def test_replies_that_are_no_verdict_are_unreadable_and_kept(server):
    questions, _ = cases()
    found = answered(judge_at(f"http://127.0.0.1:{server.port}/v1", server.garbage).judge(questions[:3]))
    assert [each.score for each in found] == [None] * 3
    assert all(each.details["forward"] is each.details["backward"] is None for each in found)
    assert all(each.details["reply_forward"].startswith("perhaps") for each in found)


@pytest.mark.parametrize(
    "fault",
    [
        Answer(500, {"error": {"message": "overloaded"}}),
        Answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "1"}),
        Answer(None),
    ],
    ids=["500", "429", "dropped"],
)
def test_failures_of_every_second_request_change_nothing(server, fault):
    questions, truth = cases()
    with Proxy(server.port, lambda number, _: fault if number % 2 == 0 else None) as proxy:
        found = answered(judge_at(proxy.url, server.truthful, max_retries=12, concurrency=6).judge(questions[:4]))
    assert len(proxy.times) >= 8 + 7  # half of all requests failed
    assert found == judge_at(f"http://127.0.0.1:{server.port}/v1", server.truthful).judge(questions[:4])
    assert [each.score for each in found] == truth[:4]


def test_a_pause_that_the_server_asks_for_is_kept():
    fault = Answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "2"})
    with Proxy(0, lambda number, _: fault if number == 1 else completion("TIE")) as proxy:
        judge_at(proxy.url, max_retries=1, concurrency=1).judge([question("x", "y")])
    # without being asked it waits half a second
    assert proxy.times[1] - proxy.times[0] >= 1.95


def test_questions_that_fail_for_good_stay_open_and_the_others_are_kept(server):
    questions = [question("gold", "tin", prompt=f"question {index}") for index in range(6)]
    errors = {
        ("question 1", False): Answer(500, {"error": {"message": "cursed"}}),
        ("question 3", True): refusal(400, "too long", param="messages", code="context_length_exceeded"),
        ("question 4", True): completion(None, choices=None),
        ("question 5", False): Answer(None),
    }

    def fault(_: int, content: str) -> Answer | None:
        swapped = content.index("\ngold\n") > content.index("\ntin\n")
        asked = next(each.prompt for each in questions if each.prompt in content)
        return errors.get((asked, swapped))

    with Proxy(server.port, fault) as proxy:
        found = judge_at(proxy.url, server.truthful).judge(questions)
        assert len(proxy.times) == 2 * len(questions)
    assert [None if each is None else each.score for each in found] == [1.0, None, 1.0, None, None, None]


@pytest.mark.parametrize(
    "answer",
    [
        refusal(401, "Incorrect API key"),
        refusal(403, "Country not supported"),
        refusal(404, "No such model", code="model_not_found"),
        refusal(400, "No such model", param="model"),
        refusal(400, "Invalid model", code="invalid_model"),
        refusal(400, "Use max_completion_tokens", param="max_tokens", code="unsupported_parameter"),
        refusal(429, "You exceeded your quota", code="insufficient_quota"),
    ],
)
def test_what_every_question_would_meet_is_an_error_at_once_with_the_servers_words(answer):
    questions, _ = cases()
    with Proxy(0, lambda *_: answer) as proxy, pytest.raises(InputError) as error:
        judge_at(proxy.url, "some/judge", concurrency=2).judge(questions)
    assert len(proxy.times) <= 2
    said = str(error.value)
    assert said.startswith(f"judge judge: expected {proxy.url} to answer as model 'some/judge' to the key in OPENAI_")
    assert answer.body["error"]["message"] in said
    assert "\n" not in said
    assert KEY not in said


def test_answers_before_a_refusal_are_kept_and_the_refusal_comes_the_next_time():
    questions, _ = cases()
    late = refusal(401, "Key withdrawn")
    with Proxy(0, lambda number, _: completion("TIE") if number <= 5 else late) as proxy:
        judge = judge_at(proxy.url, concurrency=1)
        found = judge.judge(questions)
        assert [None if each is None else each.score for each in found] == [0.5, 0.5] + [None] * 10
        with pytest.raises(InputError, match="Key withdrawn"):
            judge.judge(questions[2:])
        assert len(proxy.times) == 7


def test_a_server_that_is_down_is_an_error_soon():
    started = time.monotonic()
    judge = judge_at(f"http://someone:secret@127.0.0.1:{free_port()}/v1", max_retries=1)
    with pytest.raises(InputError, match="judge m: expected an answering endpoint at http.*; got: Conn") as error:
        judge.judge(cases()[0][:1])
    assert "secret" not in str(error.value)
    assert time.monotonic() - started < 15


def test_a_server_that_answers_no_question_is_an_error_and_one_question_may_stay_open():
    with Proxy(0, lambda *_: Answer(503, {"error": {"message": "no capacity"}})) as proxy:
        assert judge_at(proxy.url).judge(cases()[0][:1]) == [None]
        with pytest.raises(InputError, match="expected an answering endpoint at .* 503 .*no capacity"):
            judge_at(proxy.url).judge(cases()[0][:2])


def test_a_model_that_the_real_server_does_not_have_is_an_error(server):
    judge = judge_at(f"http://127.0.0.1:{server.port}/v1", "nobody/has-this")
    with pytest.raises(InputError, match="expected an answering endpoint"):
        judge.judge(cases()[0][:2])


def test_a_reply_takes_no_longer_than_the_timeout():
    done = threading.Event()

    def hang(*_: object) -> Answer:
        done.wait(60)
        return Answer(None)

    started = time.monotonic()
    with Proxy(0, hang) as proxy:
        with pytest.raises(InputError, match="timed out"):
            judge_at(proxy.url, timeout=0.3).judge(cases()[0][:1])
        done.set()
    assert time.monotonic() - started < 20


def test_requests_keep_their_distance_repeated_ones_too():
    fault = Answer(500, {"error": {"message": "overloaded"}}, {"Retry-After": "0.01"})
    with Proxy(0, lambda number, _: fault if number % 2 else completion("A")) as proxy:
        judge = judge_at(proxy.url, requests_per_minute=300, max_retries=5, concurrency=4)
        started = time.monotonic()
        for batch in (cases()[0][:2], cases()[0][2:3]):
            answered(judge.judge(batch))
    assert len(proxy.times) >= 12
    # a clock may be a little behind the loop's
    assert all(each - started >= 0.2 * place - 0.01 for place, each in enumerate(proxy.times))


def test_no_more_requests_are_under_way_than_allowed():
    running, most, lock = 0, 0, threading.Lock()

    def slow(*_: object) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        return completion("A")

    with Proxy(0, slow) as proxy:
        answered(judge_at(proxy.url, concurrency=3).judge(cases()[0]))
    assert most == 3


def test_an_endpoint_that_wants_no_key_needs_none(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    questions, truth = cases()
    found = answered(judge_at(f"http://127.0.0.1:{server.port}/v1", server.truthful).judge(questions[:1]))
    assert found[0].score == truth[0]


def test_judging_works_inside_a_running_loop():
    async def notebook(url: str) -> list[Judgement | None]:
        return judge_at(url).judge([question("x", "y")])

    with Proxy(0, lambda *_: completion("A")) as proxy:
        assert answered(asyncio.run(notebook(proxy.url)))[0].score == 0.5


INTERRUPTED = """
from decoding.evaluation.judges import ChatJudge, Question
text = {"text": "x"}
ChatJudge(model="m", base_url=%r, name="j").judge([Question(prompt="p", texts=(text, text))] * 8)
"""


def test_an_interruption_ends_it_promptly():
    asked, done = threading.Event(), threading.Event()

    def hang(*_: object) -> Answer:
        asked.set()
        done.wait(60)
        return Answer(None)

    with Proxy(0, hang) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED % proxy.url], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        try:
            assert asked.wait(60)
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            _, error = process.communicate(timeout=30)
            assert time.monotonic() - started < 10
        finally:
            done.set()
            process.kill()
            process.wait()
    assert error.decode().rstrip().endswith("KeyboardInterrupt")
