"""The way to an endpoint: requests that keep their distance, replies that come in time and are not too long."""

import asyncio
import importlib
import time
from typing import Any

from solvers.errors import InputError
from solvers.shown import one_line

LARGEST = 4 * 2**20
"""Bytes of a reply: many times what a model that thinks for long writes about two texts."""


class Pace:
    """Lets requests pass so far apart that they are at most so many in a minute; None for no limit."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self._apart = 0.0 if requests_per_minute is None else 60 / requests_per_minute
        self._next = 0.0

    async def __call__(self) -> None:
        """Wait for the next place in time."""
        now = time.monotonic()
        slot = max(now, self._next)
        self._next = slot + self._apart
        await asyncio.sleep(slot - now)


def open_client(*, key: str, base_url: str, max_retries: int, timeout: float, pace: Pace) -> Any:
    """Make a client of an endpoint; each of its requests waits for its place, then has so many seconds in all.

    Parameters
    ----------
    key, base_url, max_retries
        As in `ChatJudge`.
    timeout
        Seconds from a request to the last byte of its reply: the library's own begin anew with every byte.
    pace
        Asked before every request, repeated ones too.

    Raises
    ------
    InputError
        A proxy, certificate or address in the environment that cannot be used.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, OpenAIError

    # which HTTP library it is depends on the version of openai, whose own client derives from that library's
    library = DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]
    http: Any = importlib.import_module(library)

    class Connection(DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **more: Any) -> Any:
            await pace()
            try:
                async with asyncio.timeout(timeout):
                    return await whole(await super().send(request, stream=True, **more), request)
            except TimeoutError:
                raise http.ReadTimeout(f"no whole reply within {timeout:g} seconds", request=request) from None
            except http.RequestError:
                raise
            except Exception as error:  # what a library makes of broken bytes can be anything; openai knows the above
                raise http.ReadError(f"{type(error).__name__}: {error}", request=request) from error

    async def whole(response: Any, request: Any) -> Any:
        parts, size = [], 0
        try:
            async for part in response.aiter_bytes():
                size += len(part)
                if size > LARGEST:
                    raise http.ReadError(f"a reply of more than {LARGEST:,} bytes", request=request)
                parts.append(part)
        finally:
            await response.aclose()
        # what it was packed in on the way has been taken off
        packing = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in packing]
        return http.Response(response.status_code, headers=headers, content=b"".join(parts), request=response.request)

    try:
        return AsyncOpenAI(
            api_key=key, base_url=base_url, max_retries=max_retries, timeout=timeout, http_client=Connection()
        )
    except (OpenAIError, http.InvalidURL, ValueError, OSError, ImportError) as error:
        raise InputError(
            f"base_url: expected an address, and proxies and certificates in the environment, that can be used; got: "
            f"{one_line(str(error), 200)}; correct it"
        ) from None


def is_permanent(error: Exception, *, advised: bool) -> bool:
    """Whether every other question would meet this error too: it is about key, account, model or settings."""
    status, param, code, kind = (getattr(error, name, None) for name in ("status_code", "param", "code", "type"))
    if status in (401, 403, 404) or code == "insufficient_quota":
        return True
    about = param in ("model", "max_tokens", "max_completion_tokens", "temperature") or "model" in f"{code} {kind}"
    return status in (400, 422) and (advised or about)


def advice_on(refusal: str, limit: str, temperature: float | None) -> str | None:
    """Which setting follows what an endpoint says it wants, None if none does.

    Parameters
    ----------
    refusal
        Its words.
    limit
        Under which name it was told the greatest length.
    temperature
        As it was told.
    """
    if "max_completion_tokens" in refusal and limit == "max_tokens":
        return "set max_completion_tokens instead of max_tokens"
    if "max_tokens" in refusal.replace("max_completion_tokens", "") and limit == "max_completion_tokens":
        return "set max_tokens instead of max_completion_tokens"
    if "temperature" in refusal and temperature is not None:
        return "set temperature to null (None), which sends none, or to what it takes"
    return None
