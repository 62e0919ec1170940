"""The products of a memory edit that have a weight for every sample: signatures, checks, dispatch.

The edit needs grad_x |g(x_b) - d|², g(x_b) being the gradient of one sample's loss. By the R-operator it is two more
sweeps through the network along v_b = g(x_b) - d, and in a layer z = W a they are ordinary products with W and products
with V_b = Σ_l δ_l a_lᵀ - D. Where a layer has one position a sample these are ordinary products too; for
convolutions `sample_conv` and `sample_conv_transpose` make them, and `channel_sums` and `channel_affine` make what they
come to in normalisations with fixed statistics. Kernels: csrc/sample_conv.cpp, csrc/channel_affine.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._gradients import DTYPES
from pcl_kernels._registry import define, plain
from pcl_kernels.memory_edit.layout import channels_last, image, layout, like_layout, threads_for

Pair = Sequence[int]


def sample_conv(
    a: Tensor,
    delta: Tensor,
    minus: Tensor | None,
    kernel_size: Pair,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> tuple[Tensor, Tensor]:
    """(V, V * a), the kernel gradient of every sample minus a common one, and its convolution with that sample.

    V_b = Σ_l δ_bl patch_blᵀ - D over the positions l of the output, and (V * a)_bl = V_b patch_bl.

    Args:
        a: `(B, I, H, W)`, the input of a convolution; float32 or float64. Channels-last memory is read as it is.
        delta: `(B, O, H', W')` of a's dtype, the gradient at its output.
        minus: D `(O, I, *kernel_size)` of a's dtype; zero if None.
        kernel_size, stride, padding, dilation: those of the convolution, two numbers each; zero padding, no groups.

    Returns:
        V `(B, O, *kernel_size, I)` and V * a `(B, O, H', W')`, the latter in channels-last memory, summed in a's
        dtype. Not differentiable.

    Raises:
        TypeError: for another dtype, or dtypes that differ.
        ValueError: for shapes or devices that do not match, or numbers out of range.

    Source: Lyu et al. (arXiv 2401.01054), Eq. 12 and 13; Pearlmutter (Neural Computation 6, 1994) for the sweeps.
    """
    op = "sample_conv"
    _check(op, "a", a, 4)
    _check_convolution(op, a.shape[2:], delta, a, kernel_size, stride, padding, dilation)
    if minus is not None:
        _check(op, "minus", minus, 4, a)
        expected = (delta.shape[1], a.shape[1], *kernel_size)
        if tuple(minus.shape) != expected:
            raise ValueError(f"{op}: minus must have the shape of the kernel, {expected}; got {tuple(minus.shape)}")
    given = (a, delta) if minus is None else (a, delta, minus)
    call = _sample_conv_cpu if plain(*given) else _sample_conv_op
    v, out = call(a, delta, minus, list(kernel_size), list(stride), list(padding), list(dilation))
    return v, out


def sample_conv_transpose(
    v: Tensor, delta: Tensor, size: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> Tensor:
    """V_bᵀ * δ_b: every sample's δ brought back to the input by its own kernel.

    Args:
        v: `(B, O, kh, kw, I)`, as `sample_conv` gives it; float32 or float64.
        delta: `(B, O, H', W')` of v's dtype.
        size: (H, W) of the input.
        stride, padding, dilation: as for `sample_conv`.

    Returns:
        `(B, I, H, W)` of v's dtype in channels-last memory. Not differentiable.

    Raises:
        As `sample_conv`.
    """
    op = "sample_conv_transpose"
    _check(op, "v", v, 5)
    _check_convolution(op, size, delta, v, v.shape[2:4], stride, padding, dilation)
    if delta.shape[1] != v.shape[1]:
        raise ValueError(f"{op}: delta must have v's {v.shape[1]} output channels, got {delta.shape[1]}")
    call = _transpose_cpu if plain(v, delta) else _transpose_op
    out: Tensor = call(v, delta, list(size), list(stride), list(padding), list(dilation))
    return out


def channel_sums(delta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_l δ_bcl and Σ_l δ_bcl u_bcl over the positions l of every sample b and channel c, in one pass.

    Behind a normalisation with fixed statistics these are the gradients of one sample with respect to a channel's shift
    and, up to an affine map, its scale.

    Args:
        delta, u: `(B, C, ...)` of one shape; float16, bfloat16, float32 or float64.

    Returns:
        Two `(B, C)` float64. Not differentiable.

    Raises:
        TypeError: for another dtype, or dtypes that differ.
        ValueError: for shapes or devices that do not match.
    """
    op = "channel_sums"
    _check(op, "delta", delta, None)
    _check(op, "u", u, None, delta)
    if delta.shape != u.shape:
        raise ValueError(f"{op}: u must have delta's shape {tuple(delta.shape)}, got {tuple(u.shape)}")
    sums, products = (_sums_cpu if plain(delta, u) else _sums_op)(delta, u)
    return sums, products


