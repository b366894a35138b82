"""Recording and replaying, with a stand-in for CUDA graphs that keeps their rules: fixed tensors, one function."""

from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from test_batch import PROMPTS, write
from tiny import DRAFT

from decoding.drafting import ModelDrafter, PromptLookup, Proposal
from decoding.loop import decode as loop
from decoding.models import graphs
from decoding.models.graphs import WARM_UP, Captured
from tradeoff.rules import CommonPrice, SpeculativeSampling


class Tape:
    """What a graph holds: its function is run again at every replay, into the tensors of the recording."""

    current: "Tape | None" = None

    def __init__(self) -> None:
        self.function: Any = None
        self.result: Any = None
        self.replays = 0

    def replay(self) -> None:
        """Run again; whoever still holds the former result sees it change, as with a real graph."""
        self.replays += 1
        for old, new in zip(_tensors(self.result), _tensors(self.function()), strict=True):
            old.copy_(new)


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, Proposal):
        return [result.tokens, result.logits, result.raw_logits, result.count]
    return [result] if isinstance(result, torch.Tensor) else list(result)


class Recorded(Captured):
    """`Captured` whose graphs are tapes."""

    tapes: list[Tape] = []

    def _record(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        tape, result = super()._record(*args, **kwargs)
        tape.function, tape.result = (lambda: self._function(*args, **kwargs)), result
        Recorded.tapes.append(tape)
        return tape, result


@pytest.fixture
def taped(monkeypatch):
    class Stream:
        def wait_stream(self, other):
            pass

    @contextmanager
    def graph(tape):
        yield tape

    for name, value in (
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", lambda stream: nullcontext()),
        ("CUDAGraph", Tape),
        ("graph", graph),
    ):
        monkeypatch.setattr(graphs.torch.cuda, name, value)
    monkeypatch.setattr(Recorded, "tapes", [])
    return Recorded


def test_a_function_is_recorded_once_per_arguments_and_replayed_into_the_same_tensor(taped):
    state, calls = torch.zeros(2), []

    def double(times):
        calls.append(times)
        return state * times

    captured = taped(double, enabled=True)
    first = captured(2)
    assert calls == [2] * (WARM_UP + 2)
    state.fill_(5.0)
    again = captured(2)
    assert again is first
    assert again.tolist() == [10.0, 10.0]
    assert captured(3).tolist() == [15.0, 15.0]
    assert len(taped.tapes) == 2


def test_a_disabled_one_is_the_function_itself():
    assert Captured(lambda x: x + 1, enabled=False)(1) == 2


@pytest.mark.parametrize("rule", [SpeculativeSampling(), CommonPrice(price=0.5)], ids=repr)
def test_a_loop_of_replayed_graphs_writes_the_same_texts(rule, taped, monkeypatch):
    expected = write(rule, max_new_tokens=20, kind="static", account="exact")

    def always(function, *, enabled):
        return taped(function, enabled=True)

    monkeypatch.setattr(loop, "Captured", always)
    found = write(rule, max_new_tokens=20, kind="static", account="exact")
    assert torch.equal(found.sequences, expected.sequences)
    np.testing.assert_allclose(found.statistics.rejection, expected.statistics.rejection)
    assert len(taped.tapes) == 2  # one for the draft, one for the target
    assert sum(tape.replays for tape in taped.tapes) > 2 * len(PROMPTS)


def test_only_drafters_at_fixed_addresses_of_the_same_device_are_recorded():
    here = torch.device("cpu")
    assert loop._can_be_captured(ModelDrafter(DRAFT, static=True), here)
    assert not loop._can_be_captured(ModelDrafter(DRAFT), here)
    assert not loop._can_be_captured(ModelDrafter(DRAFT, static=True), torch.device("meta"))
    assert not loop._can_be_captured(PromptLookup(), here)
