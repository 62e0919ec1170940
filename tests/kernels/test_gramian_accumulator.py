"""The Gramian accumulated parameter by parameter is the Gramian."""

from __future__ import annotations

import pytest
import torch

from pcl_kernels import GramianAccumulator, gramian
from tests.kernels.gradient_cases import task_gradients, with_none


def test_adds_up_to_the_gramian() -> None:
    grads = with_none(task_gradients([(30, 4), (7,), (9000,), (2, 2), (1,)], 5, torch.float32))
    total = GramianAccumulator(5)
    for p in range(5):
        total.add([row[p] for row in grads])
    truth = gramian(grads)
    norms = truth.diagonal().sqrt()
    assert ((total.gram - truth).abs() <= 1e-14 * norms[:, None] * norms).all()
    assert torch.equal(total.gram, total.gram.T)


def test_inside_the_backward_pass() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
    losses = [model(torch.randn(8, 4)).square().mean() for _ in range(3)]
    grads = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    total = GramianAccumulator(3)
    for column in zip(*grads, strict=True):
        total.add(column)
    torch.testing.assert_close(total.gram, gramian([list(row) for row in grads]), rtol=1e-14, atol=0)
    assert not total.gram.requires_grad


def test_refuses() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        GramianAccumulator(0)
    total = GramianAccumulator(2)
    with pytest.raises(ValueError, match="gradients of 2 tasks; got 1"):
        total.add([torch.ones(2)])
    with pytest.raises(ValueError, match="shape"):
        total.add([torch.ones(2), torch.ones(3)])
    assert torch.equal(total.gram, torch.zeros(2, 2, dtype=torch.float64))
