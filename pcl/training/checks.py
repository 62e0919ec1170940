"""Refusing bad batches, losses, gradients and weights before they change anything."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pcl.finite import all_finite, finite_on_cpu
from pcl.streams.stream import Stream


def check_batch(
    stream: Stream, batch: object, shape: torch.Size | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The batch, if it is one: x ``(B, ...)`` floating, finite and like earlier batches; y ``(B,)`` within classes.

    Values on the CPU are looked at now. Looking at those on a GPU would wait for it: in their place comes a flag.

    Args:
        stream: where the batch comes from.
        batch: what its source gave.
        shape: that of earlier samples of the run, or None.
        dtype: what the backbone computes in.

    Returns:
        x, y, and ``(2,)`` bool on their device: a label is outside the classes, x is not finite; None on the CPU.

    Raises:
        TypeError: if the batch is not a pair of tensors, or has another dtype.
        ValueError: for a wrong shape, a label outside the stream's classes, or a value that is not finite.
    """
    name = f"stream {stream.task!r}"
    x, y = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (None, None)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise TypeError(f"{name}: expected batches (x, y) of two tensors, got {type(batch).__name__}")
    if x.dtype != dtype:
        raise TypeError(
            f"{name}: expected x of {dtype}, as the backbone has it, got {x.dtype}; convert it in the stream's source"
        )
    if y.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
        raise TypeError(f"{name}: expected y of an integer dtype, got {y.dtype}")
    of_x = x.shape
    if not of_x or of_x[0] == 0 or y.shape != of_x[:1]:
        raise ValueError(f"{name}: expected x (B, ...) and y (B,) with B >= 1, got {tuple(of_x)} and {tuple(y.shape)}")
    if shape is not None and of_x[1:] != shape:
        raise ValueError(
            f"{name}: expected samples of shape {tuple(shape)} as in earlier batches, got {tuple(of_x[1:])}"
        )
    x, y = x.detach(), y.to(torch.int64)
    if not (x.is_cpu and y.is_cpu):
        foreign = (y[:, None] != stream.class_numbers(y.device)).all(dim=1)
        return x, y, torch.stack([foreign.any().to(x.device), ~all_finite([x]).to(x.device)])
    labels = y.tolist()
    if not stream.class_set.issuperset(labels):
        label = next(label for label in labels if label not in stream.class_set)
        raise ValueError(
            f"{name}: label {label} is outside its declared classes {list(stream.classes)}; declare it "
            "when the stream is made, or remove those samples"
        )
    if not finite_on_cpu([x]):
        raise ValueError(f"{name}: x holds NaN or infinite values; remove or repair those samples")
    return x, y, None


def check_finite(tasks: Sequence[str], losses: Tensor, gram: Tensor | None) -> None:
    """Refuse losses and gradients that are not finite.

    Args:
        losses: ``(k,)``.
        gram: ``(k, k)``, the Gramian of the gradients; its diagonal shows whose gradient is at fault. Or None.

    Raises:
        FloatingPointError: naming the first task at fault.
    """
    norms = losses if gram is None else gram.diagonal()
    if finite_on_cpu([losses, gram]):
        return
    for what, values in (("loss", losses), ("squared gradient norm", norms)):
        for task, value in zip(tasks, values.tolist(), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{what} of task {task!r} is {value}; nothing was updated. Lower the learning rate, or check "
                    "this task's data and the backbone for values out of range"
                )
    raise FloatingPointError(
        f"the products of the gradients of tasks {', '.join(tasks)} are not finite; nothing was updated. Lower the "
        "learning rate, or check the backbone for values out of range"
    )


def check_weight_shape(weights: Tensor, tasks: Sequence[str]) -> None:
    """Refuse what is not one weight per task.

    Raises:
        ValueError: for another shape than ``(k,)``.
    """
    if weights.shape != (len(tasks),):
        raise ValueError(
            f"weighting: expected {len(tasks)} weights of shape ({len(tasks)},), got {tuple(weights.shape)}"
        )


def check_update(weights: Tensor, tasks: Sequence[str], gradients: Sequence[Tensor | None]) -> None:
    """Refuse weights, and an update, that are not finite.

    Raises:
        FloatingPointError: saying which it is.
    """
    if not finite_on_cpu([weights]):
        raise FloatingPointError(
            f"weighting: expected finite weights, got {dict(zip(tasks, weights.tolist(), strict=True))}; "
            "nothing was updated"
        )
    if not finite_on_cpu(gradients):
        raise FloatingPointError(
            f"the combined gradient of tasks {', '.join(tasks)} holds NaN or infinite values, or its norm is out of "
            "range; nothing was updated. Lower the learning rate, or check the backbone for values out of range"
        )


def refuse_silence(streams: Iterable[Stream], step: int) -> None:
    """Refuse to go on if streams are left and none of them is active.

    Raises:
        RuntimeError: saying why none is.
    """
    left = [stream for stream in streams if not stream.ended]
    paused = [stream.task for stream in left if stream.paused]
    if len(paused) == len(left) and paused:
        raise RuntimeError(f"fit: every stream that is left is paused ({', '.join(paused)}); resume one")
    if left:
        start = min(stream.start for stream in left if not stream.paused)
        raise RuntimeError(
            f"fit: a gap in the timeline: no stream is active at step {step}, the next starts at {start}; let it "
            "start earlier"
        )
