"""The products of the memory edit against their references, on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import channel_affine, channel_sums, sample_conv, sample_conv_transpose
from pcl_kernels.memory_edit import op, reference
from tests.kernels.ways import entered, ways

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def _interpret(patch: pytest.MonkeyPatch) -> None:
    gpu = pytest.importorskip("pcl_kernels.memory_edit.triton")
    patch.setattr(op, "_sums_cpu", gpu.channel_sums)
    patch.setattr(op, "_affine_cpu", gpu.channel_affine)
    patch.setattr(op, "_sample_conv_cpu", gpu.sample_conv)
    patch.setattr(op, "_transpose_cpu", gpu.sample_conv_transpose)


@pytest.fixture(params=ways(_interpret))
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from entered(request.param, monkeypatch)


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def assert_rounded_once(found: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Within a rounding of the dtype, and of float64 for what was added up on the way."""
    assert found.dtype == expected.dtype
    eps = torch.finfo(found.dtype).eps
    bound = eps * expected.double().abs() + 1e-14 * scale + torch.finfo(found.dtype).tiny * eps
    assert ((found.double() - expected.double()).abs() <= bound).all()


# ---- channels

SHAPES = [(2, 3), (1, 1, 1), (3, 5, 7), (2, 20, 6, 5), (2, 33, 4, 9), (2, 4, 3, 2, 5), (0, 3, 4), (2, 3, 0)]


def memory(t: Tensor, how: str) -> Tensor:
    if how == "channels-last":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    return torch.stack([t, t], dim=-1)[..., 0] if how == "strided" else t


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["contiguous", "channels-last", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channel_sums(shape: tuple[int, ...], how: str, dtype: torch.dtype, device: str) -> None:
    delta, u = (memory(numbers(*shape, dtype=dtype, seed=s, device=device), how) for s in (1, 2))
    for found, expected in zip(channel_sums(delta, u), reference.channel_sums(delta, u), strict=True):
        assert found.dtype == torch.float64
        assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", ["contiguous", "channels-last", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channel_affine(shape: tuple[int, ...], how: str, dtype: torch.dtype, device: str) -> None:
    u, v = (memory(numbers(*shape, dtype=dtype, seed=s, device=device), how) for s in (1, 2))
    scale, p, q = (numbers(*s, seed=i, device=device) for i, s in enumerate([shape[1:2], shape[:2], shape[:2]]))
    for given in (u, None):
        found, expected = channel_affine(given, scale, v, p, q), reference.channel_affine(given, scale, v, p, q)
        assert found.is_contiguous() == v.is_contiguous() or v.numel() < 2 or how == "strided"
        assert_rounded_once(found, expected, torch.full_like(expected, 100, dtype=torch.float64))


# ---- convolutions

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], int, dict[str, tuple[int, int]]]] = {
    "one of everything": ((1, 1, 1, 1), 1, {"kernel_size": (1, 1)}),
    "3x3": ((3, 5, 6, 7), 4, {"kernel_size": (3, 3), "padding": (1, 1)}),
    "wide": ((2, 21, 5, 18), 37, {"kernel_size": (3, 3), "padding": (1, 1)}),
    "stride": ((2, 3, 9, 8), 20, {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0)}),
    "stride beyond the kernel": ((2, 17, 9, 8), 4, {"kernel_size": (1, 1), "stride": (3, 2)}),
    "dilation": ((2, 5, 9, 11), 33, {"kernel_size": (2, 3), "stride": (2, 1), "padding": (2, 1), "dilation": (2, 2)}),
    "padding beyond the kernel": ((2, 3, 4, 4), 5, {"kernel_size": (2, 2), "padding": (3, 2)}),
    "a row of positions": ((3, 40, 1, 9), 6, {"kernel_size": (1, 1)}),
    "no samples": ((0, 3, 4, 4), 5, {"kernel_size": (3, 3)}),
}