def channel_affine(u: Tensor | None, scale: Tensor, v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """out_bcl = scale_c u_bcl + p_bc v_bcl + q_bc, in one pass.

    Behind a normalisation z = scale u + shift with fixed statistics, R{z} and R{δ_u} have this form: every sample has
    a scale and a shift of its own to follow.

    Args:
        u: `(B, C, ...)`; None adds nothing.
        scale: `(C,)` float64.
        v: `(B, C, ...)`; float16, bfloat16, float32 or float64, u of its shape and dtype.
        p, q: `(B, C)` float64.

    Returns:
        Like v, computed in float64 and rounded once, contiguous if v is, else in channels-last memory. Not
        differentiable.

    Raises:
        TypeError: for another dtype, or dtypes that differ.
        ValueError: for shapes or devices that do not match.
    """
    op = "channel_affine"
    _check(op, "v", v, None)
    if u is not None:
        _check(op, "u", u, None, v)
        if u.shape != v.shape:
            raise ValueError(f"{op}: u must have v's shape {tuple(v.shape)}, got {tuple(u.shape)}")
    for name, value, shape in (("scale", scale, v.shape[1:2]), ("p", p, v.shape[:2]), ("q", q, v.shape[:2])):
        if value.dtype != torch.float64 or value.shape != shape or value.device != v.device:
            raise ValueError(
                f"{op}: {name} must be {tuple(shape)} float64 on {v.device}; got {tuple(value.shape)} {value.dtype} on "
                f"{value.device}"
            )
    given = (v, scale, p, q) if u is None else (u, v, scale, p, q)
    out: Tensor = (_affine_cpu if plain(*given) else _affine_op)(u, scale, v, p, q)
    return out


def _check(op: str, name: str, value: Tensor, dims: int | None, like: Tensor | None = None) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name}: expected a tensor, got {type(value).__name__}")
    known = (torch.float32, torch.float64) if op.startswith("sample_conv") else DTYPES
    if value.dtype not in known or (like is not None and value.dtype != like.dtype):
        expected = "one of " + ", ".join(map(str, known)) if like is None else str(like.dtype)
        raise TypeError(f"{op}: {name}: expected {expected}, got {value.dtype}. Convert it")
    if value.dim() != dims if dims is not None else value.dim() < 2:
        raise ValueError(f"{op}: {name}: expected {dims or 'at least 2'} dimensions, got shape {tuple(value.shape)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{op}: {name}: expected device {like.device}, got {value.device}. Move one")


