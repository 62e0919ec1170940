"""What a Longhorn model remembers of the steps before."""

from typing import Any

from torch import Tensor

LonghornState = tuple[Tensor, Tensor]
"""Of one block: the inputs ``(B, conv - 1, inner)`` that the convolution still needs, and S ``(B, inner, states)``."""


def detach_state(state: Any) -> Any:
    """The state, of a block or of a whole model, without the graph that led to it.

    For truncated backpropagation through time: a stream that never ends goes on from the state, and gradients stop at
    the border of the batch. Tensors in lists, tuples and dicts are found.
    """
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {key: detach_state(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        parts = [detach_state(value) for value in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state
