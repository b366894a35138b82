"""torch.compile in the loop: the same texts, through one graph per shape."""

import pytest
import torch
from test_batch import write

from tradeoff.rules import CommonPrice


@pytest.fixture
def traced(monkeypatch):
    """`torch.compile` without code generation, which needs a compiler and minutes; a break of the graph is an error."""
    original, graphs = torch.compile, []

    def backend(graph, inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    def compile_(function, *, dynamic):
        return original(function, dynamic=dynamic, fullgraph=True, backend=backend)

    monkeypatch.setattr(torch, "compile", compile_)
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


def test_compiled_models_write_the_same_text_from_few_graphs(traced):
    arguments = {"max_new_tokens": 20, "kind": "static"}
    expected = write(CommonPrice(price=0.5), **arguments)
    assert not traced
    found = write(CommonPrice(price=0.5), compiled=True, **arguments)
    assert torch.equal(found.sequences, expected.sequences)
    # the draft on two tokens and on one, the target on three
    assert len(traced) == 3
    assert torch.equal(write(CommonPrice(price=0.5), compiled=True, **arguments).sequences, expected.sequences)
    assert len(traced) == 3
