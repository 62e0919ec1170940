"""What a module consists of, found in every step anew.

Modules are replaced, frozen and released at any time, so that nothing can be kept from one step to the next. PyTorch's
own walks make names on their way, which in a step of a small model takes longer than some of its layers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_torch


def walk(root: nn.Module) -> Iterator[nn.Module]:
    """``root.modules()``, in their order, as far as one looks."""
    found: set[nn.Module] = set()
    left: list[nn.Module | None] = [root]
    while left:
        module = left.pop()
        if module is not None and module not in found:
            found.add(module)
            yield module
            if module._modules:
                left += reversed(module._modules.values())


def modules(root: nn.Module) -> list[nn.Module]:
    """All of them."""
    return list(walk(root))


def parameters(root: nn.Module) -> list[nn.Parameter]:
    """Those of ``root.parameters()``, in their order."""
    return list({id(p): p for m in modules(root) for p in m._parameters.values() if p is not None}.values())


def trainable(root: nn.Module) -> list[nn.Parameter]:
    """Those of them that are not frozen."""
    return [p for p in parameters(root) if p.requires_grad]


def buffers(root: nn.Module) -> list[Tensor]:
    """Those of ``root.buffers()``, in their order."""
    return list({id(b): b for m in modules(root) for b in m._buffers.values() if b is not None}.values())


def like(root: nn.Module) -> Tensor:
    """The first parameter, whose dtype and device new tensors take; an empty tensor where there is none."""
    first = next((p for m in walk(root) for p in m._parameters.values() if p is not None), None)
    return torch.empty(0) if first is None else first


def any_trainable(root: nn.Module) -> bool:
    """Whether a parameter is not frozen."""
    return any(p is not None and p.requires_grad for m in walk(root) for p in m._parameters.values())


def weight_and_bias(layer: nn.Linear) -> tuple[nn.Parameter, nn.Parameter | None]:
    """``layer.weight`` and ``layer.bias`` of a layer that is plain, by a shorter way."""
    own = layer._parameters
    return own["weight"], own["bias"]  # type: ignore[return-value]


def is_plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether a module is of this very type, and nobody listens to it or has put another ``forward`` in its place. Who
    listens to every module is not looked for; see :func:`all_are_heard`."""
    if type(module) is not kind:
        return False
    own = vars(module)
    if "forward" in own or own["_forward_hooks"] or own["_forward_pre_hooks"]:
        return False
    return not (own["_backward_hooks"] or own["_backward_pre_hooks"])


def all_are_heard() -> bool:
    """Whether somebody listens to every module."""
    return bool(
        of_torch._global_forward_hooks
        or of_torch._global_forward_pre_hooks
        or of_torch._global_backward_hooks
        or of_torch._global_backward_pre_hooks
    )
