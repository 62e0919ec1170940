"""The path integral of SI, where it is known."""

import pytest
import torch
from torch import Tensor, nn

from pcl import SI, ContinualModel


def model_at(theta: Tensor) -> ContinualModel:
    """A model whose backbone has these numbers."""
    backbone = nn.Linear(theta.numel(), 1, bias=False).double()
    with torch.no_grad():
        backbone.weight.copy_(theta.view(1, -1))
    return ContinualModel(backbone, 1)


def descend(model: ContinualModel, term: SI, h: Tensor, m: Tensor, lr: float, steps: int) -> None:
    """Gradient descent on 1/2 sum_j h_j (theta_j - m_j)^2."""
    weight = model.backbone.weight
    for _ in range(steps):
        before = weight.detach().clone()
        g = h * (before - m)
        with torch.no_grad():
            weight -= lr * g
        term.follow({"backbone.weight": weight}, [before], [g])  # type: ignore[dict-item]


H = torch.tensor([[0.0, 0.1, 1.0, 3.0, 10.0]], dtype=torch.float64)
M = torch.tensor([[1.0, -2.0, 0.5, 3.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 10, 200])
def test_importance_on_a_quadratic(steps: int) -> None:
    """theta_k - m = (1 - lr h)^k (theta_0 - m), a geometric series."""
    lr, start = 0.05, torch.zeros(1, 5, dtype=torch.float64)
    term, model = SI(2.0, damping=0.1), model_at(start)
    descend(model, term, H, M, lr, steps)
    q, distance = 1 - lr * H, (start - M).square()
    series = torch.where(q.square() < 1, (1 - q.pow(2 * steps)) / (1 - q.square()), float(steps))
    omega = lr * H.square() * distance * series
    assert torch.allclose(term.state_dict()["path"]["backbone.weight"], omega, rtol=1e-12)
    length = (model.backbone.weight.detach() - start).square()  # type: ignore[operator]
    term.task_ended(model, "a")
    assert torch.allclose(term.springs["backbone.weight"].stiffness, 4.0 * omega / (length + 0.1), rtol=1e-12)
    assert torch.equal(term.springs["backbone.weight"].rest, model.backbone.weight.detach())  # type: ignore[operator]


def test_along_small_steps_it_is_the_fall_of_the_loss() -> None:
    """omega = 1/2 h (distance before^2 - distance after^2) up to the order of the step, and halved with it."""
    errors = []
    for lr in (1e-3, 5e-4):
        term, model = SI(1.0), model_at(torch.zeros(1, 5))
        descend(model, term, H, M, lr, int(0.2 / lr))
        fall = 0.5 * H * (M.square() - (model.backbone.weight.detach() - M).square())  # type: ignore[operator]
        errors.append((term.state_dict()["path"]["backbone.weight"] - fall).abs().max() / fall.max())
    assert errors[0] < 0.01
    assert 1.9 < errors[0] / errors[1] < 2.1


def test_penalty_after_several_ends() -> None:
    """Against the formula, path by path, and autograd."""
    term, model = SI(0.7, damping=0.2), model_at(torch.zeros(1, 5))
    weight = model.backbone.weight
    total = torch.zeros_like(H)
    for end, target in enumerate((M, -M, 2 * M)):
        start = weight.detach().clone()  # type: ignore[operator]
        descend(model, term, H, target, 0.05, 7)
        omega = term.state_dict()["path"]["backbone.weight"].clone()
        length = (weight.detach() - start).square()  # type: ignore[operator]
        total += omega / (length + 0.2)
        term.task_ended(model, f"task {end}")
    anchor = weight.detach().clone()  # type: ignore[operator]
    theta = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = 0.7 * (total * (theta - anchor).square()).sum()
    assert torch.allclose(term.value({"backbone.weight": theta}), expected, rtol=1e-12)
    (force,) = term.gradient({"backbone.weight": theta})
    assert force is not None
    assert torch.allclose(force, torch.autograd.grad(expected, theta)[0], rtol=1e-12)


def test_two_ends_at_once_are_one() -> None:
    terms = [SI(1.0), SI(1.0)]
    models = [model_at(torch.zeros(1, 5)) for _ in terms]
    for term, model, ends in zip(terms, models, ("a", "ab"), strict=True):
        descend(model, term, H, M, 0.05, 5)
        for task in ends:
            term.task_ended(model, task)
    first, second = (term.springs["backbone.weight"] for term in terms)
    assert torch.equal(first.stiffness, second.stiffness)
    assert torch.equal(first.rest, second.rest)


def test_moving_against_the_gradient_makes_no_spring() -> None:
    term, model = SI(1.0), model_at(torch.zeros(1, 5))
    descend(model, term, H, M, -0.05, 3)
    assert (term.state_dict()["path"]["backbone.weight"] <= 0).all()
    term.task_ended(model, "a")
    assert not term.springs["backbone.weight"].stiffness.any()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="SI: expected a finite strength above 0, got -1"):
        SI(-1)
    with pytest.raises(ValueError, match="expected damping > 0, got 0"):
        SI(1.0, damping=0.0)
