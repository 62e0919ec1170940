"""Whole layers of split neurons against the reference on every backend, and the kernel of small convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pcl_kernels import _C, firefly_split_forward
from pcl_kernels.firefly_split import conv, linear, reference
from tests.kernels.firefly_cases import WAYS, compute_eps, memory, numbers
from tests.kernels.ways import entered


@pytest.fixture(params=WAYS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from entered(request.param, monkeypatch)


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "linear": ((5, 7), (9, 7), {}),
    "linear over a sequence": ((2, 3, 7), (4, 7), {}),
    "linear, one vector": ((7,), (4, 7), {}),
    "linear, no samples": ((0, 7), (4, 7), {}),
    "linear, no neurons": ((5, 7), (0, 7), {}),
    "linear, one neuron": ((5, 7), (1, 7), {}),
    "3x3": ((3, 5, 6, 7), (4, 5, 3, 3), {"padding": 1}),
    "3x3, wide": ((2, 17, 9, 10), (33, 17, 3, 3), {"padding": 1}),
    "3x3, odd and unpadded": ((2, 3, 7, 5), (6, 3, 3, 3), {}),
    "3x3, padded beyond": ((2, 3, 5, 4), (6, 3, 3, 3), {"padding": 2}),
    "1x1": ((2, 6, 4, 4), (5, 6, 1, 1), {}),
    "stride": ((2, 3, 9, 8), (5, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    "dilation": ((2, 5, 9, 11), (4, 5, 2, 3), {"dilation": 2}),
    "same": ((2, 3, 6, 6), (4, 3, 3, 3), {"padding": "same"}),
    "no samples": ((0, 3, 6, 6), (4, 3, 3, 3), {"padding": 1}),
    "no neurons": ((2, 3, 6, 6), (0, 3, 3, 3), {"padding": 1}),
    "one neuron": ((2, 3, 6, 6), (1, 3, 3, 3), {"padding": 1}),
}


# the library runs most of a layer, so that few of them are left to lesser instruction sets and to the interpreter
FEW = {f"cpu-{isa}": ("linear", "3x3, wide", "stride") for isa in _C.isas()[:-1]}
FEW["triton-interpreted"] = ("linear", "stride")
OF_LAYERS = [
    pytest.param(name, *way.values, id=f"{name}-{way.id}", marks=way.marks)
    for way in WAYS
    for name in FEW.get(str(way.id), LAYERS)
]


def layer(
    name: str, dtype: torch.dtype, device: str, how: str = "contiguous"
) -> tuple[list[Tensor], Tensor, dict[str, Any]]:
    shape, weight, options = LAYERS[name]
    m = weight[0]
    x = numbers(*shape, dtype=dtype, seed=1, device=device)
    w, delta = (numbers(*weight, dtype=dtype, seed=i, device=device) for i in (2, 3))
    if how != "contiguous" and x.dim() == 4:
        x, w = memory(x, how), memory(w, how)
    vectors = [numbers(m, dtype=dtype, seed=i, device=device) for i in range(4, 9)]
    epsilon, bias, delta_bias, scale, shift = vectors
    mirror = torch.where(numbers(m, seed=9, device=device) > 0, 1.0, -1.0).to(dtype)
    return [x, w, delta, epsilon, bias, delta_bias, scale, shift], mirror, options


def sizes(given: list[Tensor], mirror: Tensor, options: dict[str, Any]) -> Tensor:
    """What every result would be at most if nothing cancelled, in float64."""
    positive = [t.detach().double().abs() for t in given]
    return reference.firefly_split_forward(*positive, mirror=mirror.double().abs(), activation="identity", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["contiguous", "channels-last", "strided"])
@pytest.mark.parametrize(("name", "device"), OF_LAYERS, indirect=["device"])
def test_forward(name: str, how: str, dtype: torch.dtype, device: str) -> None:
    given, mirror, options = layer(name, dtype, device, how)
    terms = given[1][0].numel() if len(given[1]) else 0
    for call in (given, given[:4]):
        found = firefly_split_forward(*call, mirror=mirror, activation="relu", **options)
        expected = reference.firefly_split_forward(*call, mirror=mirror, activation="relu", **options)
        # the library rounds a and d to the dtype, and its sums on the way to the arithmetic's
        size = sizes(call, mirror, options)
        bound = size * (4 * torch.finfo(dtype).eps + (terms + 4) * compute_eps(dtype))
        assert found.shape == expected.shape
        assert found.dtype == dtype
        assert ((found.double() - expected.double()).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("name", "device"), OF_LAYERS, indirect=["device"])
def test_gradients_of_layers(name: str, activation: str, dtype: torch.dtype, device: str) -> None:
    found = {}
    for call in (firefly_split_forward, reference.firefly_split_forward):
        given, mirror, options = layer(name, dtype, device, "channels-last")
        leaves = [t.requires_grad_() for t in given]
        y = call(*leaves, mirror=mirror, activation=activation, **options)
        grad = numbers(*y.shape, dtype=dtype, seed=10, device=device)
        found[call] = torch.autograd.grad(y, leaves, grad)
    for one, other in zip(*found.values(), strict=True):
        assert one.shape == other.shape
        # sums of up to a few hundred products, whose sizes those of the largest result stand for
        room = 300 * torch.finfo(dtype).eps * max(float(other.abs().max()) if other.numel() else 0, 1)
        torch.testing.assert_close(one, other, rtol=0, atol=room)


@pytest.mark.parametrize("name", ["linear", "3x3, odd and unpadded", "stride"])
def test_gradcheck_of_layers(name: str) -> None:
    given, mirror, options = layer(name, torch.float64, "cpu")
    leaves = [t.requires_grad_() for t in given]
    assert torch.autograd.gradcheck(
        lambda *t: firefly_split_forward(*t, mirror=mirror, activation="tanh", **options), leaves, fast_mode=True
    )


def test_only_what_is_asked_for_has_a_gradient() -> None:
    x, w, delta, epsilon = numbers(4, 3), numbers(5, 3), numbers(5, 3), numbers(5).requires_grad_()
    firefly_split_forward(x, w, delta.requires_grad_(), epsilon).sum().backward()
    assert w.grad is None
    assert delta.grad is not None
    assert epsilon.grad is not None


@pytest.mark.parametrize("how", ["contiguous", "channels-last"])
def test_the_kernel_of_small_convolutions_takes_their_shapes(how: str, isa: str) -> None:
    """Samples that are walked together and the last ones that are fewer, rows of tiles that fill no vector."""
    for x, neurons, padding in [
        ((9, 3, 8, 8), 5, 1),
        ((20, 2, 3, 3), 2, 1),
        ((2, 17, 32, 33), 17, (0, 2)),
        ((17, 1, 2, 1), 1, 1),
    ]:
        leaves = [
            numbers(*x, dtype=torch.float32),
            *(numbers(neurons, x[1], 3, 3, dtype=torch.float32, seed=i) for i in (1, 2)),
        ]
        leaves += [numbers(neurons, dtype=torch.float32, seed=3)]
        leaves[:3] = [memory(t, how) for t in leaves[:3]]
        assert conv.suits(leaves[0], leaves[1], 1, padding, 1)
        order = torch.contiguous_format if leaves[0].is_contiguous() else torch.channels_last
        plain = firefly_split_forward(*leaves, activation="gelu", padding=padding)
        found = firefly_split_forward(*(t.requires_grad_() for t in leaves), activation="gelu", padding=padding)
        assert torch.equal(plain, found)
        assert plain.stride() == leaves[0].new_empty(plain.shape).contiguous(memory_format=order).stride()
        expected = reference.firefly_split_forward(*leaves, activation="gelu", padding=padding)
        # 9 inputs' products, and in the transforms sums of up to 16 numbers of a patch
        assert (found - expected).abs().max() <= 64 * torch.finfo(torch.float32).eps * expected.abs().max()


def test_only_its_own_convolutions_go_to_that_kernel() -> None:
    x, w = numbers(2, 3, 6, 6, dtype=torch.float32), numbers(4, 3, 3, 3, dtype=torch.float32)
    assert conv.suits(x, w, 1, 1, 1)
    assert not conv.suits(x, w, 2, 1, 1)
    assert not conv.suits(x, numbers(conv.LARGEST // 3 + 1, 3, 3, 3, dtype=torch.float32), 1, 1, 1)
    assert not conv.suits(x, w, 1, 1, (1, 2))
    assert not conv.suits(x, w, 1, "same", 1)
    assert not conv.suits(x, w[..., :1], 1, 1, 1)
    assert not conv.suits(x.double(), w.double(), 1, 1, 1)


#: samples, inputs, neurons: the last of a panel and of the neurons, two chunks of samples, rows that are copied
PRODUCTS = [(1, 1, 1), (5, 3, 2), (33, 17, 7), (150, 20, 25), (40, 1024, 13), (70, 4100, 6)]


@pytest.mark.parametrize("shape", PRODUCTS, ids=str)
def test_the_kernel_of_linear_layers_takes_their_shapes(shape: tuple[int, int, int], isa: str) -> None:
    samples, inputs, m = shape
    x = numbers(samples, inputs, dtype=torch.float32, seed=1)
    w, delta = (numbers(m, inputs, dtype=torch.float32, seed=i) for i in (2, 3))
    b, epsilon, scale, shift = (numbers(m, dtype=torch.float32, seed=i) for i in (4, 5, 6, 7))
    given = (x, w, delta, b, None, epsilon, scale, shift, None)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(linear.split_linear(given, "gelu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    x, w, delta, b, epsilon, scale, shift = (t.double() for t in given if t is not None)
    expected = reference.firefly_split_forward(x, w, delta, epsilon, b, None, scale, shift, activation="gelu")
    positive = [t.abs() for t in (x, w, delta, epsilon, b)]
    size = reference.firefly_split_forward(
        *positive, None, scale.abs(), shift.abs(), mirror=torch.ones(m, dtype=torch.float64), activation="identity"
    )
    assert ((found[0] - expected).abs() <= (inputs + 16) * torch.finfo(torch.float32).eps * (size + 1)).all()


def test_a_sample_is_its_own_affair_in_linear_layers() -> None:
    x = numbers(40, 9, dtype=torch.float32)
    w, delta, epsilon = numbers(8, 9, dtype=torch.float32), numbers(8, 9, dtype=torch.float32, seed=1), torch.ones(8)
    whole = firefly_split_forward(x, w, delta, epsilon)
    x[7], x[8] = torch.nan, torch.inf
    found = firefly_split_forward(x, w, delta, epsilon)
    others = [i for i in range(40) if i not in (7, 8)]
    assert torch.equal(found[others], whole[others])
    assert found[7].isnan().all()
    assert not found[8].isfinite().any()


@pytest.mark.parametrize("name", ["linear", "linear over a sequence", "3x3, wide"])
def test_the_careful_way_has_the_bits_of_the_usual_one(name: str) -> None:
    """Operands that csrc/firefly_usual.hpp does not read: strided, negated, float64 with gradients, bfloat16."""
    given, mirror, options = layer(name, torch.float32, "cpu")
    given = [*given[:3], *(t.bfloat16().float() for t in given[3:])]  # which bfloat16 vectors can say
    usual = firefly_split_forward(*given, mirror=mirror, **options)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "strided": lambda t: torch.stack([t, t], dim=-1)[..., 0],
        "negated": lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag,
        "gradient": lambda t: t.clone().requires_grad_(),
    }
    for i in range(len(given)):
        for way, changed in {**ways, **({"bfloat16": Tensor.bfloat16} if i in (3, 6, 7) else {})}.items():
            call = [changed(t) if i == j else t for j, t in enumerate(given)]
            assert torch.equal(firefly_split_forward(*call, mirror=mirror, **options), usual), (i, way)
    assert torch.equal(firefly_split_forward(*given, mirror=mirror.double(), **options), usual)


def test_only_cpu_layers_in_float32_go_to_the_kernel_of_linear_layers() -> None:
    x, w = numbers(5, 3, dtype=torch.float32), numbers(4, 3, dtype=torch.float32)
    assert linear.suits(x, w)
    assert linear.suits(x[0], w)
    assert not linear.suits(x.double(), w.double())
    assert not linear.suits(x.to("meta"), w)
    assert not linear.suits(x, w[..., None, None])
    _C.use_isa("baseline")  # whose products the library beats
    try:
        assert not linear.suits(x, w)
    finally:
        _C.use_isa(_C.isas()[-1])


@pytest.mark.parametrize("name", ["linear", "3x3, odd and unpadded"])
def test_gradients_of_gradients_of_whole_layers(name: str) -> None:
    """In float32 by hand, because the kernels have no float64: against those of the reference."""
    found = []
    for call in (firefly_split_forward, reference.firefly_split_forward):
        given, mirror, options = layer(name, torch.float32, "cpu")
        leaves = [t.requires_grad_() for t in given]
        y = call(*leaves, mirror=mirror, activation="tanh", **options)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        found.append(torch.autograd.grad(torch.stack([t.square().sum() for t in first]).sum(), leaves))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1000 * torch.finfo(torch.float32).eps * other.abs().max()


@pytest.mark.parametrize("name", ["linear", "3x3, odd and unpadded", "stride"])
def test_a_mirror_that_wants_a_gradient_has_none(name: str) -> None:
    given, mirror, options = layer(name, torch.float32, "cpu")
    leaves = [t.requires_grad_() for t in given]
    y = firefly_split_forward(*leaves, mirror=mirror.requires_grad_(), activation="tanh", **options)
    found = torch.autograd.grad(y.sum(), [*leaves, mirror], create_graph=True, allow_unused=True)
    assert found[-1] is None
    assert all(t is not None for t in found[:-1])


@pytest.mark.parametrize("name", ["linear", "3x3", "stride"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zeros_without_memory_are_zeros(name: str, dtype: torch.dtype) -> None:
    """As forward-mode autograd makes them: an address of 0 was read."""
    given, mirror, options = layer(name, dtype, "cpu")
    for i, t in enumerate(given):
        found, expected = (
            firefly_split_forward(*given[:i], zeros, *given[i + 1 :], mirror=mirror, **options)
            for zeros in (torch._efficientzerotensor(t.shape, dtype=dtype), torch.zeros_like(t))
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("keep", [False, True])
def test_torch_accepts_the_ops_of_whole_layers(keep: bool) -> None:
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    ops = {"3x3": torch.ops.pcl.firefly_conv, "linear": torch.ops.pcl.firefly_linear}
    for name, op in ops.items():
        padding = [[1, 1]] if name == "3x3" else []
        x, w, delta, epsilon, bias, _, _, shift = layer(name, torch.float32, "cpu")[0]
        given = (x, w, delta, bias, None, epsilon, None, shift, None, "silu", *padding, keep)
        torch.library.opcheck(op.default, given, test_utils=tests)


@pytest.mark.parametrize("name", ["3x3", "linear"])
def test_compile_traces_through(name: str) -> None:
    given, mirror, options = layer(name, torch.float32, "cpu")
    traced = torch.compile(
        lambda *t: firefly_split_forward(*t, mirror=mirror, **options) + 1, backend="eager", fullgraph=True
    )
    assert torch.equal(traced(*given), firefly_split_forward(*given, mirror=mirror, **options) + 1)
    leaves = [t.requires_grad_() for t in given]
    found, expected = (
        torch.autograd.grad(call(*leaves).sum(), leaves)
        for call in (traced, lambda *t: firefly_split_forward(*t, mirror=mirror, **options))
    )
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x, v: firefly_split_forward(x, x[0], x[0], v), ValueError, "weight: expected"),
        (lambda x, v: firefly_split_forward(x, x[:, :2], x[:, :2], v), ValueError, r"x: expected shape \(\.\.\., 2\)"),
        (
            lambda x, v: firefly_split_forward(x, x[..., None, None], x, v),
            ValueError,
            r"x: expected shape \(B, 3, H, W\)",
        ),
        (
            lambda x, v: firefly_split_forward(x.expand(1, 2, 3, 3), x.expand(3, 3, 3, 3), x.expand(3, 3, 3, 3), v),
            ValueError,
            r"x: expected shape \(B, 3, H, W\)",
        ),
        (lambda x, v: firefly_split_forward(x, x, x, None), TypeError, "epsilon: expected a tensor, got None"),
        (
            lambda x, v: firefly_split_forward(
                x.new_ones(1, 3, 6, 6), x.expand(3, 3, 3, 3), x.expand(3, 3, 3, 3), v, padding=-1
            ),
            RuntimeError,
            "negative padding",
        ),
        (lambda x, v: firefly_split_forward(x, x, x[:2], v), ValueError, "delta must have weight's shape"),
        (lambda x, v: firefly_split_forward(x, x.double(), x, v), TypeError, r"weight: expected torch\.float32"),
        (lambda x, v: firefly_split_forward(x, x, x, v, bias=v.double()), TypeError, r"bias: expected torch\.float32"),
        (lambda x, v: firefly_split_forward(x, x, x, v, delta_bias=v[:1]), ValueError, r"delta_bias: expected shape"),
    ],
)
def test_errors_name_the_argument(call: Callable[..., object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(numbers(3, 3, dtype=torch.float32), numbers(3, dtype=torch.float32))
