"""Transformations that make another domain of the same images: a fixed permutation of the pixels, a rotation."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor

from pcl.randomness import generator


class Transform(Protocol):
    """From uint8 images ``(n, C, H, W)`` to images of the same shape and dtype, the same at every call."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def describe(self) -> dict[str, Any]:
        """Its name in :data:`TRANSFORMS` and its number."""


@dataclass(frozen=True)
class Permute:
    """A fixed random permutation of the pixels, the same for all images and channels (Goodfellow et al. 2013).

    Attributes:
        number: which permutation; every number gives another one.
    """

    number: int

    def __call__(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        order = torch.randperm(height * width, generator=generator(self.number, "permuted pixels"))
        return x.reshape(n, channels, -1)[..., order].view(x.shape)

    def describe(self) -> dict[str, Any]:
        return {"permute": self.number}


@dataclass(frozen=True)
class Rotate:
    """Images turned anticlockwise about their centre, in the size they have; what comes from outside is 0.

    Between pixels lies the cubic B-spline through them (mirrored at the border pixels), rounded and limited to
    0 .. 255: what ``scipy.ndimage.rotate(..., reshape=False)`` gives, which GMED's published code uses.

    Attributes:
        degrees: any angle.
    """

    degrees: float

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns, inside = _sources(self.degrees, height, width)
        spline = _coefficients(x.to(torch.float64))
        turned = torch.zeros_like(spline)
        for (row, row_weight), (column, column_weight) in product(_taps(rows, height), _taps(columns, width)):
            turned += row_weight * column_weight * spline[..., row, column]
        return torch.where(inside, turned, 0.0).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)

    def describe(self) -> dict[str, Any]:
        return {"rotate": self.degrees}


TRANSFORMS: dict[str, Callable[[Any], Transform]] = {"permute": Permute, "rotate": Rotate}
"""By their names in scenario files."""


def _sources(degrees: float, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel ``(H, W)`` of the turned image lies in the given one: row, column, whether that is inside."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    down = torch.arange(height, dtype=torch.float64)[:, None] - middle_row
    right = torch.arange(width, dtype=torch.float64)[None, :] - middle_column
    rows = angle.cos() * down + angle.sin() * right + middle_row
    columns = -angle.sin() * down + angle.cos() * right + middle_column
    slack = 1e-9  # a right angle, in floating point, leads a hair's breadth outside
    inside = (rows > -slack) & (rows < height - 1 + slack) & (columns > -slack) & (columns < width - 1 + slack)
    return rows.clamp(0, height - 1), columns.clamp(0, width - 1), inside


def _coefficients(x: Tensor) -> Tensor:
    """c of the spline sum_ij c_ij b(row - i) b(column - j) that goes through x ``(..., H, W)``: A_H c A_W' = x."""
    height, width = x.shape[-2:]
    half: Tensor = torch.linalg.solve(_values_at_pixels(height), x)
    turned: Tensor = torch.linalg.solve(_values_at_pixels(width), half.mT)
    return turned.mT


def _values_at_pixels(n: int) -> Tensor:
    """A ``(n, n)``: the spline at pixel i is (c_{i-1} + 4 c_i + c_{i+1}) / 6, mirrored at the ends."""
    matrix = torch.zeros(n, n, dtype=torch.float64)
    for offset, value in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        matrix[torch.arange(n), _mirrored(torch.arange(n) + offset, n)] += value
    return matrix


def _taps(position: Tensor, n: int) -> list[tuple[Tensor, Tensor]]:
    """The four coefficients, by number, that the spline at each position depends on, and their weights b."""
    first = position.floor()
    t = position - first
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    return [(_mirrored(first.long() + i - 1, n), weight) for i, weight in enumerate(weights)]


def _mirrored(number: Tensor, n: int) -> Tensor:
    """Pixel numbers from beyond the ends, reflected about the end pixels."""
    period = max(1, 2 * (n - 1))
    number = number.remainder(period)
    return torch.minimum(number, period - number)
