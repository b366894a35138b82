"""The loop on a CUDA device: recorded graphs, kernels and two devices write what the plain loop writes."""

import copy

import pytest
import torch
from test_batch import PROMPTS, padded
from tiny import DRAFT, TARGET

import decoding
from tradeoff.rules import CommonPrice, SpeculativeSampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def write(rule, *, target="cuda", draft="cuda", **arguments):
    # made on the CPU, so that every way sees the same uniforms
    generators = [torch.Generator().manual_seed(row) for row in range(len(PROMPTS))]
    inputs = {name: values.to(target) for name, values in padded(PROMPTS).items()}
    models = [copy.deepcopy(model).to(device) for model, device in ((TARGET, target), (DRAFT, draft))]
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 20, "account": "counts", "draft_length": 3}
    return decoding.generate(
        target=models[0], draft=models[1], **inputs, rule=rule, generator=generators, **settings | arguments
    ).sequences.cpu()


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("rule", [SpeculativeSampling(), CommonPrice(price=0.5)], ids=repr)
def test_graphs_and_kernels_write_what_the_cpu_writes(rule, cache, backend):
    expected = write(rule, target="cpu", draft="cpu")
    assert torch.equal(write(rule, cache_implementation=cache, backend=backend), expected)


@pytest.mark.parametrize("cache", [None, "static"])
def test_the_draft_may_live_on_another_device(cache):
    expected = write(SpeculativeSampling(), target="cpu", draft="cpu")
    assert torch.equal(write(SpeculativeSampling(), draft="cpu", cache_implementation=cache), expected)


def test_a_round_reads_back_once():
    # cuda's own watch: any other wait would raise
    previous = torch.cuda.get_sync_debug_mode()
    waits = []
    try:
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning, match="synchronizing") as seen:
            write(SpeculativeSampling(), cache_implementation="static", max_new_tokens=12)
        waits = [each for each in seen if "synchronizing" in str(each.message)]
    finally:
        torch.cuda.set_sync_debug_mode(previous)
    # at most 12 rounds; prompts, recording and the end wait a few times more
    assert len(waits) <= 12 + 12
