"""What a module consists of, found in every step anew.

Modules are replaced, frozen and released at any time, so that nothing can be kept from one step to the next. PyTorch's
own walks make names on their way, which in a step of a small model takes longer than some of its layers.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_torch


def modules(root: nn.Module) -> list[nn.Module]:
    """Those of ``root.modules()``, in their order."""
    found: dict[nn.Module, None] = {}
    _collect(root, found)
    return list(found)


def _collect(module: nn.Module, found: dict[nn.Module, None]) -> None:
    found[module] = None
    for part in module._modules.values():
        if part is not None and part not in found:
            _collect(part, found)


def parameters(root: nn.Module) -> list[nn.Parameter]:
    """Those of ``root.parameters()``, in their order."""
    return list({id(p): p for m in modules(root) for p in m._parameters.values() if p is not None}.values())


def trainable(root: nn.Module) -> list[nn.Parameter]:
    """Those of them that are not frozen."""
    own = [m._parameters for m in modules(root)]
    return list({id(p): p for some in own for p in some.values() if p is not None and p.requires_grad}.values())


def buffers(root: nn.Module) -> list[Tensor]:
    """Those of ``root.buffers()``, in their order."""
    return list({id(b): b for m in modules(root) for b in m._buffers.values() if b is not None}.values())


def first(root: nn.Module, *, trainable: bool = False) -> nn.Parameter | None:
    """The first of :func:`parameters` or of :func:`trainable`, None where there is none."""
    for p in root._parameters.values():
        if p is not None and (p.requires_grad or not trainable):
            return p
    for part in root._modules.values():
        found = None if part is None else first(part, trainable=trainable)
        if found is not None:
            return found
    return None


def like(root: nn.Module) -> Tensor:
    """The first parameter, whose dtype and device new tensors take; an empty tensor where there is none."""
    found = first(root)
    return torch.empty(0) if found is None else found


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