def convolution(name: str, dtype: torch.dtype, device: str, how: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    shape, outputs, options = CONVOLUTIONS[name]
    kernel = options["kernel_size"]
    rest = {key: value for key, value in options.items() if key != "kernel_size"}
    z = torch.nn.functional.conv2d(torch.zeros(shape), torch.zeros(outputs, shape[1], *kernel), None, **rest)
    a = memory(numbers(*shape, dtype=dtype, seed=1, device=device), how)
    delta = memory(numbers(*z.shape, dtype=dtype, seed=2, device=device), how)
    return a, delta, numbers(outputs, shape[1], *kernel, dtype=dtype, seed=3, device=device), options


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("how", ["contiguous", "channels-last", "strided"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, how: str, dtype: torch.dtype, device: str) -> None:
    a, delta, minus, options = convolution(name, dtype, device, how)
    rest = {key: value for key, value in options.items() if key != "kernel_size"}
    tolerance = {"rtol": 0.0, "atol": 200 * torch.finfo(dtype).eps}  # of sums of up to 200 products of size 1
    for m in (minus, None):
        found, expected = sample_conv(a, delta, m, **options), reference.sample_conv(a, delta, m, **options)
        for x, y in zip(found, expected, strict=True):
            assert x.shape == y.shape
            assert x.dtype == dtype
            size = float(y.abs().max()) if y.numel() else 0.0
            torch.testing.assert_close(x, y, rtol=0, atol=tolerance["atol"] * max(size, 1))
    v = expected[0]
    back = sample_conv_transpose(v, delta, a.shape[2:], **rest)
    expected_back = reference.sample_conv_transpose(v, delta, a.shape[2:], **rest)
    size = float(expected_back.abs().max()) if back.numel() else 0.0
    torch.testing.assert_close(back, expected_back, rtol=0, atol=tolerance["atol"] * max(size, 1), check_stride=False)


def test_the_reference_is_the_gradient_of_one_sample() -> None:
    a, delta, minus, options = convolution("stride", torch.float64, "cpu", "contiguous")
    rest = {key: value for key, value in options.items() if key != "kernel_size"}
    v, out = reference.sample_conv(a, delta, minus, **options)
    back = reference.sample_conv_transpose(v, delta, a.shape[2:], **rest)
    for b in range(len(a)):
        weight = torch.zeros_like(minus).requires_grad_()
        z = torch.nn.functional.conv2d(a[b : b + 1], weight, None, **rest)
        (g,) = torch.autograd.grad((z * delta[b]).sum(), weight)
        assert torch.allclose(v[b].movedim(-1, 1), g - minus, rtol=1e-12)
        mine = v[b].movedim(-1, 1)
        x = a[b : b + 1].clone().requires_grad_()
        z = torch.nn.functional.conv2d(x, mine, None, **rest)
        assert torch.allclose(out[b], z[0], rtol=1e-12)
        assert torch.allclose(back[b], torch.autograd.grad((z * delta[b]).sum(), x)[0][0], rtol=1e-12)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    a, delta, minus, options = convolution("wide", torch.float32, "cpu", "channels-last")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append([*sample_conv(a, delta, minus, **options), *channel_sums(a, a)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


# ---- what all share


def arguments() -> dict[str, tuple[Any, ...]]:
    a, delta, minus, options = convolution("3x3", torch.float64, "cpu", "channels-last")
    v, _ = reference.sample_conv(a, delta, minus, **options)
    pairs = [list(options.get(name, (1, 1))) for name in ("kernel_size", "stride", "padding", "dilation")]
    return {
        "sample_conv": (a, delta, minus, *pairs),
        "sample_conv_transpose": (v, delta, [6, 7], *pairs[1:]),
        "channel_sums": (a, a),
        "channel_affine": (a, numbers(5), a, numbers(3, 5), numbers(3, 5)),
    }


@pytest.mark.parametrize("name", arguments())
def test_torch_accepts_the_op(name: str) -> None:
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(getattr(torch.ops.pcl, name).default, arguments()[name], test_utils=tests)


def test_compile_traces_through() -> None:
    delta, u = numbers(3, 4, 5), numbers(3, 4, 5, seed=1)
    traced = torch.compile(lambda a, b: channel_sums(a, b)[1] + 1, backend="eager", fullgraph=True)
    assert torch.equal(traced(delta, u), channel_sums(delta, u)[1] + 1)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: channel_sums(x, x.float()), TypeError, r"u: expected torch\.float64"),
        (lambda x: channel_sums(x.int(), x), TypeError, "delta: expected one of"),
        (lambda x: channel_sums([1.0], x), TypeError, "delta: expected a tensor, got list"),
        (lambda x: channel_sums(x, x[:2]), ValueError, "must have delta's shape"),
        (lambda x: channel_sums(x[0], x[0]), ValueError, "at least 2 dimensions"),
        (lambda x: channel_affine(x, x[0].float(), x, x, x), ValueError, r"scale must be \(3,\) float64"),
        (lambda x: channel_affine(x[:2], x[0], x, x, x), ValueError, "must have v's shape"),
        (lambda x: channel_affine(x, x[0], x, x[:2], x), ValueError, r"p must be \(3, 3\)"),
        (lambda x: sample_conv(x, x, None, (1, 1)), ValueError, "a: expected 4 dimensions"),
        (lambda x: sample_conv(x[None, None], x[None, None], None, (2, 2)), ValueError, r"\(1, 2, 2\) for this convol"),
        (lambda x: sample_conv(x[None, None], x[None, None], None, (0, 1)), ValueError, "kernel_size: expected two"),
        (
            lambda x: sample_conv(x[None, None], x[None, None], None, (1, 1), padding=(1,)),
            ValueError,
            "padding: expected",
        ),
        (lambda x: sample_conv(x[None, None], x[None, None], x[None, None], (1, 1)), ValueError, "shape of the kernel"),
        (lambda x: sample_conv(x.half()[None, None], x[None, None], None, (1, 1)), TypeError, "a: expected one of"),
        (
            lambda x: sample_conv_transpose(x[:2, :1, None, None, None].mT, x[None, None].expand(2, 2, 3, 3), (3, 3)),
            ValueError,
            "output channels",
        ),
    ],
)
def test_errors_name_the_argument(call: Callable[[Tensor], object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(numbers(3, 3))


def test_all_are_public() -> None:
    names = {"channel_sums", "channel_affine", "sample_conv", "sample_conv_transpose"}
    assert names <= set(pcl_kernels.__all__)
