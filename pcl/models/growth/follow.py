"""How the entries of tensors follow when the neurons of a group are chosen anew.

Indices are those of :func:`pcl_kernels.firefly_apply`: from 0 on entries of the old tensor, then those of extra rows or
columns that a plan brings; -1 stands for zeros.
"""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from pcl.models.growth.graph import Group
from pcl.models.growth.plan import GroupGrowth


def chosen(group: Group, keep: Tensor, device: torch.device) -> "Follow":
    """Some of the neurons, int64 ``(k,)`` or bool ``(m,)``, and no others.

    Raises:
        ValueError: for another shape or dtype, or indices out of range or twice.
    """
    if keep.dtype == torch.bool:
        _check(f"{group.name!r}: keep", keep, (group.width,), torch.bool, keep.device)
        keep = keep.nonzero()[:, 0]
    _check_neurons(group, "keep", keep)
    return Follow(group, keep.to(device), GroupGrowth())


def grown(group: Group, growth: GroupGrowth, device: torch.device) -> "Follow":
    """All of the neurons and what they gain, in the order that :class:`GroupGrowth` says.

    Raises:
        ValueError: for neurons out of range, twice, or split and copied; for layers that are not the group's, or that
            new neurons lack.
    """
    for name, neurons in (("split", growth.split), ("copied", growth.copied)):
        _check_neurons(group, name, neurons)
    both = torch.isin(growth.split, growth.copied)
    if both.any():
        raise ValueError(f"{group.name!r}: neurons {growth.split[both].tolist()} are split and copied; choose one")
    if growth.new < 0:
        raise ValueError(f"{group.name!r}: new: expected at least 0, got {growth.new}")
    _check_names(group, growth)
    every = torch.arange(group.width, device=device)
    new = every.new_full((growth.new,), -1)
    return Follow(group, torch.cat([every, growth.split.to(device), growth.copied.to(device), new]), growth)


