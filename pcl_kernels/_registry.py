"""The one global of the package: the `torch.library` registry of its ops, and who runs what.

What the design asks of dispatch:

* An op is known to torch under `torch.ops.pcl.<name>` with a fake implementation, so that `torch.compile`,
  FakeTensor and functorch see through it.
* A plain eager call on CPU tensors may skip torch's dispatcher, which costs more than most kernels here do.
  `plain` says when that is safe.
* GPU forms are imported when the first CUDA tensor arrives, never before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LIBRARY = torch.library.Library("pcl", "DEF")

#: name of every op -> its backends, for `python -m pcl_kernels.info`
OPS: dict[str, list[str]] = {}

_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_functorch: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
_is_dynamo_compiling: Callable[[], bool] = torch.compiler.is_dynamo_compiling


def define(
    schema: str,
    *,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    cuda: str | None = None,
) -> Any:
    """Register the op `pcl::<schema>` and return it (`torch.ops.pcl.<name>.default`).

    cpu   takes and returns what the schema says, on CPU tensors.
    fake  returns empty tensors of the right shape, dtype and device.
    cuda  "module:function", imported at the first call with CUDA tensors.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, cpu, "CPU")
    torch.library.register_fake(f"pcl::{name}", fake, lib=LIBRARY)
    OPS[name] = ["cpu"]
    if cuda is not None:
        LIBRARY.impl(name, _imported_at_first_call(name, cuda), "CUDA")
        OPS[name].append("cuda")
    return getattr(torch.ops.pcl, name).default


def _imported_at_first_call(name: str, target: str) -> Callable[..., Any]:
    module, function = target.split(":")

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            kernel = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{name} on CUDA tensors needs the package '{error.name}'; install it with "
                f"`pip install {error.name}` or move the tensors to the CPU"
            ) from error
        return kernel(*args, **kwargs)

    return run


def plain(*tensors: Tensor) -> bool:
    """True where calling the compiled CPU function directly gives what the registered op would give.

    That is: ordinary CPU tensors, none of which wants a gradient, and nobody listening in.
    """
    for t in tensors:  # a loop, because a generator costs as much as some kernels here
        if type(t) is not Tensor or not t.is_cpu or t.requires_grad:
            return False
    return unobserved()


def unobserved() -> bool:
    """True where nobody listens in: no compiler, no dispatch mode such as FakeTensorMode, no functorch transform."""
    return untransformed() and not _dispatch_modes()


def untransformed() -> bool:
    """True where a call runs as it stands, seen by a dispatch mode perhaps: no compiler, no functorch transform."""
    return not (_is_dynamo_compiling() or _functorch() is not None)
