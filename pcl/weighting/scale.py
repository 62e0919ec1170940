"""The length of a step, where a method's paper leaves it to the gradients."""

from typing import Literal, get_args

from torch import Tensor

Scale = Literal["paper", "unit"]
"""Weights as the paper has them, or divided by their sum."""


def checked_scale(scale: Scale, owner: str) -> Scale:
    """The scale, for the constructor of the weighting called ``owner``.

    Raises:
        ValueError: for an unknown one.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"{owner} scale: expected 'paper' or 'unit', got {scale!r}")
    return scale


def scaled(weights: Tensor, scale: Scale) -> Tensor:
    """The weights at that scale."""
    return weights / weights.sum() if scale == "unit" else weights
