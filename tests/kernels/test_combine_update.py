"""The fused updates against their references and against torch.optim over many steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from pcl_kernels import _C, combine_adamw_, combine_sgd_
from pcl_kernels.combine_update import reference
from tests.kernels.gradient_cases import DTYPES, in_layout, task_gradients

SHAPES = [(3, 5), (1030,), (), (0,), (7, 2)]
K = 3


@pytest.fixture(params=_C.isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    _C.use_isa(request.param)
    yield
    _C.use_isa(_C.isas()[-1])


def state(dtype: torch.dtype, n: int, seed: int = 10) -> list[list[Tensor]]:
    """n lists like the parameters; the last one positive, as second moments are."""
    lists = task_gradients(SHAPES, n, dtype, seed=seed)
    return [*lists[:-1], [t.abs() for t in lists[-1]]]


def gradients(dtype: torch.dtype, seed: int = 0) -> list[list[Tensor | None]]:
    """Gradients with a parameter that one task lacks, and a last one that all lack."""
    grads: list[list[Tensor | None]] = [list(row) for row in task_gradients(SHAPES, K, dtype, seed=seed)]
    grads[1][0] = None
    for row in grads:
        row[-1] = None
    return grads


WEIGHTS = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64)

SGD: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
]
ADAM: list[dict[str, Any]] = [
    {},
    {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
    {"lr": 0.02, "weight_decay": 0.1, "decoupled": False},
    {"lr": 0.02, "weight_decay": 0.0, "decoupled": False},
]


def assert_same(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    """Equal but for a unit in the last place, where float64 sums in another order meet a rounding border."""
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            eps = torch.finfo(x.dtype).eps * (8 if x.dtype == torch.float64 else 1)
            torch.testing.assert_close(x, y, rtol=eps, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("first_step", [False, True])
@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd_is_its_formula(dtype: torch.dtype, first_step: bool, options: dict[str, Any]) -> None:
    results = []
    for step in (combine_sgd_, reference.combine_sgd_):
        params, buffers = state(dtype, 2)
        if first_step:
            for b in buffers:
                b.fill_(float("nan"))  # not read in the first step
        kept = params[-1].clone()
        step(params, gradients(dtype), WEIGHTS, momentum_buffers=buffers, first_step=first_step, **options)
        assert torch.equal(params[-1], kept), "no task has a gradient there"
        buffers[-1].fill_(0)
        results.append([params, buffers] if "momentum" in options else [params])
    assert_same(*results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", ADAM, ids=str)
def test_adamw_is_its_formula(dtype: torch.dtype, options: dict[str, Any]) -> None:
    results = []
    for step in (combine_adamw_, reference.combine_adamw_):
        params, means, squares = state(dtype, 3)
        if dtype == torch.float16:
            options = {**options, "eps": 1e-3}
        step(params, gradients(dtype), WEIGHTS, exp_avgs=means, exp_avg_sqs=squares, step=3, **options)
        results.append([params, means, squares])
    assert_same(*results)


def run_torch(optimizer: torch.optim.Optimizer, params: list[Parameter], steps: int) -> None:
    for t in range(steps):
        grads = gradients(params[0].dtype, seed=100 + t)
        for p, param in enumerate(params):
            column = [(w, row[p]) for w, row in zip(WEIGHTS, grads, strict=True)]
            total = sum(w * g.double() for w, g in column if g is not None)
            param.grad = total.to(param.dtype) if isinstance(total, Tensor) else None
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd_follows_torch_optim(dtype: torch.dtype, options: dict[str, Any]) -> None:
    theirs = [Parameter(t) for t in state(dtype, 2)[0]]
    run_torch(torch.optim.SGD(theirs, **options), theirs, 50)
    ours = [Parameter(t) for t in state(dtype, 2)[0]]
    buffers = [torch.full_like(p, float("nan")) for p in ours]
    for t in range(50):
        grads = gradients(dtype, seed=100 + t)
        combine_sgd_(ours, grads, WEIGHTS, momentum_buffers=buffers, first_step=t == 0, **options)
    assert_follows(ours, theirs, steps=50)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", ADAM, ids=str)
def test_adamw_follows_torch_optim(dtype: torch.dtype, options: dict[str, Any]) -> None:
    theirs = [Parameter(t) for t in state(dtype, 2)[0]]
    known = {key: value for key, value in options.items() if key != "decoupled"}
    kind = torch.optim.AdamW if options.get("decoupled", True) else torch.optim.Adam
    run_torch(kind(theirs, **known), theirs, 50)
    ours = [Parameter(t) for t in state(dtype, 2)[0]]
    means, squares = ([torch.zeros_like(p) for p in ours] for _ in range(2))
    for t in range(50):
        grads = gradients(dtype, seed=100 + t)
        combine_adamw_(ours, grads, WEIGHTS, exp_avgs=means, exp_avg_sqs=squares, step=t + 1, **options)
    assert_follows(ours, theirs, steps=50)


def assert_follows(ours: list[Parameter], theirs: list[Parameter], steps: int) -> None:
    """A few roundings of size eps a step, relative to the largest values on the way."""
    for a, b in zip(ours, theirs, strict=True):
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a, b, rtol=4 * steps * eps, atol=4 * steps * eps)


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_memory_layouts(layout: str) -> None:
    shapes = [(6, 7)]
    grads = task_gradients(shapes, 2, torch.float32)
    results = []
    for place in ("contiguous", layout):
        params, buffers = task_gradients(shapes, 2, torch.float32, seed=3)
        params = [in_layout(t, place) for t in params]
        combine_sgd_(params, grads, [1.0, 2.0], lr=0.1, momentum=0.5, momentum_buffers=buffers)
        results.append([params, buffers])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a[0], b[0])


def test_one_parameter_given_as_a_matrix_and_many_threads() -> None:
    matrix = torch.randn(4, 100_003)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            param = torch.ones(100_003)
            combine_sgd_([param], matrix, [0.1, 0.2, 0.3, 0.4], lr=0.5)
            results.append(param)
    finally:
        torch.set_num_threads(before)
    truth = torch.ones(100_003)
    reference.combine_sgd_([truth], matrix, [0.1, 0.2, 0.3, 0.4], lr=0.5)
    torch.testing.assert_close(results[0], truth, rtol=2**-23, atol=1e-8)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_writing_is_known_to_autograd() -> None:
    param = Parameter(torch.randn(5))
    loss = (param**2).sum()
    combine_sgd_([param], [torch.randn(5)], [1.0], lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_opcheck() -> None:
    grads = [torch.randn(3), None, torch.randn(2), torch.randn(2)]
    params, first, second = ([torch.rand(3), torch.rand(2)] for _ in range(3))
    weights = torch.ones(2, dtype=torch.float64)
    torch.library.opcheck(
        torch.ops.pcl.combine_sgd_.default,
        (params, first, grads, weights, 2, 0.1, 0.9, 0.0, 0.0, True, False),
    )
    torch.library.opcheck(
        torch.ops.pcl.combine_adamw_.default,
        (params, first, second, grads, weights, 2, 1, 0.1, 0.9, 0.999, 1e-8, 0.01, True),
    )


X = torch.ones(2)


@pytest.mark.parametrize(
    ("params", "options", "error", "words"),
    [
        ([X, X], {}, ValueError, "params must have one tensor per parameter, 1; got 2"),
        ([torch.ones(3)], {}, ValueError, r"params\[0\]: expected shape \(2,\)"),
        ([X.double()], {}, TypeError, r"params\[0\]: expected dtype torch.float32"),
        ([3.0], {}, TypeError, r"params\[0\]: expected a tensor; got float"),
        ([X], {"momentum": 0.9}, ValueError, "needs momentum_buffers"),
        ([X], {"momentum": 0.9, "momentum_buffers": []}, ValueError, "momentum_buffers must have one"),
        ([X], {"nesterov": True}, ValueError, "nesterov needs momentum > 0 and dampening = 0"),
    ],
)
def test_sgd_refuses(params: Any, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"combine_sgd_: .*{words}"):
        combine_sgd_(params, [X, X], [1.0, 1.0], lr=0.1, **options)
    assert torch.equal(X, torch.ones(2))


def test_adamw_refuses() -> None:
    with pytest.raises(ValueError, match="combine_adamw_: step counts from 1; got 0"):
        combine_adamw_([X], [X], [1.0], exp_avgs=[X], exp_avg_sqs=[X], step=0)
    with pytest.raises(ValueError, match="combine_adamw_: exp_avg_sqs must have one tensor per parameter"):
        combine_adamw_([X], [X], [1.0], exp_avgs=[X], exp_avg_sqs=[], step=1)
    assert torch.equal(X, torch.ones(2))
