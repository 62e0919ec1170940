"""Mixers beside Longhorn in the sequence studies: attention, a perceptron, LSTM.

A mixer maps ``x (B, L, width)`` to the same shape, causally: ``forward(x, state=None, return_state=False)`` gives
``y``, or ``(y, state)``, and the state carries it over a cut of the sequence. ``pcl.models.residual.ResidualStack``
puts them one behind the other, each behind a norm and with a shortcut around it: a transformer is attention and
perceptron in turn.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

BASE = 10_000.0  # of the wavelengths of rotary positions


class Cache(NamedTuple):
    """Keys and values ``(B, heads, room, width / heads)``, of which the first ``length`` positions are filled."""

    keys: Tensor
    values: Tensor
    length: int


class Attention(nn.Module):
    """Causal multi-head attention with rotary positions.

    The state is a `Cache` that grows with the sequence. Outside autograd new positions are written into the room it
    has, so that a token costs what reading the cache costs: go on from a state once only.

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
        past, length = (0 if state is None else state.length), x.shape[1]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, L, size) each
        q, k = rotated(q, past), rotated(k, past)
        cache = _extended(state, k, v) if state is not None or return_state else Cache(k, v, length)
        keys, values = (t[:, :, : cache.length] for t in cache[:2])
        if past == 0 or length == 1:
            y = scaled_dot_product_attention(q, keys, values, is_causal=past == 0)
        else:
            seen = torch.ones(length, cache.length, dtype=torch.bool, device=x.device).tril(past)
            y = scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        y = self.out(y.transpose(1, 2).flatten(2))
        return (y, cache) if return_state else y


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


def _extended(cache: Cache | None, k: Tensor, v: Tensor) -> Cache:
    """The cache with new positions behind the others; with twice the room where it had too little."""
    past = 0 if cache is None else cache.length
    length = past + k.shape[2]
    if cache is not None and length <= cache.keys.shape[2] and not torch.is_grad_enabled():
        cache.keys[:, :, past:length] = k
        cache.values[:, :, past:length] = v
        return cache._replace(length=length)
    if cache is not None:
        k, v = (torch.cat([old[:, :, :past], new], 2) for old, new in ((cache.keys, k), (cache.values, v)))
    if torch.is_grad_enabled():
        return Cache(k, v, length)
    room = [t.new_empty(*t.shape[:2], 2 * length, t.shape[3]) for t in (k, v)]
    for wide, t in zip(room, (k, v), strict=True):
        wide[:, :, :length] = t
    return Cache(room[0], room[1], length)


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


class LSTM(nn.Module):
    """One layer of LSTM with as many units as the stack is wide; its state is ``(h, c)``, ``(1, B, width)`` each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, return_state: bool = False) -> Any:
        y, state = self.lstm(x, state)
        return (y, state) if return_state else y


def transformer(width: int, layers: int, heads: int) -> list[nn.Module]:
    """Mixers of a transformer: attention and perceptron in turn, two shortcuts per layer."""
    return [mixer for _ in range(layers) for mixer in (Attention(width, heads), Perceptron(width))]
