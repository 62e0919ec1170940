"""What an optimizer remembers of a parameter when its rows and columns are chosen anew."""

from typing import Any

import torch
from torch import Tensor, nn

#: state of torch.optim with an entry per entry of the parameter, and its degree in the gradient: where a gradient
#: halves, it is worth 1/2^degree of what it was
DEGREES = {
    "momentum_buffer": 1,  # SGD
    **{"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "exp_inf": 1},  # Adam and its kin
    **{"square_avg": 2, "grad_avg": 1, "acc_delta": 0, "sum": 2},  # RMSprop, Adadelta, Adagrad
}

#: running means of squared gradients
MEAN_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg")


def moments_of(optimizer: torch.optim.Optimizer | None, parameter: nn.Parameter, name: str) -> dict[str, int]:
    """The names of the state of a parameter that follows its rows and columns, with their degrees.

    Raises:
        ValueError: for state of which nobody knows how it follows.
    """
    if optimizer is None or parameter not in optimizer.state:
        return {}
    state: dict[str, Any] = optimizer.state[parameter]
    found = {}
    for key, value in state.items():
        if key in DEGREES and isinstance(value, Tensor) and value.shape == parameter.shape:
            # RMSprop divides by the root of square_avg before it averages, so that halves cancel
            found[key] = 0 if key == "momentum_buffer" and "square_avg" in state else DEGREES[key]
        elif not (value is None or isinstance(value, bool | int | float) or _is_one_number(value)):
            what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{type(optimizer).__name__} keeps {key!r} ({what}) of {name!r} {tuple(parameter.shape)}, and how that "
                f"follows a growing layer is not known; known are {', '.join(DEGREES)}. Grow with an optimizer of "
                "torch.optim, or without one and make it anew"
            )
    return found


def _is_one_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def hand_over(
    optimizer: torch.optim.Optimizer | None, old: nn.Parameter, new: nn.Parameter, moments: dict[str, Tensor]
) -> None:
    """Put ``new`` in the place of ``old``, with its state but for ``moments``, which are given."""
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old in optimizer.state:
        optimizer.state[new] = {**optimizer.state.pop(old), **moments}
