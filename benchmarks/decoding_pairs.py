"""Pairs of models with random weights whose draft agrees with its target as often as one asks.

The draft is the first layers of the target, with its embedding, last norm and head, in memory of its own. What the
target's other layers add to the residual stream is scaled by `echo`: they cost what any layer costs and change the
logits little. Echo 0 would accept everything.

Logits have standard deviation `spread`, so with V tokens the laws have about log V - spread^2 / 2 nats, as the laws of
trained models do: the plain initialisation's nearly uniform laws would accept anything, at every temperature.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from decoding.huggingface.pair import load_pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """Sizes of a pair.

    Parameters
    ----------
    layers, draft_layers
        Layers of the target, and those of them that make the draft.
    hidden, heads, vocab
        Width, attention heads, tokens.
    spread
        Standard deviation of the target's logits.
    echo
        Scale of what the layers behind the draft's add.
    """

    layers: int
    draft_layers: int
    hidden: int
    heads: int
    vocab: int
    spread: float
    echo: float


SHAPES = {
    "8x512, V = 32000": Shape(layers=8, draft_layers=2, hidden=512, heads=8, vocab=32000, spread=3.5, echo=0.035),
    "4x256, V = 151936": Shape(layers=4, draft_layers=1, hidden=256, heads=4, vocab=151936, spread=3.5, echo=0.031),
    "24x64, V = 1000": Shape(layers=24, draft_layers=6, hidden=64, heads=4, vocab=1000, spread=3.0, echo=0.005),
}
"""A model that computes, one whose head is all of it, and one that is nothing but calls."""
CALLS = "24x64, V = 1000"
CONTEXT = 2048


def random_pair(shape: Shape, *, seed: int = 0) -> tuple[Any, Any]:
    """Make the target and the draft of a shape, float32, in evaluation mode."""
    model = partial(random_model, hidden=shape.hidden, heads=shape.heads, vocab=shape.vocab, seed=seed)
    target = model(layers=shape.layers)
    _spread_out(target, shape, torch.Generator().manual_seed(seed))
    draft = model(layers=shape.draft_layers)
    shared = draft.state_dict().keys()
    draft.load_state_dict({name: value for name, value in target.state_dict().items() if name in shared})
    return target, draft


def random_model(
    *,
    layers: int,
    hidden: int,
    heads: int,
    vocab: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Any:
    """Make a model of the embedded pair's architecture, GPT-NeoX, and of another size; it has no end token."""
    example = load_pair().target
    config = type(example.config)(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # made where it will be used: a large model in float32 may not fit this machine
        with torch.device(device):
            return type(example)(config).eval()
    finally:
        torch.set_default_dtype(usual)


@torch.no_grad()
def _spread_out(target: Any, shape: Shape, generator: torch.Generator) -> None:
    """Give every layer an effect of the size of its input, those behind the draft's one of `echo` times that."""

    def fill(weight: torch.Tensor, scale: float) -> None:
        weight.normal_(0.0, scale, generator=generator)

    fill(target.get_input_embeddings().weight, 1.0)
    for number, layer in enumerate(target.gpt_neox.layers):
        scale = 1.0 if number < shape.draft_layers else shape.echo
        for linear in (layer.attention.query_key_value, layer.mlp.dense_h_to_4h):
            fill(linear.weight, linear.in_features**-0.5)
        for linear in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            fill(linear.weight, scale * linear.in_features**-0.5)
    # the last norm makes hidden states of unit size
    fill(target.get_output_embeddings().weight, shape.spread * shape.hidden**-0.5)
