"""The state of a sequence model between the batches of a stream: truncated backpropagation through time."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

State = Any
"""A tensor, None, or lists and tuples of states."""


class Stateful(Protocol):
    """A backbone whose state can be carried from one window of a sequence to the next."""

    def __call__(self, x: Tensor, state: State = None, return_state: bool = False) -> Any:
        """Features ``(B, features)`` of the windows x ``(B, L, ...)``, and with ``return_state`` the state behind them.
        With None for ``state`` they begin with an empty one."""
        ...

    def initial_state(self, batch: int) -> State:
        """The empty state of ``batch`` sequences."""
        ...


class Window(NamedTuple):
    """The next batch of a stream, x ``(rows, L, ...)``: row r goes on where row r of the batch before ended."""

    x: Tensor
    task: str


class CarriedState(nn.Module):
    """What one stream carries from batch to batch, detached. Being buffers, its tensors are part of checkpoints, follow
    the model to its device, and are put back when a step fails.

    Args:
        backbone: whose state it is.
        rows: sequences that the stream's batches continue.
    """

    def __init__(self, backbone: Stateful, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self._like = backbone.initial_state(rows)
        for i, tensor in enumerate(_tensors(self._like)):
            self.register_buffer(f"part_{i}", tensor.detach().clone())

    def restart(self) -> None:
        """Be empty again."""
        for buffer, empty in zip(self.buffers(), _tensors(self._like), strict=True):
            buffer.copy_(empty)

    def run(self, backbone: Stateful, x: Tensor) -> Tensor:
        """Features ``(rows, features)`` of the stream's next windows; in training mode the state moves on behind them.

        Raises:
            ValueError: for another number of rows.
        """
        if len(x) != self.rows:
            raise ValueError(
                f"carried state: expected windows of {self.rows} parallel sequences, got {len(x)}; give all batches of "
                "a stream that many rows, or make the model with another `carry`"
            )
        # Copies, because the buffers change before the backward pass asks for what the forward pass read.
        before = _rebuild(self._like, iter([buffer.clone() for buffer in self.buffers()]))
        features, after = backbone(x, before, return_state=True)
        if self.training:
            with torch.no_grad():
                for buffer, tensor in zip(self.buffers(), _tensors(after), strict=True):
                    buffer.copy_(tensor)
        return features  # type: ignore[no-any-return]


def _tensors(state: State) -> Iterator[Tensor]:
    """All tensors of a state, in a fixed order."""
    if isinstance(state, Tensor):
        yield state
    elif state is not None:  # of a part that remembers nothing
        for part in state:
            yield from _tensors(part)


def _rebuild(like: State, tensors: Iterator[Tensor]) -> State:
    """A state of the same form, of other tensors."""
    if isinstance(like, Tensor):
        return next(tensors)
    if like is None:
        return None
    parts = [_rebuild(part, tensors) for part in like]
    if hasattr(like, "_fields"):  # a named tuple
        return type(like)(*parts)
    return type(like)(parts)
