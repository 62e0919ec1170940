"""From a stream to batches on the model's device."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcl.devices import to_device
from pcl.streams.stream import Batch, Stream
from pcl.training.checks import check_batch


def read_batches(
    stream: Stream, count: int, shape: torch.Size | None, dtype: torch.dtype, device: torch.device
) -> tuple[list[Batch], Tensor | None]:
    """The next batches of a stream, at most ``count``, checked and moved; they stay next in the stream.

    Args:
        shape: of a sample in earlier batches, or None.

    Returns:
        The batches, none if the stream is dry; and flags ``(2,)`` of what could not be looked at, or None.

    Raises:
        TypeError, ValueError: see :func:`pcl.training.checks.check_batch`.
    """
    batches: list[Batch] = []
    faults: list[Tensor] = []
    for given in stream.upcoming(count):
        x, y, fault = check_batch(stream, given, shape, dtype)
        batches.append((to_device(x, device), to_device(y, device)))
        shape = x.shape[1:]
        if fault is not None:
            faults.append(to_device(fault, device))
    return batches, torch.stack(faults).any(dim=0) if faults else None


def fault_table(faults: Mapping[str, Tensor | None], tasks: Sequence[str]) -> Tensor | None:
    """``(2, k)`` bool from the flags by task, False where there are none; None if there are none at all."""
    some = next((fault for fault in faults.values() if fault is not None), None)
    if some is None:
        return None
    known = (faults.get(task) for task in tasks)
    return torch.stack([torch.zeros_like(some) if fault is None else fault for fault in known], dim=1)
