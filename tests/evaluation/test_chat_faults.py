"""Replies that no endpoint should send: each is counted or told in one line, and holds nobody for long."""

import gzip
import json
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from chat_server import KEY, Answer, Proxy, answered, completion, judge_at, question, refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decoding.evaluation.judges import ChatJudge, RewardModel
from decoding.evaluation.judges.connection import LARGEST
from decoding.evaluation.judges.replies import Failure, Reply, after_thinking, read_reply, verdict
from decoding.evaluation.study.findings import judge_account
from decoding.evaluation.study.judge_settings import ChatSettings, read_judge
from solvers.errors import InputError
from solvers.shown import visible

pytest.importorskip("openai")

ASKED = [question("x", "y"), question("y", "z")]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def told(found: pytest.ExceptionInfo[InputError]) -> str:
    """The message of an error, which is one printable line."""
    said = str(found.value)
    assert harmless(said)
    assert len(said) < 600
    return said


def harmless(text: str) -> bool:
    """Whether a text is one line and steers no terminal."""
    return visible(text) == text and "\n" not in text


def message(content: Any, **changed: Any) -> Any:
    return completion(content, **changed).body


MALFORMED = {
    "a string": message("A", choices="A"),
    "null in a list": message("A", choices=[None]),
    "a number": message("A", choices=[7]),
    "no message": message("A", choices=[{"index": 0}]),
    "message a list": message("A", choices=[{"message": ["A"]}]),
    "choices a mapping": message("A", choices={"0": 1}),
    "content a number": message(1),
    "content a mapping": message({"text": "A"}),
    "content parts of no text": message([{"type": "image", "text": "A"}, 3, None]),
    "content parts of other types": message([{"type": "text", "text": 3}]),
    "a list": [1, 2],
    "null": None,
    "an error with status 200": {"error": {"message": "overloaded", "code": 502}},
    "latin-1": '{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1"),
    "no JSON": b"<html>\x1b[31mgateway",
    "nothing": b"",
    "deep": b"[" * 100_000,
    "a huge integer": b'{"choices": [{"message": {"content": "A"}}], "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_reply_of_another_shape_stays_open_and_only_such_replies_are_one_line(body):
    bad = Answer(200, body, {"Content-Type": "application/json"})
    with Proxy(0, lambda _, content: bad if "\nz\n" in content else completion("TIE")) as proxy:
        found = judge_at(proxy.url).judge(ASKED)
    assert [None if each is None else each.score for each in found] == [0.5, None]
    with Proxy(0, lambda *_: bad) as proxy, pytest.raises(InputError) as error:
        judge_at(proxy.url).judge(ASKED)
    assert told(error).startswith(f"judge m: expected an answering endpoint at {proxy.url}; got: a reply ")


@pytest.mark.parametrize(
    "usage", [None, "many", [1], {"prompt_tokens": -1, "completion_tokens": True}, {"prompt_tokens": 1e400}, {}]
)
def test_counts_of_tokens_that_are_none_are_estimated(usage):
    with Proxy(0, lambda *_: completion("A", usage=usage)) as proxy:
        judge = judge_at(proxy.url, max_tokens=7, prices=(1.0, 2.0))
        details = answered(judge.judge(ASKED[:1]))[0].details
        estimated = judge.estimate(ASKED[:1])
    assert (details["prompt_tokens"], details["completion_tokens"]) == (estimated.prompt_tokens, 14)
    assert details["cost"] == pytest.approx(estimated.cost, rel=1e-12)


def test_parts_of_text_are_joined_thinking_apart_is_ignored_and_encodings_of_json_are_read():
    parts = [{"type": "thinking", "thinking": "B"}, {"type": "text", "text": "T"}, {"type": "text", "text": "IE"}]
    apart = {"role": "assistant", "content": "A", "reasoning_content": "B", "reasoning": "B"}
    for body in (
        message(parts),
        message("A", choices=[{"message": apart}]),
        json.dumps(message("A")).encode("utf-16"),
        json.dumps(message("A\ud800")).encode(),
    ):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = read_reply(raw)
        assert isinstance(reply, Reply)
        assert reply.text in ("TIE", "A", "A?")


THINKING = {
    "<think>B is better. B</think>A": "A",
    "<think>\nhm\n</think>\n\n**B**": "B",
    "so A wins</think> TIE": "TIE",
    " <THINKING>B</THINKING>A": "A",
    "[THINK]B[/THINK]A": "A",
    "<think>they wrote </think> and B</think>A": "A",
    "A. Text B begins with <think>": "A",
    "<think>A": None,
    "<think>B</think><think>A": None,
    "<think>B</think>": "",
    "A": "A",
}


def test_a_verdict_is_read_behind_the_thinking_and_of_thinking_without_an_end_there_is_none():
    for text, expected in THINKING.items():
        said = after_thinking(text)
        assert (said is None) == (expected is None), text
        assert said is None or verdict(said) == (expected or None), text


def test_replies_without_an_end_are_counted_and_their_start_is_kept():
    cut = [{"finish_reason": "length", "message": {"content": ""}}]
    replies = {
        ("x", "y"): completion("<think>A" + "hm" * 200),
        ("y", "x"): completion("<think>why</think>A"),
        ("y", "z"): completion(None, choices=cut),
        ("z", "y"): completion("perhaps"),
    }

    def reply(_: int, content: str) -> Answer:
        first, second = (next(each for each in "xyz" if f"TEXT {place} ===\n{each}\n" in content) for place in "AB")
        return replies[first, second]

    with Proxy(0, reply) as proxy:
        found = answered(judge_at(proxy.url).judge(ASKED))
    assert [each.score for each in found] == [None, None]
    assert [each.details["cut_off"] for each in found] == [1, 1]
    assert found[0].details["reply_forward"] == ("<think>A" + "hm" * 200)[:200]
    assert (found[0].details["reply_backward"], found[0].details["backward"]) == ("A", "A")
    rows = [{"score": each.score, **each.details} for each in found]
    account = judge_account("m", pairwise=True, rows=rows, asked=2)
    assert (account.unreadable, account.details["cut_off"]) == (2, 2)


def test_a_model_gets_the_settings_it_takes():
    with Proxy(0, lambda *_: completion("A")) as proxy:
        judge = judge_at(proxy.url, max_completion_tokens=900, temperature=None, prices=(0.0, 1.0))
        judge.judge(ASKED[:1])
        warm = judge_at(proxy.url, temperature=0.5)
        warm.judge(ASKED[:1])
    (_, first), *_, (_, last) = proxy.requests
    assert first["max_completion_tokens"] == 900
    assert not {"max_tokens", "temperature"} & set(first)
    assert judge.estimate(ASKED[:1]).completion_tokens == 1800
    assert (last["max_tokens"], last["temperature"]) == (16, 0.5)
    sent = judge.settings
    assert (sent["max_completion_tokens"], sent["temperature"], "max_tokens" in sent) == (900, None, False)
    # as they were before there was a choice: answers in older folders stay valid
    assert json.dumps([judge_at(proxy.url).settings[name] for name in ("max_tokens", "temperature")]) == "[16, 0]"


@pytest.mark.parametrize("param", [True, False], ids=["named", "in words"])
@pytest.mark.parametrize(
    ("about", "words", "advice"),
    [
        ("max_tokens", "Use 'max_completion_tokens' instead.", "set max_completion_tokens instead of max_tokens"),
        ("temperature", "temperature does not support 0", "set temperature to null"),
    ],
)
def test_a_refused_setting_is_an_error_that_a_setting_can_follow(about, words, advice, param):
    answer = refusal(400, words, **({"param": about} if param else {}))
    with Proxy(0, lambda *_: answer) as proxy, pytest.raises(InputError) as error:
        judge_at(proxy.url, concurrency=1).judge(ASKED)
    assert words in told(error)
    assert advice in told(error)
    assert len(proxy.times) == 1


@contextmanager
def dripping():
    """A server that sends a byte of its reply every 0.1 s, without an end; gives its URL."""
    listening, done = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
        with suppress(OSError), listening.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(head)
            while not done.wait(0.1):
                connection.sendall(b" ")

    drips = [threading.Thread(target=drip) for _ in range(4)]  # as many as there are calls below
    for each in drips:
        each.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        done.set()
        listening.shutdown(socket.SHUT_RDWR)
        for each in drips:
            each.join()
        listening.close()


def test_a_reply_in_drips_takes_no_longer_than_the_timeout():
    started = time.monotonic()
    with dripping() as url, pytest.raises(InputError) as error:
        judge_at(url, timeout=0.5).judge(ASKED)
    assert time.monotonic() - started < 5
    assert "no whole reply within 0.5 seconds" in told(error)


def test_waiting_for_ones_place_is_no_part_of_the_timeout():
    with Proxy(0, lambda *_: completion("A")) as proxy:
        answered(judge_at(proxy.url, timeout=1.0, requests_per_minute=50).judge(ASKED[:1]))
    assert proxy.times[1] - proxy.times[0] > 1.1


@pytest.mark.parametrize("packed", [False, True])
def test_a_reply_beyond_all_measure_is_not_read_to_its_end(packed):
    body = json.dumps(message("A" * (LARGEST + 1))).encode()
    answer = Answer(200, gzip.compress(body) if packed else body, {"Content-Encoding": "gzip"} if packed else {})
    with Proxy(0, lambda *_: answer) as proxy, pytest.raises(InputError, match="a reply of more than 4,194,304 bytes"):
        judge_at(proxy.url).judge(ASKED)


def test_a_packed_reply_is_unpacked():
    body = gzip.compress(json.dumps(message("TIE")).encode())
    with Proxy(0, lambda *_: Answer(200, body, {"Content-Encoding": "gzip"})) as proxy:
        assert answered(judge_at(proxy.url).judge(ASKED[:1]))[0].score == 0.5


def test_half_a_character_in_a_text_is_sent_as_a_question_mark():
    with Proxy(0, lambda *_: completion("A")) as proxy:
        answered(judge_at(proxy.url).judge([question("x\ud800", "y")]))
    assert "\nx?\n" in proxy.requests[0][1]["messages"][0]["content"]


@pytest.mark.parametrize("name", ["", " ", "x" * 61, "\x1b[31mred", "two\nlines", "\u202eback", "\ud800"], ids=range(7))
def test_names_that_cannot_be_shown_are_refused_at_every_door(name):
    chat = {"kind": "chat", "model": "m", "base_url": "http://host/v1", "name": name}
    reward = {"kind": "reward_model", "model": "m", "name": name}
    doors = [
        lambda: ChatJudge(model=name or " ", base_url="http://host/v1"),
        lambda: RewardModel("m", name=name or " "),
        lambda: read_judge(chat, "judges.0", "cpu"),
        lambda: read_judge(reward, "judges.0", "cpu"),
    ]
    for door in doors:
        with pytest.raises(InputError) as error:
            door()
        assert "name: expected" in str(error.value)
        assert str(error.value).isprintable()


def test_markup_is_a_name_like_another():
    assert ChatJudge(model="m", base_url="http://host/v1", name="[/nope]").name == "[/nope]"


@pytest.mark.parametrize(
    "url",
    [
        "http://host:999999/v1",
        "http://host:x/v1",
        "http://host:0/v1",
        "http://",
        "http://[::1",
        "ftp://host",
        "http://ho st/v1",
        "http://host/\n",
        "http:///v1",
    ],
)
def test_addresses_that_there_are_none_are_refused_at_both_doors(url):
    with pytest.raises(InputError, match="base_url: expected a URL that starts with http"):
        ChatJudge(model="m", base_url=url)
    with pytest.raises(InputError, match=r"judges.0.base_url: expected an address such as https"):
        read_judge({"kind": "chat", "model": "m", "base_url": url}, "judges.0", "cpu")


def test_a_configuration_chooses_one_name_for_the_greatest_length_and_may_send_no_temperature():
    chat = {"kind": "chat", "model": "m", "base_url": "http://host/v1"}
    read = read_judge(chat | {"max_completion_tokens": 2000, "temperature": None}, "judges.0", "cpu")
    assert isinstance(read, ChatSettings)
    assert (read.max_tokens, read.max_completion_tokens, read.temperature) == (None, 2000, None)
    plain = read_judge(chat, "judges.0", "cpu")
    assert isinstance(plain, ChatSettings)
    assert (plain.max_tokens, plain.max_completion_tokens, plain.temperature) == (None, None, 0.0)
    with pytest.raises(InputError, match="max_tokens: expected none beside max_completion_tokens"):
        read_judge(chat | {"max_completion_tokens": 9, "max_tokens": 9}, "judges.0", "cpu")
    with pytest.raises(InputError, match="max_tokens: expected none beside max_completion_tokens"):
        ChatJudge(model="m", base_url="http://host/v1", max_tokens=9, max_completion_tokens=9)
    with pytest.raises(InputError, match="temperature: expected from 0 on, or None; got -1"):
        ChatJudge(model="m", base_url="http://host/v1", temperature=-1.0)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [("OPENAI_API_KEY", "ключ", "a key of printable ASCII"), ("ALL_PROXY", "gopher://x", "proxies and certificates")],
)
def test_an_environment_that_cannot_be_used_is_one_line(monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError) as error:
        judge_at("http://host/v1").judge(ASKED)
    assert words in told(error)
    assert value not in str(error.value) or variable == "ALL_PROXY"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CONTENT = JSON | st.sampled_from([*THINKING, "A", [{"type": "text", "text": "A"}]])
