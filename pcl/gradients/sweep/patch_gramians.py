"""V_b a and V_b^T delta of a convolution with V_b = sum_l delta_l patch_l^T, without V_b.

(V a)_l = sum_l' <patch_l, patch_l'> delta_l' and (V^T delta) is sum_l' <delta_l, delta_l'> patch_l' brought back from
patches to pixels. Patches overlap: <patch_l, patch_l'> is a sum of entries of the Gramian of the pixels, one for every
point of the kernel. So with Q pixels (the padding counts), L positions, I channels in and O out, the two products take
I Q^2 + O L^2 multiplications each, against I O L for every point of the kernel where V_b is made: few where L is small.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """A two-dimensional convolution, without groups, padded with zeros."""

    kernel_size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def places(self, positions: Pair) -> list[tuple[slice, slice]]:
        """For every point of the kernel, the padded pixels that stand there in the patches of all positions."""
        return [
            (
                slice(y, y + self.stride[0] * (positions[0] - 1) + 1, self.stride[0]),
                slice(x, x + self.stride[1] * (positions[1] - 1) + 1, self.stride[1]),
            )
            for y in range(0, self.kernel_size[0] * self.dilation[0], self.dilation[0])
            for x in range(0, self.kernel_size[1] * self.dilation[1], self.dilation[1])
        ]

    def padded(self, size: Pair) -> Pair:
        """Height and width with the padding."""
        return size[0] + 2 * self.padding[0], size[1] + 2 * self.padding[1]


def gramians_are_cheaper(a: Tensor, delta: Tensor, geometry: Geometry) -> bool:
    """Whether a ``(B, I, H, W)`` and delta ``(B, O, H', W')`` take fewer multiplications this way.

    V_b takes one to make and one for each product; the Gramians need two products with D that V_b = ... - D saves.
    Entries that are only moved count as ``MOVE`` multiplications.
    """
    height, width = geometry.padded((a.shape[2], a.shape[3]))
    pixels, positions, points = height * width, delta.shape[2] * delta.shape[3], len(geometry.places((1, 1)))
    by_kernels = a.shape[1] * delta.shape[1] * positions * points
    products = 2 * (a.shape[1] * pixels**2 + delta.shape[1] * positions**2)
    return products + MOVE * 2 * points * positions**2 <= by_kernels


MOVE = 8
"""Multiplications that take the time of moving one number: a matrix product does that many for each one it reads."""


def by_patches(a: Tensor, delta: Tensor, geometry: Geometry) -> Tensor:
    """V a ``(B, O, H', W')``, channels-last."""
    samples, height, width, channels = delta.movedim(1, -1).shape
    padded = _pad(a, geometry)
    pixels = padded.flatten(1, 2)
    gramian = (pixels @ pixels.mT).view(samples, *padded.shape[1:3], *padded.shape[1:3])
    patches = gramian.new_zeros(samples, height, width, height, width)
    for y, x in geometry.places((height, width)):
        patches += gramian[:, y, x, y, x]
    rows = patches.view(samples, height * width, -1) @ delta.movedim(1, -1).flatten(1, 2)
    return rows.view(samples, height, width, channels).movedim(-1, 1)


def by_patches_transposed(a: Tensor, delta: Tensor, geometry: Geometry) -> Tensor:
    """V^T delta ``(B, I, H, W)``, channels-last."""
    samples, height, width, _ = delta.movedim(1, -1).shape
    rows = delta.movedim(1, -1).flatten(1, 2)
    gramian = (rows @ rows.mT).view(samples, height, width, height, width)
    padded = _pad(a, geometry)
    gathered = gramian.new_zeros(samples, *padded.shape[1:3], *padded.shape[1:3])
    for y, x in geometry.places((height, width)):
        gathered[:, y, x, y, x] += gramian
    pixels = padded.flatten(1, 2)
    out = (gathered.view(samples, pixels.shape[1], -1) @ pixels).view(padded.shape)
    top, left = geometry.padding
    return out[:, top : top + a.shape[2], left : left + a.shape[3]].movedim(-1, 1)


def _pad(a: Tensor, geometry: Geometry) -> Tensor:
    """``(B, H + padding, W + padding, I)``."""
    (y, x) = geometry.padding
    return F.pad(a.movedim(1, -1), (0, 0, x, x, y, y)) if y or x else a.movedim(1, -1)
