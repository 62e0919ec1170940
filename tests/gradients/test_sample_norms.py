"""Per-sample gradient norms against per-sample gradients, layer type by layer type."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pcl import ResNet18
from pcl.gradients.sample_norms import SampleNorms


class Twice(nn.Module):
    """One layer that runs twice, and an activation that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        return self.outer(self.inner(h).relu_())


def conv(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten())


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)), (5,)),
    "linear on positions, few": (lambda: conv(nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 7)), (2, 9)),
    "linear on positions, many": (lambda: conv(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)), (6, 3)),
    "convolution, many positions": (lambda: conv(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh()), (2, 6, 5)),
    "convolution, few positions": (lambda: conv(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 8, 3, bias=False)), (2, 4, 4)),
    "stride and dilation": (lambda: conv(nn.Conv2d(2, 3, (3, 2), stride=2, padding=(2, 1), dilation=2)), (2, 9, 9)),
    "batch norm 2d": (lambda: conv(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (2, 5, 5)),
    "batch norm 1d": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh()), (5,)),
    "a layer run twice": (Twice, (5,)),
    "relu in place": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), (5,)),
    "residual network": (lambda: ResNet18(1, 4), (1, 8, 8)),
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build().double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):  # statistics that are not 0 and 1
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            module.weight.data.normal_()
    return model.eval(), torch.randn(3, *shape, dtype=torch.float64)


def losses(model: nn.Module, x: Tensor) -> Tensor:
    return torch.logsumexp(model(x), dim=1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("frozen", [False, True])
def test_norms_equal_those_of_per_sample_gradients(name: str, frozen: bool) -> None:
    model, x = make(name)
    shared = list(model.parameters())[1 if frozen else 0 :]
    assert SampleNorms.uncovered(model, shared) == ""
    with SampleNorms(model, shared) as norms:
        total = losses(model, x).sum()
    squared, gradients = norms.squared(total)
    for b in range(len(x)):
        alone = torch.autograd.grad(losses(model, x[b : b + 1]).sum(), shared)
        expected = sum(g.square().sum() for g in alone)
        assert torch.isclose(squared[b], expected, rtol=1e-10)
    whole = torch.autograd.grad(losses(model, x).sum(), shared)
    for found, expected in zip(gradients, whole, strict=True):
        assert torch.allclose(found, expected, rtol=1e-10)


def test_hooks_are_gone_afterwards() -> None:
    model, _ = make("linear")
    with pytest.raises(RuntimeError), SampleNorms(model, list(model.parameters())):
        raise RuntimeError
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "ungrouped"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding="same")), "numeric zero padding"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "zero padding"),
        (nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), "batch also in evaluation"),
        (nn.Sequential(nn.LayerNorm(4)), "LayerNorm"),
        (nn.ModuleDict({"a": (layer := nn.Linear(3, 3)), "b": nn.Linear(3, 3)}), "several layers"),
    ],
)
def test_what_is_not_covered_is_named(model: nn.Module, word: str) -> None:
    if isinstance(model, nn.ModuleDict):
        model["b"].weight = model["a"].weight  # tied
    assert word in SampleNorms.uncovered(model, list(model.parameters()))
