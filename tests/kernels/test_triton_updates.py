"""The fused GPU updates against torch.optim, step by step, in Triton's interpreter or on a device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.backends import BACKENDS  # before triton: tells it to interpret where there is no GPU
from tests.kernels.gradient_cases import task_gradients

pytest.importorskip("triton")
from pcl_kernels.combine import triton as kernels
from pcl_kernels.gramian import triton as gramian

SHAPES = [(3,), (65, 4), (2100,), (1,)]
TASKS, STEPS = 3, 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
assert BACKENDS


def setting(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=DEVICE)


def inputs(dtype: torch.dtype, step: int) -> tuple[list[Tensor | None], Tensor, list[Tensor]]:
    """Gradients by parameter and task, one missing; weights; and their combination in float64."""
    rows = task_gradients(SHAPES, TASKS, dtype, seed=step, device=DEVICE)
    grads: list[Tensor | None] = [rows[i][p] for p in range(len(SHAPES)) for i in range(TASKS)]
    grads[1] = None
    weights = setting([0.5, -1.25, 2.0])
    sums = []
    for p in range(len(SHAPES)):
        row = zip(weights, grads[p * TASKS : (p + 1) * TASKS], strict=True)
        terms = [w * g.double() for w, g in row if g is not None]
        sums.append(torch.stack(terms).sum(0))
    return grads, weights, sums


def assert_close(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    """To a few roundings a step of quantities of size about 10."""
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 10 * STEPS * torch.finfo(dtype).eps


def parameters(dtype: torch.dtype) -> list[Tensor]:
    return task_gradients(SHAPES, 1, dtype, seed=99, device=DEVICE)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01},
        {"momentum": 0.9, "nesterov": True},
    ],
    ids=["plain", "decay", "momentum", "nesterov"],
)
def test_sgd(options: dict, dtype: torch.dtype) -> None:
    ours = parameters(dtype)
    theirs = [p.clone().requires_grad_() for p in ours]
    optimizer = torch.optim.SGD(theirs, lr=0.1, foreach=False, **options)
    momentum = options.get("momentum", 0.0)
    buffers = [torch.zeros_like(p) for p in ours] if momentum else None
    for step in range(STEPS):
        grads, weights, sums = inputs(dtype, step)
        for p, d in zip(theirs, sums, strict=True):
            p.grad = d.to(dtype)
        optimizer.step()
        keep = 1.0 if step == 0 else 1 - options.get("dampening", 0.0)
        settings = setting([0.1, momentum, keep, options.get("weight_decay", 0.0)])
        nesterov = options.get("nesterov", False)
        kernels.combine_sgd(grads, weights, TASKS, ours, buffers, settings, nesterov)
        assert_close(ours, [p.detach() for p in theirs], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("decoupled", [True, False], ids=["adamw", "adam"])
def test_adamw(decoupled: bool, dtype: torch.dtype) -> None:
    ours = parameters(dtype)
    theirs = [p.clone().requires_grad_() for p in ours]
    lr, decay, beta1, beta2, eps = 0.01, 0.1, 0.9, 0.99, 1e-8
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(theirs, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay, foreach=False)
    first, second = [torch.zeros_like(p) for p in ours], [torch.zeros_like(p) for p in ours]
    for step in range(STEPS):
        grads, weights, sums = inputs(dtype, step)
        for p, d in zip(theirs, sums, strict=True):
            p.grad = d.to(dtype)
        optimizer.step()
        t = step + 1
        settings = setting(
            [
                *(1 - lr * decay if decoupled else 1.0, 0.0 if decoupled else decay, beta1, beta2),
                *(lr / (1 - beta1**t), (1 - beta2**t) ** 0.5, eps),
            ]
        )
        kernels.combine_adamw(grads, weights, TASKS, ours, first, second, settings)
        assert_close(ours, [p.detach() for p in theirs], dtype)
        assert_close(first, [optimizer.state[p]["exp_avg"] for p in theirs], dtype)
        assert_close(second, [optimizer.state[p]["exp_avg_sq"] for p in theirs], dtype)


def test_gramian_of_many_tasks_goes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gramian, "LARGEST", 4)
    grads = [torch.randn(33, device=DEVICE) for _ in range(7)]
    j = torch.stack(grads).double()
    assert (gramian.gramian(grads, 7) - j @ j.T).abs().max() < 1e-12


def test_parameters_in_other_memory_layouts_are_updated_in_place() -> None:
    parameter = torch.ones(6, 4, device=DEVICE).T
    gradient: Tensor | None = torch.arange(24.0, device=DEVICE).reshape(4, 6)
    kernels.combine_sgd([gradient], setting([1.0]), 1, [parameter], None, setting([0.5, 0, 1, 0]), False)
    assert torch.equal(parameter, 1 - 0.5 * gradient)
