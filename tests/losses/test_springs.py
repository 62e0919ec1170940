"""Springs: their value and gradient against the formula, and that springs added up are the sum of all."""

import pytest
import torch
from torch import Tensor, nn

from pcl.losses.springs import Springs

SHAPES = {"backbone.a": (3, 4), "backbone.b": (4,), "heads.0.weight": (2, 3)}


def randoms(seed: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draws, dtype=torch.float64) for name, shape in SHAPES.items()}


def stiff(seed: int) -> dict[str, Tensor]:
    """Of very different sizes, and some exactly 0."""
    return {name: (20 * t).exp() * (t > -0.5) for name, t in randoms(seed).items()}


def written_out(pulls: list[tuple[dict[str, Tensor], dict[str, Tensor]]], theta: dict[str, Tensor]) -> Tensor:
    return sum(0.5 * (k[name] * (theta[name] - at[name]) ** 2).sum() for k, at in pulls for name in theta)  # type: ignore[return-value]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_springs_in_parallel_are_the_sum_of_all(count: int) -> None:
    pulls = [(stiff(i), randoms(100 + i)) for i in range(count)]
    springs = Springs("all")
    for stiffness, at in pulls:
        springs.attach(stiffness, at)
    theta = {name: t.requires_grad_() for name, t in randoms(7).items()}
    expected = written_out(pulls, theta)
    slopes = torch.autograd.grad(expected, list(theta.values()))
    assert torch.allclose(springs.value(theta), expected, rtol=1e-12)
    for force, slope in zip(springs.gradient(theta), slopes, strict=True):
        assert force is not None
        scale = sum(k[name].max() for k, _ in pulls for name in k)
        assert torch.allclose(force, slope, rtol=1e-9, atol=1e-14 * float(scale))


def test_where_no_spring_is_stiff_nothing_pulls() -> None:
    springs, zeros = Springs("all"), {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for seed in (1, 2):
        springs.attach(zeros, {name: t.float() for name, t in randoms(seed).items()})
    theta = {name: t.float() for name, t in randoms(3).items()}
    assert springs.value(theta) == 0
    assert all(force is not None and not force.any() for force in springs.gradient(theta))


def test_renewed_springs_rest_where_the_parameters_are() -> None:
    springs = Springs("all")
    first, second, at = stiff(1), stiff(2), randoms(3)
    springs.renew(first, randoms(4))
    springs.renew(second, at, keep=0.25)
    total = {name: 0.25 * first[name] + second[name] for name in SHAPES}
    theta = randoms(5)
    assert torch.allclose(springs.value(theta), written_out([(total, at)], theta), rtol=1e-13)


def test_unknown_parameters_are_left_alone() -> None:
    springs = Springs()
    assert springs.gradient(randoms(0)) == [None] * 3
    springs.attach({"backbone.b": torch.ones(4)}, {"backbone.b": torch.zeros(4)})
    found = springs.gradient(randoms(0))
    assert [f is None for f in found] == [True, False, True]


def test_what_is_protected() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "heads": nn.ModuleList([nn.Linear(2, 2)])})
    model["backbone"].bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    assert list(Springs("backbone").parameters(model)) == ["backbone.weight"]
    assert list(Springs("all").parameters(model)) == ["backbone.weight", "heads.0.weight", "heads.0.bias"]
    with pytest.raises(ValueError, match="expected 'backbone' or 'all', got 'heads'"):
        Springs("heads")  # type: ignore[arg-type]


def test_state_is_the_springs() -> None:
    springs, other = Springs("all"), Springs("all")
    for seed in (1, 2):
        springs.attach(stiff(seed), randoms(seed))
    other.attach(stiff(3), randoms(3))
    other.load_state_dict(springs.state_dict(), torch.device("cpu"))
    assert torch.equal(springs.value(randoms(4)), other.value(randoms(4)))
    other.attach(stiff(5), randoms(5))  # what one does later the other does not see
    assert not torch.equal(springs.value(randoms(4)), other.value(randoms(4)))
