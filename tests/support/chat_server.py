"""A real server of chat models, a proxy in front of it that fails as it is told, and questions."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from judge_models import save_chat_model

from decoding.evaluation.judges import ChatJudge, Judgement, Question

STARTUP = 120
QUALITY = {"gold": 1, "tin": 0}
TRUTHFUL = {"first_is_gold": "A", "second_is_gold": "B", "alike": "TIE"}
KEY = "a key nobody may see"


class Server(NamedTuple):
    """A running `transformers serve` and the folders of its models."""

    port: int
    truthful: str
    first: str
    garbage: str


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve three models from a folder, until the end."""
    truthful = save_chat_model(folder / "truthful", TRUTHFUL)
    first = save_chat_model(folder / "first", dict.fromkeys(TRUTHFUL, "A"))
    garbage = save_chat_model(folder / "garbage", dict.fromkeys(TRUTHFUL, "perhaps"))
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        wait_for(port, process, folder / "log")
        yield Server(port, str(truthful), str(first), str(garbage))
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise AssertionError(f"the server did not start: {log.read_text()}")


class Answer(NamedTuple):
    """What a proxy answers itself: a status with a body, raw if bytes, or None for a connection dropped without one."""

    status: int | None
    body: Any = None
    headers: dict[str, str] = {}


class Proxy(ThreadingHTTPServer):
    """Forwards requests to a port, except those that `fault` answers, given their number and their question."""

    daemon_threads = True

    def __init__(self, port: int, fault: Callable[[int, str], Answer | None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port, self.fault = port, fault
        self.lock = threading.Lock()
        self.times: list[float] = []
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Proxy":
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    @property
    def proxy(self) -> Proxy:
        assert isinstance(self.server, Proxy)
        return self.server

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(sent)
        with self.proxy.lock:
            self.proxy.times.append(time.monotonic())
            self.proxy.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            number = len(self.proxy.times)
        answer = self.proxy.fault(number, body["messages"][0]["content"])
        if answer is None:
            self.reply(*self.forward(sent), {})
        elif answer.status is not None:
            raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.reply(answer.status, raw, answer.headers)

    def forward(self, sent: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=60)
        try:
            connection.request("POST", self.path, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json", "Content-Length": len(body)} | headers).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # who asked has gone

    def log_message(self, format: str, *args: object) -> None:
        pass


def completion(reply: str | None, **changed: Any) -> Answer:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return Answer(200, body | changed)


def refusal(status: int, message: str, **error: Any) -> Answer:
    return Answer(status, {"error": {"message": message, "type": "invalid_request_error", **error}})


def question(first: str, second: str, prompt: str = "Say something.") -> Question:
    return Question(prompt=prompt, texts=({"text": first}, {"text": second}))


def cases() -> tuple[list[Question], list[float]]:
    """Questions and the preferences that are true of them."""
    texts = ["all gold here", "nothing but tin", "gold\nin two lines", "tin {braces}", "<b>gold</b>"]
    pairs = [(first, second) for first in texts for second in texts if first != second][:12]
    worth = {text: QUALITY["gold" if "gold" in text else "tin"] for text in texts}
    return [question(*pair) for pair in pairs], [(1 + worth[first] - worth[second]) / 2 for first, second in pairs]


def judge_at(url: str, model: str = "m", **changed: Any) -> ChatJudge:
    return ChatJudge(**{"model": model, "base_url": url, "max_retries": 0} | changed)


def answered(found: Sequence[Judgement | None]) -> list[Judgement]:
    assert all(each is not None for each in found)
    return [each for each in found if each is not None]
