"""The benchmark's random pairs agree as often as their echo says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.decoding_pairs import Shape, random_pair

SMALL = Shape(layers=4, draft_layers=2, hidden=32, heads=2, vocab=200, spread=3.0, echo=0.05)


def mean_tv(shape):
    target, draft = random_pair(shape)
    ids = torch.arange(64)[None] % shape.vocab
    with torch.no_grad():
        laws = [model(ids).logits.double().softmax(-1) for model in (draft, target)]
    return float((laws[0] - laws[1]).abs().sum(-1).mean()) / 2


def test_without_an_echo_the_draft_is_the_target_and_more_echo_is_less_agreement():
    values = [mean_tv(replace(SMALL, echo=echo)) for echo in (0.0, 0.01, 0.05, 0.2)]
    assert values[0] < 1e-6
    assert (np.diff(values) > 0).all()


def test_logits_have_the_spread_that_was_asked_for_and_the_models_share_no_memory():
    target, draft = random_pair(SMALL)
    with torch.no_grad():
        logits = target(torch.arange(64)[None]).logits
    assert float(logits.std()) == pytest.approx(SMALL.spread, rel=0.1)
    assert len(draft.gpt_neox.layers) == 2
    addresses = [{each.data_ptr() for each in model.parameters()} for model in (target, draft)]
    assert not addresses[0] & addresses[1]
