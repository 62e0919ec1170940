"""Which candidates of a growing network to take: signature, checks, dispatch. Kernel: csrc/firefly_select.cpp."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._registry import define, plain

_UNLIMITED = (1 << 63) - 1
_INTEGERS = (torch.int64, torch.int32)


def firefly_select(
    gain: Tensor,
    cost: Tensor | None = None,
    layer: Tensor | None = None,
    *,
    neurons: int | None = None,
    layers: int | None = None,
    budget: float | None = None,
    least: int = 1,
) -> Tensor:
    """The candidate neurons of largest gain, under budgets of neurons, of new layers and of cost.

    Candidates are taken in order of falling gain, those of equal gain in order of their index:

    1. One whose gain is not above 0, NaN among them, is never taken.
    2. New layers are ranked by their best gain; candidates of all but the first `layers` are passed over.
    3. The walk ends before the candidate that would be one more than `neurons`, or whose cost would bring the sum of
       costs above `budget` ("until the complexity constraint is violated": a cheaper one behind it is not tried). A
       negative cost never fits.
    4. Then a new layer with fewer than `least` candidates taken loses them; what they cost is not spent again.

    Args:
        gain: `(N,)`, by how much each candidate is predicted to lower the loss; float32, float64, float16 or bfloat16.
        cost: `(N,)` int64 or int32, parameters or FLOPs, say; whole numbers, so that sums (below 2^63) are exact.
        layer: `(N,)` int64 or int32, the number of the new layer that a candidate needs; negative: none.
        neurons, layers, budget: the limits, none below 0; None or infinity: no limit.
        least: how many neurons a new layer must get.

    Returns:
        bool `(N,)`. Not differentiable. On a GPU nothing waits for the host.

    Raises:
        TypeError: for another dtype.
        ValueError: for shapes or devices that do not match, a limit that is negative or NaN, or a budget with no cost.

    Source: Liu, dissertation, Sec. 5.2.2 and 5.2.3, Eq. 5.6 and 5.8; `least` is the 2 of Sec. 5.3.2.
    """
    if not isinstance(gain, Tensor) or not gain.dtype.is_floating_point:
        found = gain.dtype if isinstance(gain, Tensor) else type(gain).__name__
        raise TypeError(f"firefly_select: gain: expected a floating-point tensor, got {found}. Convert it")
    if gain.dim() != 1:
        raise ValueError(f"firefly_select: gain: expected shape (N,), got {tuple(gain.shape)}. Flatten it")
    for name, value in (("cost", cost), ("layer", layer)):
        if value is None:
            continue
        if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"firefly_select: {name}: expected an int64 or int32 tensor, got {found}. Convert it")
        if value.shape != gain.shape or value.device != gain.device:
            raise ValueError(
                f"firefly_select: {name}: expected shape {tuple(gain.shape)} on {gain.device} as gain, got "
                f"{tuple(value.shape)} on {value.device}"
            )
    if budget is not None and cost is None:
        raise ValueError(f"firefly_select: budget: {budget:g} of what? Pass the candidates' cost with it")
    limits = [_limit(n, v) for n, v in (("neurons", neurons), ("layers", layers), ("budget", budget), ("least", least))]
    gain = gain.detach()
    cost, layer = (None if t is None else t.long() for t in (cost if budget is not None else None, layer))
    given = [t for t in (gain, cost, layer) if t is not None]
    out: Tensor = (_cpu if plain(*given) else _op)(gain, cost, layer, *limits)
    return out


def _limit(name: str, value: float | None) -> int:
    if value is None or value == math.inf:
        return _UNLIMITED
    if not value >= 0:
        raise ValueError(f"firefly_select: {name}: expected a number from 0 on, got {value}. None is no limit")
    return min(int(value), _UNLIMITED)


def _cpu(
    gain: Tensor, cost: Tensor | None, layer: Tensor | None, neurons: int, layers: int, budget: int, least: int
) -> Tensor:
    chosen = torch.zeros(len(gain), dtype=torch.bool)
    read = [None if t is None else t.resolve_neg().contiguous() for t in (gain.double(), cost, layer)]
    at = [0 if t is None else t.data_ptr() for t in read]
    _C.firefly_select(at[0], at[1], at[2], len(gain), neurons, layers, budget, least, chosen.data_ptr())
    return chosen


def _fake(gain: Tensor, cost: Tensor | None, layer: Tensor | None, *limits: int) -> Tensor:
    return gain.new_empty(len(gain), dtype=torch.bool)


_op: Any = define(
    "firefly_select(Tensor gain, Tensor? cost, Tensor? layer, int neurons, int layers, int budget, int least) "
    "-> Tensor",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.firefly_select.device:firefly_select",
)
