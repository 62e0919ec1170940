"""What the tests of the Firefly ops share: ways of running them, hard operands, bounds on rounding."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pcl_kernels.firefly_score import op as score_op
from pcl_kernels.firefly_split import op as split_op
from tests.kernels.ways import ways

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SMOOTH = ["identity", "gelu", "silu", "tanh", "sigmoid", "gaussian"]
ACTIVATIONS = [*SMOOTH, "relu"]


def _interpret(patch: pytest.MonkeyPatch) -> None:
    """The GPU forms on CPU tensors, also where a gradient is wanted."""
    from pcl_kernels.firefly_score import triton as score
    from pcl_kernels.firefly_split import triton as split

    for name in ("_split_cpu", "_split_op"):
        patch.setattr(split_op, name, split.firefly_split)
    patch.setattr(split_op, "_backward_op", split.firefly_split_backward)
    patch.setattr(score_op, "_score_cpu", score.firefly_score)


WAYS = ways(_interpret)

#: sizes around vectors, tiles and tasks; nothing at all of samples, neurons and positions
SHAPES = [(2, 3), (70, 33), (1, 1, 1), (3, 16, 7), (2, 20, 6, 5), (2, 4, 3, 2, 5), (3, 1, 40), (0, 3, 4), (2, 0, 4),
          (2, 3, 0), (1, 2, 1100), (1100, 2)]  # fmt: skip


def cases(way: str, activation: str, dtype: torch.dtype) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and how they lie; few for the interpreter, whose time goes by the number of programs."""
    if "interpreted" not in way:
        return [(shape, how) for shape in SHAPES for how in MEMORY]
    if activation != "gelu" and (activation != "relu" or dtype != torch.float32):
        return [((2, 3), "contiguous")]
    return [
        ((40, 33), "half of a stack"),
        ((2, 3, 6, 6), "contiguous"),
        ((1, 2, 3, 3), "channels-last"),
        ((0, 3), "strided"),
    ]


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def memory(t: Tensor, how: str) -> Tensor:
    if how == "channels-last":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if how == "half of a stack":  # where the layer has left it
        return torch.cat([t, t], dim=1)[:, : t.shape[1]]
    return torch.stack([t, t], dim=-1)[..., 0] if how == "strided" else t


MEMORY = ["contiguous", "channels-last", "strided", "half of a stack"]


class Operands(NamedTuple):
    a: Tensor
    d: Tensor
    epsilon: Tensor
    scale: Tensor
    shift: Tensor
    mirror: Tensor
    grad: Tensor

    def u(self) -> tuple[Tensor, Tensor]:
        """Bounds on |u| and on what a change of u costs in units of the roundings of a number of size 1."""
        e, s, t, m = (
            v.double().abs().view(-1, *[1] * (self.a.dim() - 2))
            for v in (self.epsilon, self.scale, self.shift, self.mirror)
        )
        size = s * (self.a.double().abs() + e * m.clamp(min=1) * self.d.double().abs()) + t
        return size, 4 * size + 8


def operands(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
    how: str = "contiguous",
    vectors: torch.dtype = torch.float64,
) -> Operands:
    """Splits and copies, steps of 0 among them."""
    a, d, grad = (memory(numbers(*shape, dtype=dtype, seed=i, device=device), how) for i in (1, 2, 3))
    epsilon, scale, shift = (numbers(shape[1], dtype=vectors, seed=i, device=device) for i in (4, 5, 6))
    epsilon[::5] = 0
    mirror = torch.where(numbers(shape[1], seed=7, device=device) > 0, 1.0, -1.0).to(vectors)
    return Operands(a, d, epsilon, scale, shift, mirror, grad)


def compute_eps(dtype: torch.dtype) -> float:
    """Of the arithmetic: float64 for float64, else float32."""
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


def assert_within(found: Tensor, expected: Tensor, roundings: Tensor) -> None:
    """Within one rounding to the dtype and so many of the arithmetic of numbers of size 1."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    info = torch.finfo(found.dtype)
    bound = info.eps * expected.double().abs() + compute_eps(found.dtype) * roundings + info.tiny
    assert ((found.double() - expected.double()).abs() <= bound).all()
