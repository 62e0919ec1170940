"""Weights that finished tasks use never change again, entry by entry, whatever the optimizer does.

Every parameter is read through a :class:`Lock`: weight = where(locked, kept, original). A locked entry gets no
gradient, so that tasks conflict on the free entries alone, and momentum or weight decay, which move ``original`` all
the same, do not reach it. Statistics of BatchNorm belong to its channels, see :mod:`pcl.models.growth.resting`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize


class Lock(nn.Module):
    """where(locked, kept, original), as a parametrization of one tensor; nothing is locked in the beginning.

    Args:
        like: the tensor, of any shape.
    """

    locked: Tensor
    kept: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("locked", torch.zeros_like(like, dtype=torch.bool))
        self.register_buffer("kept", like.detach().clone())
        self._any: bool | None = False  # whether anything is locked; None where it has to be looked at

    def forward(self, original: Tensor) -> Tensor:
        if self._any is None:
            self._any = bool(self.locked.any())
        return torch.where(self.locked, self.kept, original) if self._any else original

    def resize(self, shape: Sequence[int]) -> None:
        """Make room for a state of another shape, which is loaded next."""
        self.locked, self.kept = self.locked.new_zeros(shape), self.kept.new_zeros(shape)

    def _load_from_state_dict(self, *state: Any) -> None:
        super()._load_from_state_dict(*state)
        self._any = None

    @torch.no_grad()
    def close(self, entries: Tensor, original: Tensor) -> None:
        """Lock entries, bool of the tensor's shape, at their values in ``original``; those locked before stay."""
        self.kept = torch.where(entries & ~self.locked, original.detach(), self.kept)
        self.locked = self.locked | entries
        self._any = None


def attach(root: nn.Module) -> None:
    """Read every parameter below ``root`` through a lock; what has one keeps it. Parameters keep their identity."""
    for module in list(root.modules()):
        if not isinstance(module, (parametrize.ParametrizationList, Lock)):
            for name, parameter in list(module.named_parameters(recurse=False)):
                parametrize.register_parametrization(module, name, Lock(parameter), unsafe=True)


@torch.no_grad()
def detach(root: nn.Module) -> None:
    """Take all locks away: parameters are plain again, the same objects, and hold what was read through the locks."""
    for module in list(root.modules()):
        read = {name: (_original(module, name), getattr(module, name)) for name in locks_of(module)}
        if read:  # not by remove_parametrizations, which changes the class that copies of the module share
            before = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.__class__ = before
            for name, (original, value) in read.items():
                original.data = value
                module.register_parameter(name, original)


def locks_of(module: nn.Module) -> dict[str, Lock]:
    """The locks of a module's own parameters, by their names."""
    if not parametrize.is_parametrized(module):
        return {}
    lists: Mapping[str, Any] = module.parametrizations  # type: ignore[assignment]
    return {name: found[0] for name, found in lists.items() if isinstance(found[0], Lock)}


def _original(module: nn.Module, name: str) -> nn.Parameter:
    found: nn.Parameter = module.parametrizations[name].original  # type: ignore[index, union-attr]
    return found


def close(module: nn.Module, rows: Tensor | None, columns: Tensor | None) -> None:
    """Lock what a task uses of a layer: weight entries in its rows and columns, and biases and scales of its rows.

    Args:
        rows: ``(m,)`` bool, its outputs; None for all.
        columns: ``(n,)`` bool, its input columns, the second dimension of its weight; None for all.
    """
    for name, lock in locks_of(module).items():
        entries = torch.ones_like(lock.locked)
        if rows is not None:
            entries = entries & rows.view(-1, *[1] * (entries.dim() - 1))
        if columns is not None and entries.dim() > 1:
            entries = entries & columns.view(-1, *[1] * (entries.dim() - 2))
        lock.close(entries, _original(module, name))


def resize(module: nn.Module, rows: int | None, columns: int | None) -> None:
    """Make room in a layer for tensors of other widths, which are loaded next; its parameters keep their identity.

    Args:
        rows: outputs; None for as many as there are.
        columns: the second dimension of its weight; None for as it is.
    """
    for name, lock in locks_of(module).items():
        original = _original(module, name)
        shape = list(original.shape)
        shape[0] = shape[0] if rows is None else rows
        if columns is not None and len(shape) > 1:
            shape[1] = columns
        original.data = original.new_zeros(shape)
        lock.resize(shape)
    if isinstance(module, _BatchNorm):
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.dim() == 1 and rows is not None:
                setattr(module, name, buffer.new_zeros(rows))
    _name_sizes(module)


def _name_sizes(module: nn.Module) -> None:
    """The numbers that a layer says of itself, from the shapes of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        depthwise = module.groups > 1
        module.out_channels = len(module.weight)
        module.groups = module.out_channels if depthwise else 1
        module.in_channels = module.groups * module.weight.shape[1]
    elif isinstance(module, _BatchNorm) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
