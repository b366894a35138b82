"""What people wrap around a causal LM, and the mode it is in while it writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from solvers.errors import InputError

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def plain_model(model: Any, name: str) -> Any:
    """Return the Hugging Face causal LM inside torch.compile's wrapper and PEFT's, adapters in place.

    Parameters
    ----------
    model
        A causal LM or a wrapper.
    name
        "draft" or "target", for messages.

    Raises
    ------
    InputError
        Something else, or a prompt that was learned, which stands in no token.
    """
    expected = f"{name} model: expected a Hugging Face causal LM"
    if isinstance(model, _PARALLEL):
        raise InputError(f"{expected}; got it inside {type(model).__name__}; give its .module")
    if isinstance(model, str):
        raise InputError(f"{expected}; got the text {model!r}; load it with AutoModelForCausalLM.from_pretrained")
    if isinstance(model, type):
        raise InputError(f"{expected}; got the class {model.__name__}; give an instance")
    if hasattr(model, "_orig_mod"):  # torch.compile's wrapper; compiled=True compiles the steps of this loop instead
        return plain_model(model._orig_mod, name)
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
            raise InputError(
                f"{expected}, whose text is its tokens; got {type(model).__name__} with a learned prompt; "
                "use adapters in the layers, such as LoRA"
            )
        return plain_model(model.get_base_model(), name)
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise InputError(f"{expected}; got {type(model).__name__}; load one with AutoModelForCausalLM.from_pretrained")
    return model


def execution_device(model: Any) -> torch.device:
    """Device a model computes on; where all its layers are offloaded, the one they are brought to."""
    if model.device.type == "meta":
        for module in model.modules():
            hook = getattr(module, "_hf_hook", None)  # accelerate's, one or several in a row
            for each in getattr(hook, "hooks", (hook,)):
                device = getattr(each, "execution_device", None)
                if device is not None:
                    return torch.device(device)
    return model.device


def check_weights(model: Any, name: str) -> None:
    """Check that a model has weights, here or offloaded.

    Raises
    ------
    InputError
        Weights that are nowhere.
    """
    if execution_device(model).type == "meta":
        raise InputError(
            f"{name} model: expected weights, or offloaded ones; got the meta device, which holds none; "
            "load the model with from_pretrained"
        )


@contextmanager
def evaluating(**models: Any) -> Iterator[None]:
    """Hold models in evaluation mode: checkpointing of gradients, which training mode may bring, drops the cache.

    Parameters
    ----------
    models
        By the name that messages give them.

    Raises
    ------
    InputError
        Training mode that changes the laws: dropout, or noise in a router. `generate` would draw other weights at
        every token; no rule keeps the law of that.
    """
    training = [module for model in models.values() for module in model.modules() if module.training]
    for name, model in models.items():
        for place, module in model.named_modules():
            if module.training and (said := _noise(module)) is not None:
                raise InputError(
                    f"{name} model: expected evaluation mode; got training mode with {said} in {place or 'the model'}; "
                    "call its eval()"
                )
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _noise(module: nn.Module) -> str | None:
    """What makes a module's outputs random in training mode."""
    kept = {"p": module.p} if isinstance(module, nn.modules.dropout._DropoutNd) else vars(module)
    for name, value in kept.items():
        noisy = name == "p" or "drop" in name or "jitter" in name
        if noisy and isinstance(value, float) and value > 0:
            return f"{'dropout' if name == 'p' else name} {value}"
    return None
