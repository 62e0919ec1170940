"""Split neurons: the reference against the mathematics, the ops against the reference on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import firefly_split, firefly_split_forward
from pcl_kernels.firefly_split import reference
from pcl_kernels.firefly_split.layout import block, walk_of
from tests.kernels.firefly_cases import (
    ACTIVATIONS,
    DTYPES,
    MEMORY,
    SMOOTH,
    WAYS,
    assert_within,
    cases,
    compute_eps,
    memory,
    numbers,
    operands,
)
from tests.kernels.ways import entered


@pytest.fixture(params=WAYS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from entered(request.param, monkeypatch)


# ---- the reference


def test_the_reference_evaluates_two_networks() -> None:
    x, w, delta = numbers(4, 6), numbers(3, 6, seed=1), numbers(3, 6, seed=2)
    epsilon = torch.tensor([0.5, 0.0, -0.25], dtype=torch.float64)
    plus, minus = (torch.tanh(x @ (w + sign * epsilon[:, None] * delta).T) for sign in (1, -1))
    found = reference.firefly_split_forward(x, w, delta, epsilon, activation="tanh")
    assert torch.allclose(found, (plus + minus) / 2, rtol=1e-14)
    assert torch.allclose(found, reference.firefly_split(x @ w.T, x @ delta.T, epsilon, activation="tanh"), rtol=1e-13)


def test_a_copy_is_one_neuron_whose_weights_have_moved() -> None:
    x, w, delta, epsilon = numbers(4, 6), numbers(3, 6, seed=1), numbers(3, 6, seed=2), numbers(3, seed=3)
    found = reference.firefly_split_forward(x, w, delta, epsilon, mirror=torch.ones(3))
    assert torch.allclose(found, torch.relu(x @ (w + epsilon[:, None] * delta).T), rtol=1e-14)


# ---- the pass behind the layer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_split(activation: str, dtype: torch.dtype, device: str, request: pytest.FixtureRequest) -> None:
    for shape, how in cases(request.node.callspec.id, activation, dtype):
        o = operands(shape, dtype, device, how)
        size, _ = o.u()
        found = firefly_split(o.a, o.d, o.epsilon, o.scale, o.shift, mirror=o.mirror, activation=activation)
        expected = reference.firefly_split(
            o.a, o.d, o.epsilon, o.scale, o.shift, mirror=o.mirror, activation=activation
        )
        assert_within(found, expected, 4 * size + 4)
        found = firefly_split(o.a, o.d, o.epsilon, activation=activation)
        expected = reference.firefly_split(o.a, o.d, o.epsilon, activation=activation)
        assert_within(found, expected, 4 * (o.a.double().abs() + 4 * o.d.double().abs()) + 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: str, dtype: torch.dtype, device: str, request: pytest.FixtureRequest) -> None:
    for shape, how in cases(request.node.callspec.id, activation, dtype):
        o = operands(shape, dtype, device, how)
        given = [o.a, o.d, o.epsilon, o.scale, o.shift]
        found, expected = (
            gradients(call, given, o.mirror, o.grad, activation) for call in (firefly_split, reference.firefly_split)
        )
        _, rough = o.u()  # the slopes change by no more than u does
        e, s = (v.double().abs().view(-1, *[1] * (o.a.dim() - 2)) for v in (o.epsilon, o.scale))
        rough = rough * o.grad.double().abs()
        a, d = o.a.double().abs(), o.d.double().abs()
        over = [n for n in range(o.a.dim()) if n != 1]
        bounds = [
            s * rough,
            s * e * rough,
            (s * d * rough).sum(over),
            ((a + e * d) * rough).sum(over),
            rough.sum(over),
        ]
        for one, other, bound in zip(found, expected, bounds, strict=True):
            assert_within(one, other.to(one.dtype), bound * (compute_eps(dtype) / compute_eps(one.dtype)))


def gradients(call: Callable[..., Tensor], given: list[Tensor], mirror: Tensor, grad: Tensor, activation: str) -> Any:
    leaves = [t.detach().requires_grad_() for t in given]
    y = call(*leaves, mirror=mirror, activation=activation)
    return torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_huge_and_tiny_numbers(activation: str, device: str) -> None:
    """What is finite stays finite, and what is small keeps its digits."""
    a = torch.tensor([[3e37, -3e37, 1e4, -1e4, 30.0, -30.0, 1e-30, -1e-30, 0.0]], device=device).requires_grad_()
    zero = torch.zeros(9, device=device)
    y = firefly_split(a, torch.zeros_like(a), zero, activation=activation)
    expected = reference.firefly_split(a, torch.zeros_like(a), zero, activation=activation)
    assert y.isfinite().all()
    assert torch.allclose(y, expected, rtol=2e-6, atol=1e-37 if activation in ("identity", "relu", "tanh") else 1e-6)
    (slope,) = torch.autograd.grad(y.sum(), a)
    (wanted,) = torch.autograd.grad(
        reference.firefly_split(a.double(), a.double(), zero, activation=activation).sum(), a
    )
    assert torch.allclose(slope, wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_in_its_place(activation: str, device: str) -> None:
    a = numbers(3, 20, dtype=torch.float32, device=device)
    a[1, 7] = torch.nan
    y = firefly_split(a, torch.ones_like(a), torch.ones(20, device=device), activation=activation)
    assert torch.equal(y.isnan(), a.isnan())


def test_no_step_leaves_the_neurons_as_they_are(device: str) -> None:
    a, d = numbers(3, 17, 5, dtype=torch.float32, device=device), numbers(3, 17, 5, dtype=torch.float32, device=device)
    assert torch.equal(firefly_split(a, d, torch.zeros(17, device=device)), a.relu())


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    many = [(7, 33, 500), (5000, 21)]
    shapes = [(9, 4, 32, 32), (8, 4, 3, 3), (8, 4, 3, 3), (8,)]
    large = [numbers(*shape, dtype=torch.float32) for shape in shapes]
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append([])
            for shape in many:
                o = operands(shape, torch.float32, "cpu")
                leaves = [o.a, o.d, o.epsilon, o.scale, o.shift]
                found[-1] += gradients(firefly_split, leaves, o.mirror, o.grad, "gelu")
            found[-1].append(firefly_split_forward(*large))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("how", ["contiguous", "channels-last", "half of a stack"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 5)], ids=str)
def test_nothing_is_copied_where_layers_leave_their_results(shape: tuple[int, ...], how: str) -> None:
    t = memory(numbers(*shape), how)
    assert block(t, walk_of(t).rows).tensor.data_ptr() == t.data_ptr()


def test_spans_of_positions_add_up(device: str) -> None:
    """More than one program of the GPU's form sums up."""
    o = operands((600, 2), torch.float64, device)
    given = [o.a, o.d, o.epsilon, o.scale, o.shift]
    found, expected = (gradients(c, given, o.mirror, o.grad, "tanh") for c in (firefly_split, reference.firefly_split))
    assert all(torch.allclose(x, y, rtol=1e-11) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("activation", SMOOTH)
def test_gradcheck_twice(activation: str) -> None:
    o = operands((2, 3, 4), torch.float64, "cpu")
    leaves = [t.requires_grad_() for t in (o.a, o.d, o.epsilon, o.scale, o.shift)]

    def call(*t: Tensor) -> Tensor:
        return firefly_split(*t, mirror=o.mirror, activation=activation)

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


# ---- what torch asks for


def test_torch_accepts_the_ops() -> None:
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for how in MEMORY:
        for d in (True, False):
            o = operands((2, 6, 3, 5), torch.float32, "cpu", how)
            vectors = [v[: 6 if d else 3] for v in (o.epsilon, o.scale, o.shift, o.mirror)]
            given = (o.a, o.d if d else None, *vectors, "gelu")
            torch.library.opcheck(torch.ops.pcl.firefly_split.default, given, test_utils=tests)
            grad = o.grad if d else o.grad[:, :3]
            torch.library.opcheck(torch.ops.pcl.firefly_split_backward.default, (*given, grad), test_utils=tests)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (
            lambda x, v: firefly_split(x, x, v, activation="elu"),
            ValueError,
            "activation: expected one of identity, relu",
        ),
        (lambda x, v: firefly_split([1.0], x, v), TypeError, "a: expected a tensor, got list"),
        (lambda x, v: firefly_split(x.int(), x, v), TypeError, "a: expected one of"),
        (lambda x, v: firefly_split(x, x.double(), v), TypeError, r"d: expected torch\.float32"),
        (lambda x, v: firefly_split(x, x[:2], v), ValueError, "d must have a's shape"),
        (lambda x, v: firefly_split(x[0], x[0], v), ValueError, r"a: expected shape \(B, m, \.\.\.\)"),
        (lambda x, v: firefly_split(x, x, v[:2]), ValueError, r"epsilon: expected shape \(3,\)"),
        (lambda x, v: firefly_split(x, x, v, scale=x), ValueError, r"scale: expected shape \(3,\)"),
        (lambda x, v: firefly_split(x, x, v, mirror=v.long()), TypeError, "mirror: expected one of"),
        (lambda x, v: firefly_split(x, x, v.to("meta")), ValueError, "epsilon: expected device cpu"),
    ],
)
def test_errors_name_the_argument(call: Callable[..., object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(numbers(3, 3, dtype=torch.float32), numbers(3, dtype=torch.float32))


def test_all_are_public() -> None:
    assert {"firefly_split", "firefly_split_forward"} <= set(pcl_kernels.__all__)
