"""Checks that the Firefly ops share. Each error names argument, expected, received, and the way out."""

from __future__ import annotations

from torch import Tensor

from pcl_kernels._gradients import DTYPES

#: the kernels' numbering of activations (csrc/firefly.hpp)
ACTIVATIONS = {"identity": 0, "relu": 1, "gelu": 2, "silu": 3, "tanh": 4, "sigmoid": 5, "gaussian": 6}


def check_activation(op: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def check_tensor(op: str, name: str, value: Tensor, like: Tensor | None = None) -> None:
    """A tensor of a known dtype; that of `like`, and on its device, where there is one."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name}: expected a tensor, got {type(value).__name__}")
    if value.dtype not in DTYPES or (like is not None and value.dtype != like.dtype):
        expected = "one of " + ", ".join(map(str, DTYPES)) if like is None else str(like.dtype)
        raise TypeError(f"{op}: {name}: expected {expected}, got {value.dtype}. Convert it")
    if like is not None and value.device != like.device:
        raise ValueError(f"{op}: {name}: expected device {like.device}, got {value.device}. Move one")


def check_pair(op: str, name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    """A tensor of the shape, dtype and device of `like`."""
    check_tensor(op, name, value, like)
    if value.shape != like.shape:
        raise ValueError(f"{op}: {name} must have {like_name}'s shape {tuple(like.shape)}, got {tuple(value.shape)}")


def check_channels(op: str, channels: int, like: Tensor, **vectors: Tensor | None) -> None:
    """One number for every channel, of any floating dtype, on the device of `like`; all but epsilon may be None."""
    for name, value in vectors.items():
        if value is None:
            if name == "epsilon":
                raise TypeError(f"{op}: epsilon: expected a tensor, got None")
            continue
        check_tensor(op, name, value)
        if tuple(value.shape) != (channels,):
            raise ValueError(
                f"{op}: {name}: expected shape ({channels},), one number for every neuron, got {tuple(value.shape)}"
            )
        if value.device != like.device:
            raise ValueError(f"{op}: {name}: expected device {like.device}, got {value.device}. Move one")
