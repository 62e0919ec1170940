"""The layers of the sweep: operations with shared parameters, and what v_b = g(x_b) - d does in them.

For z = W a + c with L positions a sample (one in a fully connected network; in a convolution the pixels of the output,
a being their patches), sample b has V_b = sum_l delta_l a_l^T - D for the weight and v_b = sum_l delta_l - d for the
bias, D and d being their parts of the direction. So

    R{z} = W R{a} + V_b a + v_b    and    R{W^T delta} = W^T R{delta} + V_b^T delta.

With one position V_b a = delta |a|^2 - D a, and V_b^T delta = a |delta|^2 - D^T delta. With several there are two ways:
by the L x L Gramians of a and delta, or with V_b made for the samples of this one layer, whichever multiplies less.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl.gradients.sweep.nodes import Values, plus
from pcl.gradients.sweep.patch_gramians import Geometry, by_patches, by_patches_transposed, gramians_are_cheaper
from pcl_kernels import channel_affine, channel_sums, sample_conv, sample_conv_transpose


class Shared(Protocol):
    """A parameter that g and d are about."""

    @property
    def direction(self) -> Tensor | None:
        """Its part of d; None is zero."""


class Linear:
    """z = a W^T + c with a ``(B, F)`` and z ``(B, O)``; w and c are None where weight and bias are not shared."""

    def __init__(self, a: Tensor, weight: Tensor, bias: Tensor | None, w: Shared | None, c: Shared | None) -> None:
        self.parametric = w is not None or c is not None
        self._a, self._weight, self._w, self._c = a, weight, w, c
        self.outputs = [F.linear(a, weight, bias)]
        self._delta: Tensor | None = None

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        (self._delta,) = deltas
        return [None if self._delta is None or not wanted[0] else self._delta @ self._weight]

    def r_forward(self, r: Values) -> Values:
        own = None
        if self._delta is not None and self._w is not None:
            own = self._delta * (_squared_norms(self._a) + (0 if self._c is None else 1))
            if self._c is not None and self._c.direction is not None:
                own -= self._c.direction
            if self._w.direction is not None:
                own.addmm_(self._a, self._w.direction.T, alpha=-1)
        elif self._delta is not None and self._c is not None:
            own = self._delta if self._c.direction is None else self._delta - self._c.direction
        return [_plus_product(own, r[0], self._weight.T)]

    def r_backward(self, r_deltas: Values) -> Values:
        own = None
        if self._delta is not None and self._w is not None:
            own = self._a * _squared_norms(self._delta)
            if self._w.direction is not None:
                own.addmm_(self._delta, self._w.direction, alpha=-1)
        return [_plus_product(own, r_deltas[0], self._weight)]


def _squared_norms(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=1, keepdim=True)


def _plus_product(own: Tensor | None, left: Tensor | None, right: Tensor) -> Tensor | None:
    if left is None:
        return own
    return left @ right if own is None else torch.addmm(own, left, right)


class Conv2d:
    """z = W * a + c with a ``(B, I, H, W)``: zero padding, no groups. All of it is in channels-last memory."""

    def __init__(
        self, a: Tensor, weight: Tensor, bias: Tensor | None, w: Shared | None, c: Shared | None, geometry: Geometry
    ) -> None:
        self.parametric = w is not None or c is not None
        self._w, self._c, self._geometry = w, c, geometry
        self._a = a.contiguous(memory_format=torch.channels_last)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        z = self._times(self._a, self._weight)
        self.outputs = [z if bias is None else z.add_(bias.view(-1, 1, 1))]
        self._by_gramians = gramians_are_cheaper(a, z, geometry)
        self._delta: Tensor | None = None

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        if deltas[0] is None:
            return [None]
        self._delta = deltas[0].contiguous(memory_format=torch.channels_last)
        return [self._transposed(self._delta, self._weight) if wanted[0] else None]

    def r_forward(self, r: Values) -> Values:
        out = None if r[0] is None else self._times(r[0], self._weight)
        if self._delta is None:
            return [out]
        if self._w is not None:
            d, g = self._w.direction, self._geometry
            if self._by_gramians:
                own = by_patches(self._a, self._delta, g)
                own = own if d is None else own.sub_(self._times(self._a, d))
            else:
                self._v, own = sample_conv(self._a, self._delta, d, g.kernel_size, g.stride, g.padding, g.dilation)
            out = own if out is None else out.add_(own)
        if self._c is not None:
            v = self._delta.sum(dim=(2, 3), keepdim=True)
            v = v if self._c.direction is None else v - self._c.direction.view(-1, 1, 1)
            out = v.expand_as(self._delta) if out is None else out.add_(v)
        return [out]

    def r_backward(self, r_deltas: Values) -> Values:
        out = None if r_deltas[0] is None else self._transposed(r_deltas[0], self._weight)
        if self._w is None or self._delta is None:
            return [out]
        d, g = self._w.direction, self._geometry
        if self._by_gramians:
            own = by_patches_transposed(self._a, self._delta, g)
            own = own if d is None else own.sub_(self._transposed(self._delta, d))
        else:
            own = sample_conv_transpose(self._v, self._delta, self._a.shape[2:], g.stride, g.padding, g.dilation)
        return [own if out is None else out.add_(own)]

    def _times(self, a: Tensor, weight: Tensor) -> Tensor:
        g = self._geometry
        return F.conv2d(a, weight, None, g.stride, g.padding, g.dilation)

    def _transposed(self, delta: Tensor, weight: Tensor) -> Tensor:
        g = self._geometry
        found: Tensor = torch.ops.aten.convolution_backward(
            delta, self._a, weight, None, g.stride, g.padding, g.dilation, False, (0, 0), 1, (True, False, False)
        )[0]
        return found


class BatchNorm:
    """z = gamma n + beta with n = (u - mean) / sqrt(var + eps), u ``(B, C, ...)``, mean and var being constants.

    Sample b has v_gamma = sum delta n - d_gamma and v_beta = sum delta - d_beta over its positions. So, with
    s = gamma / sqrt(var + eps), R{z} = s R{u} + v_gamma n + v_beta and R{s delta} = s R{delta} + v_gamma delta /
    sqrt(var + eps).
    """

    def __init__(
        self,
        u: Tensor,
        mean: Tensor,
        var: Tensor,
        eps: float,
        gamma: Tensor | None,
        beta: Tensor | None,
        g: Shared | None,
        b: Shared | None,
    ) -> None:
        self.parametric = g is not None or b is not None
        self._u, self._g, self._b = u, g, b
        self._mean, self._inverse = mean.double(), (var.double() + eps).rsqrt()
        self._scale = self._inverse if gamma is None else self._inverse * gamma.double()
        self.outputs = [F.batch_norm(u, mean, var, gamma, beta, eps=eps)]
        self._delta: Tensor | None = None

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        (self._delta,) = deltas
        return [self._scaled(self._delta) if wanted[0] else None]

    def r_forward(self, r: Values) -> Values:
        if self._delta is None or not self.parametric:
            return [self._scaled(r[0])]
        plain, product = channel_sums(self._delta, self._u)
        self._v = torch.zeros_like(plain)  # v_gamma / sqrt(var + eps)
        shift = torch.zeros_like(plain)
        if self._g is not None:
            self._v = _minus((product - self._mean * plain) * self._inverse, self._g.direction) * self._inverse
            shift = shift - self._v * self._mean
        if self._b is not None:
            shift = shift + _minus(plain, self._b.direction)
        return [channel_affine(r[0], self._scale, self._u, self._v, shift)]

    def r_backward(self, r_deltas: Values) -> Values:
        if self._delta is None or self._g is None:
            return [self._scaled(r_deltas[0])]
        return [channel_affine(r_deltas[0], self._scale, self._delta, self._v, torch.zeros_like(self._v))]

    def _scaled(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else t * self._scale.to(t.dtype).view(-1, *[1] * (t.dim() - 2))


def _minus(total: Tensor, direction: Tensor | None) -> Tensor:
    return total if direction is None else total - direction


class ChannelAffine:
    """z = n gamma + beta, gamma and beta being of the last dimensions of n or of its dimension 1 (``channels_at``).

    Sample b has v_gamma = sum delta n - d_gamma and v_beta = sum delta - d_beta, summed over its positions, so that
    R{z} = gamma R{n} + v_gamma n + v_beta and R{gamma delta} = gamma R{delta} + v_gamma delta.
    """

    def __init__(
        self, n: Tensor, gamma: Tensor | None, beta: Tensor | None, g: Shared | None, b: Shared | None, view: list[int]
    ) -> None:
        self.parametric = g is not None or b is not None
        self._n, self._g, self._b, self._view = n, g, b, view
        self._positions = [i for i, size in enumerate(view) if i and size == 1]
        self._gamma = None if gamma is None else gamma.view(view)
        z = n if self._gamma is None else n * self._gamma
        self.outputs = [z.clone() if beta is None else z + beta.view(view)]
        self._delta: Tensor | None = None

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        (self._delta,) = deltas
        return [self._scaled(self._delta) if wanted[0] else None]

    def r_forward(self, r: Values) -> Values:
        out = self._scaled(r[0])
        if self._delta is not None and self._g is not None:
            self._v = self._minus(self._delta * self._n, self._g)
            out = plus(out, self._v * self._n)
        if self._delta is not None and self._b is not None:
            v = self._minus(self._delta, self._b)
            out = v.expand_as(self._n) if out is None else out + v
        return [out]

    def r_backward(self, r_deltas: Values) -> Values:
        out = self._scaled(r_deltas[0])
        if self._delta is None or self._g is None:
            return [out]
        return [plus(out, self._v * self._delta)]

    def _scaled(self, t: Tensor | None) -> Tensor | None:
        return t if t is None or self._gamma is None else t * self._gamma

    def _minus(self, terms: Tensor, parameter: Shared) -> Tensor:
        total = terms.sum(dim=self._positions, keepdim=True) if self._positions else terms
        return total if parameter.direction is None else total - parameter.direction.view(self._view)
