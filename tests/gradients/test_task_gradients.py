"""Task gradients against autograd on each loss alone."""

import torch
from torch import nn

from pcl import task_gradients


def test_gradients_of_every_task() -> None:
    torch.manual_seed(0)
    shared, used_by_a = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2))
    head_a, head_b = nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(()))
    losses = {
        "a": lambda: (shared**2).sum() * head_a + used_by_a.sum(),
        "b": lambda: (shared * torch.tensor([1.0, 2.0, 3.0])).sum() * head_b + head_a,
    }
    found = task_gradients(losses, [shared, used_by_a], [head_a, head_b])
    assert found.tasks == ("a", "b")
    assert torch.allclose(found.losses, torch.stack([losses["a"](), losses["b"]()]))
    assert torch.allclose(found.shared[0][0], 2 * shared * head_a)  # type: ignore[arg-type]
    assert torch.allclose(found.shared[1][0], head_b * torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[arg-type]
    assert torch.equal(found.shared[0][1], torch.ones(2))  # type: ignore[arg-type]
    assert found.shared[1][1] is None
    assert torch.allclose(found.own[0], (shared**2).sum() + 1)  # type: ignore[arg-type]
    assert torch.allclose(found.own[1], (shared * torch.tensor([1.0, 2.0, 3.0])).sum())  # type: ignore[arg-type]
    assert not found.losses.requires_grad
    assert shared.grad is None
