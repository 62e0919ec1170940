"""A pre-norm residual stack of sequence mixers of any kind."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_EPS = 1e-5  # of the published models


class ResidualStack(nn.Module):
    """x <- x + mixer(norm(x)) for every mixer, then a last norm; the norms are RMSNorm.

    A mixer is a module with ``forward(x, state=None, return_state=False)`` from x ``(B, L, width)`` to y of the same
    shape, or ``(y, state)``: the state, anything made of tensors, is what it remembers of the steps before, and a
    forward pass that is given one goes on from there. For :meth:`step` it also has ``step(x, state)`` and
    ``initial_state(batch)``.

    Names are those of the published models: ``layers.{i}.norm``, ``layers.{i}.mixer``, ``norm_f``.

    Args:
        mixers: in the order in which they run.
        width: of x.
    """

    def __init__(self, mixers: Sequence[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(mixer, width) for mixer in mixers)
        self.norm_f = nn.RMSNorm(width, eps=_EPS)

    def forward(self, x: Tensor, state: Sequence[Any] | None = None, return_state: bool = False) -> Any:
        """y ``(B, L, width)``, and with ``return_state`` the mixers' states behind the last step.

        Raises:
            ValueError: for a state that is not one of as many mixers.
        """
        states = [None] * len(self.layers) if state is None else self._checked(state)
        after = []
        x = widened(x)
        for layer, before in zip(self.layers, states, strict=True):
            x, found = layer(x, before, return_state)
            after.append(found)
        y = _normed(self.norm_f, x)
        return (y, after) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: Sequence[Any]) -> Tensor:
        """One step: y ``(B, width)`` of x ``(B, width)``; the states are updated in place.

        Raises:
            ValueError: for a state that is not one of as many mixers.
        """
        x = widened(x)
        for layer, before in zip(self.layers, self._checked(state), strict=True):
            x = x + layer.mixer.step(_normed(layer.norm, x), before)  # type: ignore[operator, union-attr, arg-type]
        return _normed(self.norm_f, x)

    def initial_state(self, batch: int) -> list[Any]:
        """The mixers' states before the first step."""
        return [layer.mixer.initial_state(batch) for layer in self.layers]  # type: ignore[operator, union-attr]

    def _checked(self, state: Sequence[Any]) -> Sequence[Any]:
        if len(state) != len(self.layers):
            raise ValueError(
                f"state: expected one entry for each of {len(self.layers)} mixers, got {len(state)}; pass what a "
                "forward pass of this stack returned"
            )
        return state


class _Layer(nn.Module):
    def __init__(self, mixer: nn.Module, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=_EPS)
        self.mixer = mixer

    def forward(self, x: Tensor, state: Any, return_state: bool) -> tuple[Tensor, Any]:
        found = self.mixer(_normed(self.norm, x), state, return_state=return_state)
        y, after = found if return_state else (found, None)
        return x + y, after


def widened(x: Tensor) -> Tensor:
    """x, in float32 where it has less precision: sums over all layers, or over a vocabulary, need more."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _normed(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    y: Tensor = norm(x.to(norm.weight.dtype))
    return y
