"""Refusing bad batches before they change anything."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcl.streams.stream import Stream


def check_batch(stream: Stream, batch: object, like: Tensor | None) -> tuple[Tensor, Tensor]:
    """The batch, if it is one: x ``(B, ...)`` floating, finite and like earlier batches; y ``(B,)`` within classes.

    Args:
        stream: where the batch comes from.
        batch: what its source gave.
        like: an earlier x of the run, or None.

    Raises:
        TypeError: if the batch is not a pair of tensors, or has another dtype.
        ValueError: for a wrong shape, a label outside the stream's classes, or a value that is not finite.
    """
    name = f"stream {stream.task!r}"
    if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        raise TypeError(f"{name}: expected batches (x, y) of two tensors, got {type(batch).__name__}")
    x, y = batch
    if not x.is_floating_point() or (like is not None and x.dtype != like.dtype):
        wanted = "a floating dtype" if like is None else f"{like.dtype}, as in earlier batches"
        raise TypeError(f"{name}: expected x of {wanted}, got {x.dtype}; convert it in the stream's source")
    if y.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise TypeError(f"{name}: expected y of an integer dtype, got {y.dtype}")
    if x.ndim == 0 or len(x) == 0 or y.shape != x.shape[:1]:
        raise ValueError(
            f"{name}: expected x (B, ...) and y (B,) with B >= 1, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if like is not None and x.shape[1:] != like.shape[1:]:
        raise ValueError(
            f"{name}: expected samples of shape {tuple(like.shape[1:])} as in earlier batches, got {tuple(x.shape[1:])}"
        )
    declared = torch.tensor(stream.classes, device=y.device)
    outside = y[(y[:, None] != declared).all(dim=1)]
    if len(outside):
        raise ValueError(
            f"{name}: label {int(outside[0])} is outside its declared classes {list(stream.classes)}; declare it "
            "when the stream is made, or remove those samples"
        )
    if not torch.isfinite(x).all():
        raise ValueError(f"{name}: x holds NaN or infinite values; remove or repair those samples")
    return x, y.to(torch.int64)


def check_finite(tasks: Sequence[str], losses: Tensor, gram: Tensor) -> None:
    """Refuse losses and gradients that are not finite.

    Args:
        losses: ``(k,)``.
        gram: ``(k, k)``, the Gramian of the gradients; its diagonal shows whose gradient is at fault.

    Raises:
        FloatingPointError: naming the first task at fault.
    """
    if torch.isfinite(losses).all() and torch.isfinite(gram).all():
        return
    for what, values in (("loss", losses), ("squared gradient norm", gram.diagonal())):
        for task, value in zip(tasks, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{what} of task {task!r} is {value}; nothing was updated. Lower the learning rate, or check "
                    "this task's data and the backbone for values out of range"
                )
