"""The edit against central finite differences of |g(x) - d|^2 in float64."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pcl import MLP, ContinualModel, GradientEdit, ResNet18
from pcl.gradients.sample_distance import Rows, Way
from pcl.memory.gradient_edit import Objective


def smooth_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus())


def layer_norm_mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 4))


BACKBONES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "smooth": (smooth_mlp, (2, 3), 4),
    "relu": (lambda: MLP(6, [7, 4]), (6,), 4),
    "layer norm": (layer_norm_mlp, (6,), 4),
    "residual, batch norm": (lambda: ResNet18(1, 2), (1, 8, 8), 16),
}


def setup(name: str, setting: str) -> tuple[ContinualModel, Tensor, Callable[[Tensor, Rows], Tensor], list, list]:
    torch.manual_seed(1)
    build, shape, features = BACKBONES[name]
    model = ContinualModel(build().double(), features, setting)  # type: ignore[arg-type]
    model.add_task("a", [0, 1])
    model.add_task("b", [1, 2, 3])
    x = torch.rand(4, *shape, dtype=torch.float64)
    y, task = torch.tensor([0, 1, 3, 1]), torch.tensor([0, 0, 1, 1])

    def losses(x: Tensor, rows: Rows) -> Tensor:
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


@pytest.mark.parametrize("method", ["auto", "sweep", "ghost", "vmap", "loop"])
def test_every_method_gives_the_same(method: Way | Literal["auto"]) -> None:
    model, x, losses, shared, direction = setup("residual, batch norm", "class")
    expected = GradientEdit(0.1, method="loop").gradient(model, losses, x, shared, direction)
    found = GradientEdit(0.1, method=method).gradient(model, losses, x, shared, direction)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["auto", "sweep", "ghost", "vmap"])
@pytest.mark.parametrize("setting", ["task", "class"])
def test_a_perceptron_takes_every_way_without_a_warning(
    method: Way | Literal["auto"], setting: Literal["task", "class"], recwarn: pytest.WarningsRecorder
) -> None:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [5, 4]), 4, setting)
    model.add_task("a", [0, 1])
    x, y, shared = torch.rand(3, 6), torch.tensor([0, 1, 1]), model.shared_parameters()
    direction = [torch.randn_like(p) for p in shared]

    def losses(x: Tensor, rows: Rows) -> Tensor:
        return model.losses(x, y[rows], "a")

    expected = GradientEdit(0.1, method="loop").gradient(model, losses, x, shared, direction)
    found = GradientEdit(0.1, method=method).gradient(model, losses, x, shared, direction)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert not recwarn.list  # as where the fastest way does not do


def test_attention_is_differentiated_twice() -> None:
    torch.manual_seed(0)
    project = nn.Linear(3, 3)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = project

        def forward(self, x: Tensor) -> Tensor:
            q = self.project(x)
            return nn.functional.scaled_dot_product_attention(q, q, q).flatten(1)

    model = ContinualModel(Attention(), 12)
    model.add_task("a", [0, 1])
    x, y = torch.rand(3, 4, 3), torch.tensor([0, 1, 1])
    shared = model.shared_parameters()

    def losses(x: Tensor, rows: Rows) -> Tensor:
        return model.losses(x, y[rows], "a")

    found = GradientEdit(0.1, method="sweep").gradient(model, losses, x, shared, [None] * 2)
    expected = GradientEdit(0.1, method="loop").gradient(model, losses, x, shared, [None] * 2)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_batch_objective_is_the_distance_of_the_mean_gradient() -> None:
    model, x, losses, shared, direction = setup("smooth", "task")
    found = GradientEdit(0.1, objective="batch").gradient(model, losses, x, shared, direction)
    model.eval()
    step, expected = 1e-5, torch.zeros_like(x)
    for i in range(x.numel()):
        values = []
        for sign in (1, -1):
            moved = x.clone()
            moved.view(-1)[i] += sign * step
            g = torch.autograd.grad(losses(moved, slice(None)).mean(), shared)
            values.append(sum(float((p - d).square().sum()) for p, d in zip(g, direction, strict=True)))
        expected.view(-1)[i] = (values[0] - values[1]) / (2 * step)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_several_steps_are_steps_one_after_the_other() -> None:
    model, x, losses, shared, direction = setup("smooth", "task")
    once = GradientEdit(0.01)
    expected = x
    for _ in range(3):
        expected = once(model, losses, expected, shared, direction)
    assert torch.equal(GradientEdit(0.01, steps=3)(model, losses, x, shared, direction), expected)


def test_the_original_tensor_is_not_written() -> None:
    model, x, losses, shared, direction = setup("smooth", "task")
    before = x.clone()
    GradientEdit(10.0, steps=2)(model, losses, x, shared, direction)
    assert torch.equal(x, before)


@pytest.mark.parametrize("objective", ["distance", "alignment", "batch"])
def test_normalised_samples_move_as_their_pixels_would(objective: Objective) -> None:
    model, _, losses, shared, direction = setup("residual, batch norm", "task")
    mean, std = (0.4,), (0.2,)
    pixels = torch.rand(4, 1, 8, 8, dtype=torch.float64)

    def normalised_losses(x: Tensor, rows: Rows) -> Tensor:
        return losses((x - mean[0]) / std[0], rows)

    settings: Any = {"objective": objective, "steps": 2, "valid": (0.1, 0.9), "method": "loop"}
    expected = GradientEdit(0.05, **settings)(model, normalised_losses, pixels, shared, direction)
    edit = GradientEdit(0.05, mean=mean, std=std, **settings)
    found = edit(model, losses, (pixels - mean[0]) / std[0], shared, direction)
    assert torch.allclose(found * std[0] + mean[0], expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, pixels.clamp(0.1, 0.9))


@pytest.mark.parametrize(("alpha", "valid"), [(0.0, (0.0, 1.0)), (-1.0, None), (float("nan"), None), (0.1, (1.0, 1.0))])
def test_bad_edits_are_refused(alpha: float, valid: tuple[float, float] | None) -> None:
    with pytest.raises(ValueError, match="edit: expected"):
        GradientEdit(alpha, valid=valid)
    with pytest.raises(ValueError, match="steps >= 1"):
        GradientEdit(0.1, steps=0)
    with pytest.raises(ValueError, match="std > 0"):
        GradientEdit(0.1, std=(1.0, 0.0))
    with pytest.raises(ValueError, match="expected method"):
        GradientEdit(0.1, method="quick")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'distance', 'alignment' or 'batch'"):
        GradientEdit(0.1, objective="norm")  # type: ignore[arg-type]