class Follow:
    """The neurons of a group after a change.

    Args:
        group: the group.
        old: ``(m',)`` int64, which old neuron each comes from, -1 for a new one.
        growth: what it gains; empty where neurons are only left out.
    """

    def __init__(self, group: Group, old: Tensor, growth: GroupGrowth) -> None:
        self.group, self.old, self.growth = group, old, growth
        sizes = [group.width, len(growth.split), len(growth.copied), growth.new]
        ends = list(itertools.accumulate(sizes))
        minus, copies, self.fresh = (torch.arange(a, b, device=old.device) for a, b in itertools.pairwise(ends))
        split = growth.split.to(old.device)
        self.halves = torch.ones(len(old), dtype=torch.float64, device=old.device)
        self.halves[split] = self.halves[minus] = 0.5
        # where the plan's rows go
        self.parts = {
            "rows_plus": (growth.rows_plus, split),
            "rows_minus": (growth.rows_minus, minus),
            "rows_copied": (growth.rows_copied, copies),
            "rows_new": (growth.rows_new, self.fresh),
        }

    def check_width(self, layer: str, what: str, found: int, repeat: int = 1) -> None:
        """Raises ValueError for a layer that has another width than the group."""
        if found != self.group.width * repeat:
            times = f" with {repeat} each" if repeat > 1 else ""
            raise ValueError(
                f"{self.group.name!r} has {self.group.width} neurons{times}, but {layer!r} {found} {what}: the groups "
                "are not those of this network as it is now"
            )

    def rows_of(self, layer: str, tensor: Tensor, bias: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(indices, extra rows, old neuron of each extra row) for the weight or bias of a layer that makes neurons."""
        index = self.old.clone()
        extra: list[Tensor] = []
        parents: list[Tensor] = []
        for part, (rows, places) in self.parts.items():
            if layer not in rows or not len(places):
                continue
            given = rows[layer][1 if bias else 0]
            where = f"{self.group.name!r}: {part} of {layer!r}" + (", bias" if bias else "")
            if given is None:
                raise ValueError(f"{where}: expected {len(places)} entries, as the layer has a bias; got None")
            _check(where, given, (len(places), *tensor.shape[1:]), tensor.dtype, tensor.device)
            first = len(tensor) + sum(len(rows) for rows in extra)
            index[places] = first + torch.arange(len(places), device=index.device)
            parents.append(self.old[places])
            extra.append(given)
        return (index, torch.cat(extra), torch.cat(parents)) if extra else (index, None, None)

    def entries_of(self, layer: str, key: str, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        """(indices, extra entries) of a normalisation."""
        if not self.growth.new:
            return self.old, None
        where = f"{self.group.name!r}: norms_new of {layer!r}, {key}"
        given = self.growth.norms_new.get(layer, {}).get(key)
        if given is None:
            raise ValueError(f"{where}: expected {self.growth.new} entries for the new neurons, got None")
        _check(where, given, (self.growth.new,), tensor.dtype, tensor.device)
        return self._with_new(), given

    def shares(self) -> tuple[Tensor, Tensor]:
        """(indices, scale) of the shares that channels have in a WeightedLayerNorm."""
        index = self.old.clone()
        index[self.group.width + len(self.growth.split) :] = -1  # none for copies either: their originals stay
        return index, self.halves

    def columns(self, repeat: int) -> tuple[Tensor, Tensor | None]:
        """(indices, scale) of a reader's columns."""
        scale = self.halves.repeat_interleave(repeat) if len(self.growth.split) else None
        return _repeated(self._with_new(), repeat), scale

    def columns_of(self, layer: str, tensor: Tensor, repeat: int) -> Tensor | None:
        """Extra columns of a reader."""
        if not self.growth.new:
            return None
        given = self.growth.columns_new[layer]
        shape = (len(tensor), self.growth.new * repeat, *tensor.shape[2:])
        _check(f"{self.group.name!r}: columns_new of {layer!r}", given, shape, tensor.dtype, tensor.device)
        return given

    def old_columns(self, repeat: int) -> Tensor:
        """Indices for what an optimizer remembers of a reader's columns, which all see the gradient of the old ones."""
        return _repeated(self.old, repeat)

    def part_of_moment(self, degree: int) -> Tensor | None:
        """``(m',)``, of what an optimizer remembers of incoming weights: a half of a split sees half the gradient."""
        return self.halves**degree if len(self.growth.split) and degree else None

    def _with_new(self) -> Tensor:
        """Indices where new neurons are extra entries behind the old ones."""
        index = self.old.clone()
        index[self.fresh] = self.group.width + torch.arange(self.growth.new, device=index.device)
        return index


def _check_names(group: Group, growth: GroupGrowth) -> None:
    """The plan speaks of this group's layers alone, and leaves none out that new neurons need."""
    readers = [reader.layer for reader in group.readers]
    making = [*group.producers, *group.channelwise]
    known = dict.fromkeys(("rows_plus", "rows_minus", "rows_copied", "rows_new"), making)
    known |= {"columns_new": readers, "norms_new": list(group.channelwise)}
    for name, layers in known.items():
        strange = set(getattr(growth, name)) - set(layers)
        if strange:
            raise ValueError(f"{group.name!r}: {name} names {_listed(strange)}; the group has {_listed(layers)}")
    missing = (set(group.producers) - set(growth.rows_new)) | (set(readers) - set(growth.columns_new))
    if growth.new and missing:
        raise ValueError(
            f"{group.name!r} gains {growth.new} new neurons, but rows_new or columns_new lack {_listed(missing)}"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _repeated(index: Tensor, repeat: int) -> Tensor:
    """The columns of neurons that have ``repeat`` each."""
    columns = index[:, None] * repeat + torch.arange(repeat, device=index.device)
    return torch.where(index[:, None] < 0, -1, columns).flatten()


def _check_neurons(group: Group, name: str, neurons: Tensor) -> None:
    good = neurons.dtype == torch.int64 and neurons.dim() == 1
    if good and len(neurons):
        good = bool(neurons.min() >= 0) and bool(neurons.max() < group.width) and len(neurons.unique()) == len(neurons)
    if not good:
        raise ValueError(
            f"{group.name!r}: {name}: expected int64 indices of its {group.width} neurons, each at most once, got "
            f"{neurons.dtype} {neurons.tolist()}"
        )


def _check(where: str, given: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if given.shape != shape or given.dtype != dtype or given.device != device:
        raise ValueError(
            f"{where}: expected {shape} {dtype} on {device}, got {tuple(given.shape)} {given.dtype} on {given.device}"
        )
