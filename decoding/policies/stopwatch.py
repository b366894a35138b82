"""Where the time of a decoding loop goes, without waiting for the device."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

Part = Literal["draft", "target", "verify"]


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Seconds by part; they add up to the whole time.

    Parameters
    ----------
    draft, target, verify
        Proposing tokens, scoring them, accepting them.
    rest
        Everything else: the prompts, reading results back, stopping, statistics.
    """

    draft: float
    target: float
    verify: float
    rest: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.draft + self.target + self.verify + self.rest

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(
            draft=self.draft + other.draft,
            target=self.target + other.target,
            verify=self.verify + other.verify,
            rest=self.rest + other.rest,
        )


class Stopwatch:
    """Times the parts of every round: on a CPU by the clock, on a CUDA device by events in its stream.

    Events cost no synchronisation. They are read when a lap ends, by which time the loop has read the round back, so
    that they are past.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._events: list[tuple[Part, torch.cuda.Event, torch.cuda.Event]] = []
        self._lap: dict[Part, float] = dict.fromkeys(("draft", "target", "verify"), 0.0)
        self._total = Seconds(draft=0.0, target=0.0, verify=0.0, rest=0.0)
        self._started = time.perf_counter()

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """Count what happens inside as this part's."""
        if not self._cuda:
            start = time.perf_counter()
            yield
            self._lap[name] += time.perf_counter() - start
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._events.append((name, first, last))

    def lap(self) -> Seconds:
        """Seconds since the last lap, or the start."""
        for name, first, last in self._events:
            last.synchronize()
            self._lap[name] += first.elapsed_time(last) / 1000.0
        self._events.clear()
        now = time.perf_counter()
        lap = Seconds(**self._lap, rest=max(now - self._started - sum(self._lap.values()), 0.0))
        self._started, self._lap = now, dict.fromkeys(self._lap, 0.0)
        self._total = self._total + lap
        return lap

    def total(self) -> Seconds:
        """All laps, the current one ended."""
        self.lap()
        return self._total
