"""Samples of a batch come to rows of a memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcl.devices import to_device


class Placement:
    """Which samples of a batch come to which rows, of every column of a memory alike.

    On the CPU numpy moves them, which takes half the time of torch's operators for a few rows, and less for many.

    Args:
        sample_at: by row, the sample that comes there.
    """

    def __init__(self, sample_at: Mapping[int, int]) -> None:
        count = len(sample_at)
        self._rows = np.fromiter(sample_at.keys(), np.int64, count)
        self._samples = np.fromiter(sample_at.values(), np.int64, count)
        self._there: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def put(self, column: Tensor, values: Tensor) -> None:
        """Samples of a batch ``(B, ...)`` into a column ``(n, ...)`` of the same dtype, perhaps on another device."""
        if column.is_cpu and values.is_cpu and column.dtype == values.dtype:
            _array(column)[self._rows] = _array(values)[self._samples]
        else:
            found = values.index_select(0, self._on(values.device)[1])
            column.index_copy_(0, self._on(column.device)[0], to_device(found, column.device))

    def fill(self, column: Tensor, value: int) -> None:
        """The same value for all of them."""
        if column.is_cpu:
            _array(column)[self._rows] = value
        else:
            column.index_fill_(0, self._on(column.device)[0], value)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._there:
            rows, samples = (to_device(torch.from_numpy(part), device) for part in (self._rows, self._samples))
            self._there[device] = rows, samples
        return self._there[device]


def _array(column: Tensor) -> NDArray[Any]:
    """The tensor for numpy, which knows no bfloat16."""
    return (column.view(torch.int16) if column.dtype == torch.bfloat16 else column).numpy(force=True)
