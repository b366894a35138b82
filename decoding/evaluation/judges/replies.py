"""What an endpoint of chat models answers, read with care: anything can come."""

import json
import re
from typing import Any, NamedTuple

from solvers.shown import one_line

MOST_TOKENS = 10**9
"""A count above is no count."""

TAG = r"[<\[]\s*{}(?:think|thinking|thought|reasoning)\s*[>\]]"
OPENED, CLOSED = (re.compile(TAG.format(slash), re.IGNORECASE) for slash in ("", "/"))


class Reply(NamedTuple):
    """What a model said.

    Parameters
    ----------
    text
        Of its message, without what is sent apart from it as its reasoning.
    prompt_tokens, completion_tokens
        As the endpoint counts; None where it does not.
    limited
        Whether it ended because it was as long as allowed.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    limited: bool


class Failure(NamedTuple):
    """Why no answer came, and whether it was the connection."""

    reason: str
    connection: bool = False


def read_reply(body: bytes) -> Reply | Failure:
    """Read the body of an endpoint's answer; a failure says what is not as it has to be."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return Failure(f"a reply that is not JSON: {_start(body)}")
    choices = given.get("choices") if isinstance(given, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Failure(f"a reply without a message in choices: {_start(body)}")
    text = _text(message.get("content"))
    if text is None:
        return Failure(f"a reply whose content is no text: {_start(body)}")
    usage = given.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        # half a character, as JSON can hold it, is none that can be written to a file
        text=text.encode(errors="replace").decode(),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        limited=choice.get("finish_reason") == "length",
    )


def _text(content: Any) -> str | None:
    """A message's text; of a list its parts of text, beside which there may be thinking."""
    if isinstance(content, list):
        texts = [each.get("text") for each in content if isinstance(each, dict) and each.get("type") == "text"]
        known = [each for each in texts if isinstance(each, str)]
        return "".join(known) if known and len(known) == len(texts) else None
    return "" if content is None else content if isinstance(content, str) else None


def _count(given: Any) -> int | None:
    counted = isinstance(given, int) and not isinstance(given, bool) and 0 <= given <= MOST_TOKENS
    return given if counted else None


def _start(body: bytes) -> str:
    return one_line(body[:200].decode(errors="replace"), 120)


def after_thinking(text: str) -> str | None:
    """What a reply says when it has done thinking aloud, as in <think>...</think>A; None if it never has.

    The opening tag may be missing: with some models it stands in the prompt.
    """
    said = CLOSED.split(text)[-1]
    return None if OPENED.match(said.lstrip()) else said


def verdict(said: str) -> str | None:
    """A, B or TIE, if a reply says just one of them.

    It is the reply's only [[A]], [[B]] or [[TIE]]; or all of its first line; or its first word, with a full stop,
    exclamation mark or closing bracket behind it. Case, quotes and markdown around the word do not matter.
    """
    text = said.strip().upper()
    marked = set(re.findall(r"\[\[\s*(A|B|TIE)\s*\]\]", text))
    if marked:
        return marked.pop() if len(marked) == 1 else None
    found = re.match(r"[\W_]*(A|B|TIE)[*_`\"'’”]*[ \t]*(?=$|\n|[.!)\]}>])", text)
    return found[1] if found else None
