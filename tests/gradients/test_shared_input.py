"""k losses of one batch: against autograd on each loss alone, and how often the model runs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import task_gradients


class Counting(nn.Sequential):
    """Counts forward passes, and backward passes through its first layer."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        out = super().forward(x)
        out.register_hook(self._count)
        return out

    def _count(self, gradient: Tensor) -> None:
        self.backwards += 1


@pytest.fixture
def parts() -> tuple[Counting, nn.ModuleList, Tensor, dict[str, object]]:
    torch.manual_seed(0)
    model, heads, x = (
        Counting().double(),
        nn.ModuleList([nn.Linear(3, 2) for _ in range(3)]).double(),
        torch.randn(5, 4).double(),
    )
    y = torch.randint(2, (3, 5))
    losses = {f"{i}": lambda f, i=i: F.cross_entropy(heads[i](f), y[i]) for i in range(3)}
    return model, heads, x, losses


def test_parameters_with_one_forward_pass(parts) -> None:  # type: ignore[no-untyped-def]
    model, heads, x, losses = parts
    shared, own = list(model.parameters()), list(heads.parameters())
    found = task_gradients(losses, shared, own, model=model, inputs=x)
    assert (model.forwards, model.backwards) == (1, 3)
    expected = task_gradients({t: lambda f=f: f(model(x)) for t, f in losses.items()}, shared, own)
    assert torch.equal(found.losses, expected.losses)
    assert torch.allclose(found.gramian(), expected.gramian(), rtol=1e-12)
    for a, b in zip(
        [*found.own, *found.combine([0.2, 0.3, 0.5])], [*expected.own, *expected.combine([0.2, 0.3, 0.5])], strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-12)


def test_shared_parameters_besides_the_features(parts) -> None:  # type: ignore[no-untyped-def]
    model, heads, x, losses = parts
    shared = [*model.parameters(), *heads.parameters()]
    found = task_gradients(losses, shared, model=model, inputs=x)
    expected = task_gradients({t: lambda f=f: f(model(x)) for t, f in losses.items()}, shared)
    for a, b in zip(found.each(), expected.each(), strict=True):
        for g, h in zip(a, b, strict=True):
            assert (g is None) == (h is None)
            assert g is None or torch.allclose(g, h, rtol=1e-12)
    with pytest.raises(ValueError, match="besides them"):
        task_gradients(losses, shared, model=model, inputs=x, level="features")


def test_features_with_one_backward_pass(parts) -> None:  # type: ignore[no-untyped-def]
    model, heads, x, losses = parts
    shared, own = list(model.parameters()), list(heads.parameters())
    found = task_gradients(losses, shared, own, model=model, inputs=x, level="features")
    gram = found.gramian()
    assert (model.forwards, model.backwards) == (1, 0)
    direction = found.combine([0.2, 0.3, 0.5])
    assert model.backwards == 1
    features = model(x).detach().requires_grad_()
    deltas = torch.stack([torch.autograd.grad(f(features), features)[0].flatten() for f in losses.values()])
    assert torch.allclose(gram, deltas @ deltas.T, rtol=1e-12)
    expected = task_gradients({t: lambda f=f: f(model(x)) for t, f in losses.items()}, shared, own)
    for a, b in zip([*direction, *found.own], [*expected.combine([0.2, 0.3, 0.5]), *expected.own], strict=True):
        assert torch.allclose(a, b, rtol=1e-10)
    for a, b in zip(found.each()[1], expected.each()[1], strict=True):
        assert torch.allclose(a, b, rtol=1e-10)


def test_a_loss_that_ignores_the_features(parts) -> None:  # type: ignore[no-untyped-def]
    model, heads, x, losses = parts
    losses = losses | {"1": lambda f: heads[1].weight.square().sum()}
    for level in ("parameters", "features"):
        found = task_gradients(
            losses, list(model.parameters()), list(heads.parameters()), model=model, inputs=x, level=level
        )
        assert found.each()[1] == [None] * 4
        assert (found.gramian()[1] == 0).all()
        assert all(g is not None for g in found.combine([0.2, 0.3, 0.5]))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"inputs": torch.ones(2, 4), "strategy": "segment"}, "batches of their own"),
        ({"inputs": {"a": torch.ones(2, 4)}, "level": "features"}, "one tensor as inputs"),
        ({"inputs": torch.ones(2, 4), "level": "layers"}, "expected one of parameters, features"),
        ({"model": None, "inputs": None, "strategy": "lowmem"}, "pass model and inputs"),
    ],
)
def test_refusals(arguments: dict[str, object], word: str) -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=word):
        task_gradients(
            **({"losses": {"a": lambda f: f.sum()}, "shared": list(model.parameters()), "model": model} | arguments)  # type: ignore[arg-type]
        )
