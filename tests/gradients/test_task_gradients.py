"""Task gradients against autograd on each loss alone."""

from functools import partial

import pytest
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
    each = found.each()
    assert torch.allclose(each[0][0], 2 * shared * head_a)  # type: ignore[arg-type]
    assert torch.allclose(each[1][0], head_b * torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[arg-type]
    assert torch.equal(each[0][1], torch.ones(2))  # type: ignore[arg-type]
    assert each[1][1] is None
    assert torch.allclose(found.own[0], (shared**2).sum() + 1)  # type: ignore[arg-type]
    assert torch.allclose(found.own[1], (shared * torch.tensor([1.0, 2.0, 3.0])).sum())  # type: ignore[arg-type]
    assert not found.losses.requires_grad
    assert shared.grad is None


def test_a_model_and_its_inputs_give_what_losses_of_no_argument_give() -> None:
    torch.manual_seed(0)
    model, heads = nn.Linear(4, 3), [nn.Linear(3, 1), nn.Linear(3, 1)]
    inputs = {"a": torch.randn(5, 4), "b": torch.randn(2, 4)}
    of_features = {task: lambda f, head=head: head(f).square().mean() for task, head in zip("ab", heads, strict=True)}
    of_nothing = {task: lambda task=task: of_features[task](model(inputs[task])) for task in "ab"}
    shared, own = list(model.parameters()), [p for head in heads for p in head.parameters()]
    expected = task_gradients(of_nothing, shared, own)
    found = task_gradients(of_features, shared, own, model=model, inputs=inputs)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-7)  # one pass multiplies other shapes
    close(found.losses, expected.losses)
    close(found.gramian(), expected.gramian())
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    for one, other in zip(found.combine(weights) + found.own, expected.combine(weights) + expected.own, strict=True):
        close(one, other)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"losses": {}}, "at least one task"),
        ({"strategy": "fast"}, "expected one of auto, loop"),
        ({"model": nn.Identity()}, "go together"),
        ({"model": nn.Identity(), "inputs": {"b": torch.ones(1)}}, "same tasks"),
    ],
)
def test_refusals(arguments: dict[str, object], word: str) -> None:
    p = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match=word):
        task_gradients(**({"losses": {"a": lambda: p * 2}, "shared": [p]} | arguments))  # type: ignore[arg-type]
