"""MaxDO: close to every gradient, in units of its length."""

import pytest
import torch
from torch import Tensor

from pcl import MaxDO
from tests.weighting.cases import gradients, weigh


def relative_asymmetric_distance(d: Tensor, g: Tensor) -> Tensor:
    away = (d - g).norm(dim=-1)
    return (away / (away + g.norm(dim=-1))).amax(dim=-1)


@pytest.mark.parametrize("width", [3, 30])
@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("seed", range(3))
def test_no_direction_is_nearer_to_all(k: int, seed: int, width: int) -> None:
    g = gradients(k, seed, width=width)
    weights = weigh(MaxDO(), g)
    d = weights @ g
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    draws = torch.Generator().manual_seed(seed)
    ours = relative_asymmetric_distance(d, g)
    for size in (1e-6, 1e-3, 0.1):
        turns = torch.randn(300, width, dtype=torch.float64, generator=draws)
        others = d + size * g.norm(dim=1).min() * turns
        assert (relative_asymmetric_distance(others.unsqueeze(1), g) >= ours - 1e-12).all()


@pytest.mark.parametrize("seed", range(10))
def test_no_task_ascends(seed: int) -> None:
    """<g_i, d> >= |d|^2 / 2, because the ratio is at most 1."""
    g = gradients(6, seed, width=4)
    d = weigh(MaxDO(), g) @ g
    assert (g @ d >= d @ d / 2 - 1e-9 * g.norm(dim=1) * d.norm()).all()


def test_a_zero_gradient_takes_the_weight() -> None:
    g = torch.cat([gradients(2, seed=0), torch.zeros(1, 30, dtype=torch.float64)])
    assert weigh(MaxDO(), g).tolist() == [0.0, 0.0, 1.0]
    assert weigh(MaxDO(), torch.zeros(4, 3, dtype=torch.float64)).tolist() == [0.25] * 4
