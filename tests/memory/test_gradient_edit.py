"""The edit against central finite differences of |g(x) - d|^2 in float64."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pcl import MLP, ContinualModel, GradientEdit, ResNet18
from pcl.memory import gradient_edit


def smooth_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus())


def layer_norm_mlp() -> nn.Module:  # not covered by sample norms: edited sample by sample
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4))


BACKBONES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "smooth": (smooth_mlp, (2, 3), 4),
    "relu": (lambda: MLP(6, [7, 4]), (6,), 4),
    "layer norm": (layer_norm_mlp, (6,), 4),
    "residual, batch norm": (lambda: ResNet18(1, 2), (1, 8, 8), 16),
}


def setup(name: str, setting: str) -> tuple[ContinualModel, Tensor, Callable[[Tensor, slice], Tensor], list, list]:
    torch.manual_seed(1)
    build, shape, features = BACKBONES[name]
    model = ContinualModel(build().double(), features, setting)  # type: ignore[arg-type]
    model.add_task("a", [0, 1])
    model.add_task("b", [1, 2, 3])
    x = torch.rand(4, *shape, dtype=torch.float64)
    y, task = torch.tensor([0, 1, 3, 1]), torch.tensor([0, 0, 1, 1])

    def losses(x: Tensor, rows: slice) -> Tensor:
        return model.mixed_losses(x, y[rows], task[rows], ("a", "b"))

    shared = model.shared_parameters()
    direction = [0.1 * torch.randn_like(p) for p in shared]
    return model, x, losses, shared, direction


def distance(losses: Callable, x: Tensor, row: int, shared: list, direction: list) -> Tensor:
    """|g(x) - d|^2 of the one sample in ``row``."""
    rows = slice(row, row + 1)
    g = torch.autograd.grad(losses(x[rows], rows).sum(), shared, allow_unused=True)
    return sum(
        ((torch.zeros_like(d) if p is None else p) - d).square().sum() for p, d in zip(g, direction, strict=True)
    )


@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.filterwarnings("ignore:edit")
def test_gradient_equals_central_finite_differences(name: str, setting: str) -> None:
    model, x, losses, shared, direction = setup(name, setting)
    found = GradientEdit(0.1).gradient(model, losses, x, shared, direction)
    model.eval()
    step, expected = 1e-5, torch.zeros_like(x)
    pixels = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(0))[:6].tolist()
    for row in range(len(x)):
        for pixel in pixels:
            values = []
            for sign in (1, -1):
                moved = x.clone()
                moved[row].view(-1)[pixel] += sign * step
                values.append(distance(losses, moved, row, shared, direction))
            expected[row].view(-1)[pixel] = (values[0] - values[1]) / (2 * step)
    chosen = torch.zeros_like(x[0]).view(-1).index_fill(0, torch.tensor(pixels), 1).view_as(x[0]).bool()
    error = (found - expected)[:, chosen].norm() / expected[:, chosen].norm()
    assert error < 1e-6


def test_a_step_moves_samples_towards_the_direction() -> None:
    model, x, losses, shared, direction = setup("smooth", "task")
    before = [float(distance(losses, x, row, shared, direction)) for row in range(4)]
    edited = GradientEdit(1e-3, valid=None)(model, losses, x, shared, direction)
    after = [float(distance(losses, edited, row, shared, direction)) for row in range(4)]
    assert all(a < b for a, b in zip(after, before, strict=True))


def test_distance_and_alignment_differ_by_the_squared_norm() -> None:
    model, x, losses, shared, direction = setup("residual, batch norm", "task")
    distance_part = GradientEdit(0.1).gradient(model, losses, x, shared, direction)
    norm_part = GradientEdit(0.1).gradient(model, losses, x, shared, [None] * len(shared))
    found = GradientEdit(0.1, objective="alignment").gradient(model, losses, x, shared, direction)
    assert torch.allclose(found, distance_part - norm_part, rtol=1e-9, atol=1e-12)


def test_edits_stay_in_the_valid_range() -> None:
    model, x, losses, shared, direction = setup("smooth", "task")
    edited = GradientEdit(1e6)(model, losses, x, shared, direction)
    assert edited.min() == 0
    assert edited.max() == 1
    assert not torch.equal(edited, x)


def test_samples_whose_gradient_is_not_finite_stay() -> None:
    model, x, losses, shared, direction = setup("smooth", "task")
    x[1] = torch.nan
    edited = GradientEdit(0.1)(model, losses, x, shared, direction)
    assert torch.isnan(edited[1]).all()
    assert torch.isfinite(edited[[0, 2, 3]]).all()


@pytest.mark.filterwarnings("ignore:edit")
@pytest.mark.parametrize("name", ["residual, batch norm", "layer norm"])
def test_modes_gradients_and_statistics_are_left_alone(name: str) -> None:
    model, x, losses, shared, direction = setup(name, "task")
    model.backbone.train()
    frozen = next(m for m in model.modules() if not list(m.children()))
    frozen.eval()
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    GradientEdit(0.1)(model, losses, x, shared, direction)
    assert model.backbone.training
    assert not frozen.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(buffers[key], value) for key, value in model.state_dict().items())


def test_the_slow_way_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcl.notices._said", set())
    arguments = setup("layer norm", "task")
    model, x, losses, shared, direction = arguments
    with pytest.warns(UserWarning, match="sample by sample.*LayerNorm"):
        GradientEdit(0.1)(model, losses, x, shared, direction)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GradientEdit(0.1)(model, losses, x, shared, direction)


def test_both_ways_agree() -> None:
    model, x, losses, shared, direction = setup("residual, batch norm", "task")
    model.eval()
    one = gradient_edit._batch_gradient(model, losses, x, shared, direction)
    other = [gradient_edit._sample_gradient(losses, x, slice(i, i + 1), shared, direction) for i in range(4)]
    assert torch.allclose(one, torch.cat(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("alpha", "valid"), [(0.0, (0.0, 1.0)), (-1.0, None), (float("nan"), None), (0.1, (1.0, 1.0))])
def test_bad_edits_are_refused(alpha: float, valid: tuple[float, float] | None) -> None:
    with pytest.raises(ValueError, match="edit: expected"):
        GradientEdit(alpha, valid=valid)
    with pytest.raises(ValueError, match="'distance' or 'alignment'"):
        GradientEdit(0.1, objective="norm")  # type: ignore[arg-type]
