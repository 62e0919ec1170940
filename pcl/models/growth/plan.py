"""What a network gains in one growth: the words shared by choosing neurons and by rebuilding the network."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor | None]  # weight rows (k, ...) and, for layers with a bias, its entries (k,)


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass
class GroupGrowth:
    """What one group of m neurons gains. Old neurons are counted 0 .. m - 1.

    The neurons of the grown group, in order: the old m in place (a split one holds its plus half), then the minus
    halves in the order of ``split``, then the copies in the order of ``copied``, then the new ones.

    Rows are given per layer that makes the neurons (producers and depthwise layers), by the name of the layer, and in
    full, over the *old* inputs of the layer: shape ``(k, *weight.shape[1:])``. Where the group below grows too, its own
    growth says how their columns follow. A layer that is not named keeps the neuron's old row in every half and copy;
    new rows have no old one, so ``rows_new`` names every producer and depthwise layer.

    Outgoing columns follow by rule: both halves of a split have half of the old column, a copy has the same column as
    the old neuron, a new neuron has ``columns_new``. They hold for the old rows of a reader and for what comes of these
    rows when the reader's own group grows (halves and copies); new rows of the reader do not read new neurons.

    Args:
        split: ``(k,)`` int64, neurons that become two halves.
        copied: ``(c,)`` int64, neurons that stay and get one copy.
        new: number of new neurons.
        rows_plus, rows_minus: rows of the two halves, ``(k, ...)``.
        rows_copied: rows of the copies, ``(c, ...)``.
        rows_new: rows of the new neurons, ``(new, ...)``.
        columns_new: by reader, ``(its old outputs, new * repeat, ...)``: what the reader's old rows read of the new
            neurons; their scale is contained.
        norms_new: by BatchNorm or LayerNorm layer, entries of the new neurons: ``weight``, ``bias``,
            ``running_mean``, ``running_var``, each ``(new,)``, as far as the layer has them. Halves and copies have
            those of the old neuron.
    """

    split: Tensor = field(default_factory=_none)
    copied: Tensor = field(default_factory=_none)
    new: int = 0
    rows_plus: dict[str, Rows] = field(default_factory=dict)
    rows_minus: dict[str, Rows] = field(default_factory=dict)
    rows_copied: dict[str, Rows] = field(default_factory=dict)
    rows_new: dict[str, Rows] = field(default_factory=dict)
    columns_new: dict[str, Tensor] = field(default_factory=dict)
    norms_new: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def gained(self) -> int:
        """How many neurons the group gains."""
        return len(self.split) + len(self.copied) + self.new
