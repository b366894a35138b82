"""A watch on a CPU for what would make the host wait for an accelerator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "bincount"}
# a CPU's tensor is read in place, which no operation shows
METHODS = {"tolist", "numpy"}


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        parts = args[1] if name.startswith(("index", "_index")) and isinstance(args[1], list | tuple) else []
        masked = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in parts)
        if masked or name in OPERATIONS:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in METHODS:
            raise AssertionError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_sync() -> Iterator[None]:
    """Fail on operations whose result the host must read: values, and shapes that depend on values."""
    with _Methods(), _Operations():
        yield
