"""CUDA graphs: a phase of the loop recorded once and replayed without the host."""

from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

WARM_UP = 3
"""Runs before a recording: the first ones allocate, choose algorithms and compile."""


class Captured(Generic[Arguments, Result]):
    """A function on tensors at fixed addresses, recorded as one CUDA graph per combination of its arguments.

    Parameters
    ----------
    function
        Reads and writes tensors that live as long as this object; its arguments are hashable and no tensors. It must
        have the same effect when it runs twice, and never wait for the device.
    enabled
        False runs the function itself: on other devices, and where its shapes change.
    """

    def __init__(self, function: Callable[Arguments, Result], *, enabled: bool) -> None:
        self._function, self._enabled = function, enabled
        self._graphs: dict[Hashable, tuple[Any, Result]] = {}

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Replay; record first where these arguments are new. A replay overwrites the former result's tensors."""
        if not self._enabled:
            return self._function(*args, **kwargs)
        key = (args, tuple(sorted(kwargs.items())))
        if key not in self._graphs:
            self._graphs[key] = self._record(*args, **kwargs)
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def _record(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> tuple[Any, Result]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._function(*args, **kwargs)
        return graph, result