MESSAGE = JSON | st.fixed_dictionaries({"content": CONTENT})
CHOICES = JSON | st.lists(JSON | st.fixed_dictionaries({"message": MESSAGE, "finish_reason": JSON}), max_size=2)
USAGE = JSON | st.fixed_dictionaries({"prompt_tokens": JSON, "completion_tokens": JSON})
ERROR = st.fixed_dictionaries({"message": JSON, "param": JSON, "code": JSON, "type": JSON})
BODY = (
    JSON | st.fixed_dictionaries({"choices": CHOICES, "usage": USAGE}) | st.fixed_dictionaries({"error": JSON | ERROR})
)
RAW = st.one_of(
    BODY.map(lambda body: json.dumps(body).encode()),
    st.builds(
        lambda body, coding: json.dumps(body).encode(coding), BODY, st.sampled_from(["utf-16", "utf-32", "utf-7"])
    ),
    st.builds(lambda body, cut: json.dumps(body).encode()[:cut], BODY, st.integers(0, 60)),
    st.binary(max_size=60),
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(["text/html", "application/json; charset=utf-99", "x", "text/event-stream"]),
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "br", "nonsense"]),
        "Content-Length": st.integers(0, 90),
        "Transfer-Encoding": st.just("chunked"),
        "Location": st.sampled_from(["http://[", "http://host:999999", "//", "\xff"]),
        "Set-Cookie": st.text("=;,\x7f a", max_size=9),
        "x-should-retry": st.just("false"),
    },
)


@settings(max_examples=400, deadline=None)
@given(RAW)
def test_any_body_is_a_reply_or_a_failure_in_words(body):
    found = read_reply(body)
    if isinstance(found, Failure):
        assert harmless(found.reason)
        return
    json.dumps(found.text).encode()
    found.text.encode()
    said = after_thinking(found.text)
    assert said is None or verdict(said) in ("A", "B", "TIE", None)
    for count in (found.prompt_tokens, found.completion_tokens):
        assert count is None or type(count) is int


# a client per example takes 30 ms: few examples, no deadline
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([200, 200, 200, 201, 204, 302, 307, 400, 401, 404, 418, 422, 429, 500, 599]), RAW, HEADERS)
def test_any_answer_of_a_server_is_a_judgement_a_gap_or_one_line(status, body, headers):
    with Proxy(0, lambda *_: Answer(status, body, headers)) as proxy:
        said, found = "", [None]
        try:
            found = judge_at(proxy.url, timeout=2.0, prices=(1.0, 1.0)).judge(ASKED[:1])
        except InputError as error:
            said = str(error)
    assert harmless(said)
    assert len(said) < 600
    assert [each is None or each.score in (None, 0.5) for each in found] == [True]
