"""Longhorn as a backbone: from sequences, tokens or images read pixel by pixel to features."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from pcl.models.longhorn.block import longhorn_stack
from pcl.models.longhorn.config import LonghornConfig

Pool = Literal["mean", "last"]


class LonghornBackbone(nn.Module):
    """Features ``(B, width)`` of sequences, for :class:`pcl.ContinualModel` or alone.

    The input decides by its shape:

    - ``(B, L, channels)``: a sequence of vectors.
    - ``(B, channels, H, W)``: an image, read pixel by pixel, row by row; L = H W.
    - ``(B, L)`` of integers: tokens, if the config has a vocabulary. For a loop of one's own: the Trainer's samples are
      floating-point numbers, which edits can change.
    - ``(B, L)`` of floating-point numbers: a sequence of numbers, if channels is 1.

    Args:
        config: width, depth and the rest; with a vocabulary for tokens.
        channels: numbers per step; 0 with a vocabulary.
        pool: ``"mean"`` of all steps, or the ``"last"`` one.

    Raises:
        ValueError: unless exactly one of channels and vocabulary is above 0, or for an unknown pool.
    """

    def __init__(self, config: LonghornConfig, channels: int = 0, pool: Pool = "mean") -> None:
        super().__init__()
        if channels < 0 or (channels > 0) == (config.vocabulary > 0):
            raise ValueError(
                "LonghornBackbone: expected channels > 0, for numbers, or a config with a vocabulary, for tokens; "
                f"got channels={channels} and vocabulary={config.vocabulary}"
            )
        if pool not in get_args(Pool):
            raise ValueError(f"LonghornBackbone pool: expected one of {', '.join(get_args(Pool))}; got {pool!r}")
        self.config, self.channels, self.pool = config, channels, pool
        self.embedding: nn.Module = (
            nn.Linear(channels, config.width) if channels else nn.Embedding(config.vocabulary, config.width)
        )
        self.stack = longhorn_stack(config)

    def forward(self, x: Tensor, state: Sequence[Any] | None = None, return_state: bool = False) -> Any:
        """Features ``(B, width)`` of x, and with ``return_state`` the state behind its last step.

        Args:
            x: see above.
            state: what was read before x, to go on from. Pooling is over x alone.

        Raises:
            ValueError: for x of another shape or kind.
        """
        found = self.steps(x, state, return_state)
        y, state = found if return_state else (found, None)
        features = y.mean(dim=1) if self.pool == "mean" else y[:, -1]
        return (features, state) if return_state else features

    def steps(self, x: Tensor, state: Sequence[Any] | None = None, return_state: bool = False) -> Any:
        """Features ``(B, L, width)`` of every step, each of what was read so far; otherwise as :meth:`forward`."""
        return self.stack(self.embedding(self._sequence(x)), state, return_state)

    def initial_state(self, batch: int) -> list[Any]:
        """The state of ``batch`` sequences before their first step."""
        return self.stack.initial_state(batch)

    def _sequence(self, x: Tensor) -> Tensor:
        if not self.channels:
            if x.dim() == 2 and not x.is_floating_point():
                return x
        elif x.is_floating_point():
            if x.dim() == 4 and x.shape[1] == self.channels:
                return x.flatten(2).transpose(1, 2)
            if x.dim() == 3 and x.shape[2] == self.channels:
                return x
            if x.dim() == 2 and self.channels == 1:
                return x.unsqueeze(2)
        expected = (
            f"numbers (batch, length, {self.channels}) or (batch, {self.channels}, height, width)"
            if self.channels
            else "integer tokens (batch, length)"
        )
        raise ValueError(f"x: expected {expected}, got {x.dtype} of shape {tuple(x.shape)}")
