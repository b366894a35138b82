"""The target's own first layers as a draft model."""

import copy
from itertools import chain
from typing import Any

from torch import nn

from decoding.models.architecture import text_body
from solvers.errors import InputError


def early_exit(target: Any, layers: int) -> Any:
    """Return a causal LM of the target's first `layers` layers, with the target's own embeddings, final norm and head.

    A target logits(x) = head(norm(f_n(... f_1(embed(x))))) becomes head(norm(f_m(... f_1(embed(x))))), m = `layers`.
    All parameters and buffers are the target's own: no memory for weights, and what changes in one changes in the
    other. The target itself is left as it is.

    Parameters
    ----------
    target
        A Hugging Face causal LM whose layers form one `ModuleList`.
    layers
        m, 1 to the target's number of layers.

    Raises
    ------
    InputError
        `layers` out of range, an encoder-decoder, or a model whose list of layers cannot be told.

    References
    ----------
    Elhoushi et al., LayerSkip, 2024, arXiv:2404.16710 (there the target is trained for it)
    """
    if target.config.is_encoder_decoder:
        raise InputError(
            f"early exit: expected a decoder-only model; got {type(target).__name__}; draft with another model"
        )
    depth = target.config.get_text_config().num_hidden_layers
    if not 1 <= layers <= depth:
        raise InputError(f"early exit: expected layers from 1 to {depth}, the target's number; got {layers}")
    name = _name_of_layers(target, depth)
    # deepcopy takes what it finds in the memo as copied already: new modules around the same tensors
    shared = {id(tensor): tensor for tensor in chain(target.parameters(), target.buffers())}
    draft = copy.deepcopy(target, shared)
    draft.set_submodule(name, draft.get_submodule(name)[:layers])
    config = draft.config.get_text_config()
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:layers]
    return draft


def _name_of_layers(target: nn.Module, depth: int) -> str:
    """Dotted name of the text body's one outermost list of `depth` modules; a mixture's experts lie inside it."""
    lists = [each for each in text_body(target).modules() if isinstance(each, nn.ModuleList) and len(each) == depth]
    names = [name for name, module in target.named_modules() if any(module is each for each in lists)]
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if len(outermost) != 1:
        raise InputError(
            f"early exit: expected one list of {depth} layers in {type(target).__name__}; got {outermost or 'none'}; "
            "draft with another model"
        )
    return outermost[0]
