"""Scores of split neurons: the reference against the integral, the op against the reference on every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import pcl_kernels
from pcl_kernels import firefly_score, firefly_split
from pcl_kernels.firefly_score import reference
from tests.kernels.firefly_cases import (
    ACTIVATIONS,
    DTYPES,
    MEMORY,
    SMOOTH,
    WAYS,
    Operands,
    cases,
    compute_eps,
    numbers,
    operands,
)
from tests.kernels.ways import entered


@pytest.fixture(params=WAYS)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from entered(request.param, monkeypatch)


def score(call: Callable[..., Tensor], o: Operands, activation: str, points: int = 3) -> Tensor:
    return call(o.a, o.d, o.epsilon, o.grad, o.scale, o.shift, mirror=o.mirror, activation=activation, points=points)


@pytest.mark.parametrize("activation", SMOOTH)
def test_the_reference_tends_to_the_integral(activation: str) -> None:
    """1/ε ∫ dL/dζ dζ = (L(ε) - L(0)) / ε for the linear L = <g, h>; the midpoint rule is off by O(1 / n²)."""
    o = operands((6, 4, 5), torch.float64, "cpu")
    given = (o.scale, o.shift)
    step = o.epsilon.where(o.epsilon != 0, 0.7)
    far, near = (firefly_split(o.a, o.d, e, *given, mirror=o.mirror, activation=activation) for e in (step, 0 * step))
    integral = (o.grad * (far - near)).sum((0, 2)) / step
    errors = [
        (score(reference.firefly_score, o._replace(epsilon=step), activation, n) - integral).abs() for n in (8, 80)
    ]
    assert (errors[1] <= errors[0] / 50 + 1e-12).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_score(activation: str, dtype: torch.dtype, device: str, request: pytest.FixtureRequest) -> None:
    for shape, how in cases(request.node.callspec.id, activation, dtype):
        o = operands(shape, dtype, device, how)
        _, rough = o.u()
        s = o.scale.double().abs().view(-1, *[1] * (o.a.dim() - 2))
        over = [n for n in range(o.a.dim()) if n != 1]
        bound = (s * o.d.double().abs() * o.grad.double().abs() * rough).sum(over) * compute_eps(dtype)
        for points in (1, 3):
            found, expected = (score(call, o, activation, points) for call in (firefly_score, reference.firefly_score))
            assert found.dtype == torch.float64
            assert ((found - expected).abs() <= bound).all()


def test_options_may_be_left_out(device: str) -> None:
    o = operands((3, 5, 4), torch.float64, device)
    found = firefly_score(o.a, o.d, o.epsilon, o.grad, activation="silu")
    expected = reference.firefly_score(o.a, o.d, o.epsilon, o.grad, activation="silu")
    assert torch.allclose(found, expected, rtol=1e-12)


def test_a_linear_neuron_gains_by_moving_and_not_by_splitting(device: str) -> None:
    o = operands((6, 4), torch.float64, device)
    mirror = torch.tensor([-1.0, 1.0, -1.0, 1.0], device=device)
    found = firefly_score(o.a, o.d, o.epsilon, o.grad, mirror=mirror, activation="identity")
    assert torch.allclose(found, (o.grad * o.d).sum(0) * (mirror > 0), rtol=1e-13, atol=0)


def test_spans_of_positions_add_up(device: str) -> None:
    o = operands((600, 2), torch.float64, device)
    found, expected = (score(call, o, "tanh") for call in (firefly_score, reference.firefly_score))
    assert torch.allclose(found, expected, rtol=1e-11)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    many = [operands(shape, torch.float32, "cpu", how) for shape in [(7, 33, 500), (5000, 21)] for how in MEMORY]
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(torch.cat([score(firefly_score, o, "gelu") for o in many]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_float64_sums_keep_what_float32_sums_would_lose(device: str) -> None:
    """Two halves that cancel hide a small rest."""
    n = 600
    d = torch.ones(2 * n + 1, 1, device=device)
    grad = torch.cat([torch.full((n, 1), 1e6), torch.full((n, 1), -1e6), torch.ones(1, 1)]).to(device)
    ones = torch.ones(1, device=device)
    assert firefly_score(torch.zeros_like(d), d, ones, grad, mirror=ones, activation="identity").item() == 1


def test_torch_accepts_the_op() -> None:
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
    for how in MEMORY:
        o = operands((2, 6, 3, 5), torch.float32, "cpu", how)
        given = (o.a, o.d, o.epsilon, o.grad, o.scale, None, o.mirror, "gelu", 3)
        torch.library.opcheck(torch.ops.pcl.firefly_score.default, given, test_utils=tests)


def test_compile_traces_through() -> None:
    o = operands((4, 5), torch.float32, "cpu")
    traced = torch.compile(lambda *t: firefly_score(*t) + 1, backend="eager", fullgraph=True)
    assert torch.equal(traced(*o[:3], o.grad), firefly_score(*o[:3], o.grad) + 1)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x, v: firefly_score(x, x, v, x, activation="elu"), ValueError, "activation: expected one of identity"),
        (lambda x, v: firefly_score(x, x, v, x, points=0), ValueError, "points: expected at least 1, got 0"),
        (lambda x, v: firefly_score(x[0], x[0], v, x[0]), ValueError, r"a: expected shape \(B, m, \.\.\.\)"),
        (lambda x, v: firefly_score(x, x[:2], v, x), ValueError, "d must have a's shape"),
        (lambda x, v: firefly_score(x, x, v, x[:2]), ValueError, "grad must have a's shape"),
        (lambda x, v: firefly_score(x, x, v, x.double()), TypeError, r"grad: expected torch\.float32"),
        (lambda x, v: firefly_score(x, x, v[:1], x), ValueError, r"epsilon: expected shape \(3,\)"),
    ],
)
def test_errors_name_the_argument(call: Callable[..., object], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(numbers(3, 3, dtype=torch.float32), numbers(3, dtype=torch.float32))


def test_it_is_public() -> None:
    assert "firefly_score" in pcl_kernels.__all__
