"""Mixers beside Longhorn in the sequence studies: attention, a perceptron, LSTM.

A mixer maps ``x (B, L, width)`` to the same shape, causally: ``forward(x, state=None, return_state=False)`` gives
``y``, or ``(y, state)``, and the state carries it over a cut of the sequence; ``step(x (B, width), state)`` is one step
for inference, from ``initial_state(B)`` on. ``pcl.models.residual.ResidualStack``
puts them one behind the other, each behind a norm and with a shortcut around it: a transformer is attention and
perceptron in turn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

BASE = 10_000.0  # of the wavelengths of rotary positions


Cache = dict[str, Any]
"""Of one attention: keys and values ``(B, heads, room, width / heads)``, of which the first ``length`` are filled."""


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions.

    The state, a `Cache`, grows with the sequence; a step writes into the room it has, and doubles it where it is full,
    so that a step costs what reading the cache costs.

    Raises:
        ValueError: if the width does not fall into heads of even size.

    Source: Vaswani et al., 2017; rotary positions: Su et al., "RoFormer", 2021.
    """

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ValueError(
                f"Attention: rotary positions need heads of even size, got width {width} for {heads} heads; "
                f"choose a width that {2 * heads} divides"
            )
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, state: Cache | None = None, return_state: bool = False) -> Any:
        """y ``(B, L, width)``, and with ``return_state`` the cache; ``state`` is left as it is."""
        past = 0 if state is None else state["length"]
        q, k, v = self._operands(x, past)
        if state is not None:
            k, v = (torch.cat([state[name][:, :, :past], t], 2) for name, t in (("keys", k), ("values", v)))
        if past == 0:
            y = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = torch.ones(x.shape[1], k.shape[2], dtype=torch.bool, device=x.device).tril(past)
            y = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = self.out(y.transpose(1, 2).flatten(2))
        return (y, {"keys": k, "values": v, "length": k.shape[2]}) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: Cache) -> Tensor:
        """:meth:`forward` of one step, x and y ``(B, width)``; the cache is updated in place."""
        past = state["length"]
        q, *new = self._operands(x.unsqueeze(1), past)
        state["length"] = past + 1
        for name, t in zip(("keys", "values"), new, strict=True):
            if past == state[name].shape[2]:
                state[name] = torch.cat([state[name], t.new_empty(*t.shape[:2], max(past, 16), t.shape[3])], 2)
            state[name][:, :, past : past + 1] = t
        keys, values = (state[name][:, :, : past + 1] for name in ("keys", "values"))
        y: Tensor = self.out(scaled_dot_product_attention(q, keys, values).flatten(1))
        return y

    def initial_state(self, batch: int) -> Cache:
        """The empty cache of ``batch`` sequences."""
        weight = self.out.weight
        nothing = weight.new_empty(batch, self.heads, 0, weight.shape[0] // self.heads)
        return {"keys": nothing, "values": nothing, "length": 0}

    def _operands(self, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(B, heads, L, width / heads)``, the former two turned."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return rotated(q, first), rotated(k, first), v


def rotated(t: Tensor, first: int) -> Tensor:
    """Queries or keys ``(..., L, size)`` turned by their positions ``first, first + 1, ...``.

    The pair (i, i + size / 2) turns by position / BASE^(2 i / size), so that <q, k> depends on distance alone.
    """
    length, half = t.shape[-2], t.shape[-1] // 2
    rates = BASE ** (-torch.arange(half, device=t.device, dtype=torch.float64) / half)
    angles = torch.arange(first, first + length, device=t.device, dtype=torch.float64)[:, None] * rates
    cos, sin = angles.cos().to(t.dtype), angles.sin().to(t.dtype)
    a, b = t.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Perceptron(nn.Module):
    """Linear, GELU, Linear at every position; it has no state."""

    def __init__(self, width: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, state: None = None, return_state: bool = False) -> Any:
        y = self.down(gelu(self.up(x)))
        return (y, None) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: None) -> Tensor:
        """:meth:`forward` of one step, x and y ``(B, width)``."""
        y: Tensor = self(x)
        return y

    def initial_state(self, batch: int) -> None:
        """Nothing."""


class LSTM(nn.Module):
    """One layer of LSTM with as many units as the stack is wide; its state is ``(h, c)``, ``(1, B, width)`` each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, return_state: bool = False) -> Any:
        y, state = self.lstm(x, state)
        return (y, state) if return_state else y

    @torch.no_grad()
    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """:meth:`forward` of one step, x and y ``(B, width)``; the state is updated in place."""
        y, new = self.lstm(x.unsqueeze(1), state)
        for old, t in zip(state, new, strict=True):
            old.copy_(t)
        found: Tensor = y.squeeze(1)
        return found

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """The state of ``batch`` sequences before their first step: zeros."""
        shape = (1, batch, self.lstm.hidden_size)
        weight = next(self.parameters())
        return weight.new_zeros(shape), weight.new_zeros(shape)


def transformer(width: int, layers: int, heads: int) -> list[nn.Module]:
    """Mixers of a transformer: attention and perceptron in turn, two shortcuts per layer."""
    return [mixer for _ in range(layers) for mixer in (Attention(width, heads), Perceptron(width))]