def _check_convolution(
    op: str, size: Pair, delta: Tensor, like: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    for name, pair, least in (
        ("size", size, 1), ("kernel_size", kernel, 1), ("stride", stride, 1), ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):  # fmt: skip
        if len(pair) != 2 or min(pair) < least:
            raise ValueError(f"{op}: {name}: expected two numbers of at least {least}, got {tuple(pair)}")
    _check(op, "delta", delta, 4, like)
    expected = (len(like), *_out_size(size, kernel, stride, padding, dilation))
    found = (len(delta), *delta.shape[2:])
    if found != expected:
        raise ValueError(
            f"{op}: delta must have (samples, height, width) {expected} for this convolution of {tuple(size)}; "
            f"got {found}"
        )


def _out_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> tuple[int, int]:
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return height, width


def _sample_conv_cpu(
    a: Tensor, delta: Tensor, minus: Tensor | None, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Tensor]:
    a, delta = channels_last(a), channels_last(delta)
    v = a.new_empty(len(a), delta.shape[1], *kernel, a.shape[1])
    out = image(a, *delta.shape)
    d = None if minus is None else minus.resolve_neg().movedim(1, -1).contiguous()
    shape = [*a.shape, delta.shape[1], *kernel, *stride, *padding, *dilation]
    at = 0 if d is None else d.data_ptr()
    call = (a.data_ptr(), delta.data_ptr(), at, v.data_ptr(), out.data_ptr(), torch.get_num_threads())
    if v.numel():
        _C.sample_conv(shape, a.dtype == torch.float32, *call)
    return v, out


def _transpose_cpu(v: Tensor, delta: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    v, delta = v.resolve_neg().contiguous(), channels_last(delta)
    samples, outputs, height, width, inputs = v.shape
    out = image(v, samples, inputs, *size)
    shape = [samples, inputs, *size, outputs, height, width, *stride, *padding, *dilation]
    call = (v.data_ptr(), delta.data_ptr(), out.data_ptr(), torch.get_num_threads())
    if out.numel():
        _C.sample_conv_transpose(shape, v.dtype == torch.float32, *call)
    return out


def _sizes(v: Tensor, channels_last: bool) -> tuple[int, int, int, bool]:
    return v.shape[0], v.shape[1], v[0, 0].numel() if v.numel() else 0, channels_last


def _sums_cpu(delta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    delta, last = layout(delta)
    u = like_layout(u, last)
    sums, products = (delta.new_zeros(delta.shape[:2], dtype=torch.float64) for _ in range(2))
    at = (delta.data_ptr(), u.data_ptr(), sums.data_ptr(), products.data_ptr(), threads_for(2 * u.numel()))
    if u.numel():
        _C.channel_sums(*_sizes(u, last), DTYPES[u.dtype], *at)
    return sums, products


def _affine_cpu(u: Tensor | None, scale: Tensor, v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    v, last = layout(v)
    u = None if u is None else like_layout(u, last)
    scale, p, q = (t.resolve_neg().contiguous() for t in (scale, p, q))
    out = torch.empty_like(v)
    at = [0 if t is None else t.data_ptr() for t in (u, scale, v, p, q, out)]
    call: Any = (*_sizes(v, last), DTYPES[v.dtype], *at, threads_for(2 * v.numel()))
    if v.numel():
        _C.channel_affine(*call)
    return out


def _sums_fake(delta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    return delta.new_empty(delta.shape[:2], dtype=torch.float64), u.new_empty(u.shape[:2], dtype=torch.float64)


def _affine_fake(u: Tensor | None, scale: Tensor, v: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return torch.empty_like(layout(v)[0])


def _sample_conv_fake(
    a: Tensor, delta: Tensor, minus: Tensor | None, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Tensor, Tensor]:
    return a.new_empty(len(a), delta.shape[1], *kernel, a.shape[1]), image(a, *delta.shape)


def _transpose_fake(v: Tensor, delta: Tensor, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    return image(v, len(v), v.shape[-1], *size)


_sample_conv_op: Any = define(
    "sample_conv(Tensor a, Tensor delta, Tensor? minus, int[] kernel_size, int[] stride, int[] padding, "
    "int[] dilation) -> (Tensor, Tensor)",
    cpu=_sample_conv_cpu,
    fake=_sample_conv_fake,
    cuda="pcl_kernels.memory_edit.triton:sample_conv",
)
_transpose_op: Any = define(
    "sample_conv_transpose(Tensor v, Tensor delta, int[] size, int[] stride, int[] padding, int[] dilation) -> Tensor",
    cpu=_transpose_cpu,
    fake=_transpose_fake,
    cuda="pcl_kernels.memory_edit.triton:sample_conv_transpose",
)
_sums_op: Any = define(
    "channel_sums(Tensor delta, Tensor u) -> (Tensor, Tensor)",
    cpu=_sums_cpu,
    fake=_sums_fake,
    cuda="pcl_kernels.memory_edit.triton:channel_sums",
)
_affine_op: Any = define(
    "channel_affine(Tensor? u, Tensor scale, Tensor v, Tensor p, Tensor q) -> Tensor",
    cpu=_affine_cpu,
    fake=_affine_fake,
    cuda="pcl_kernels.memory_edit.triton:channel_affine",
)
