"""Krum and multi-Krum against distances between the gradients themselves."""

import pytest
import torch
from torch import Tensor

from pcl import Krum
from tests.weighting.cases import weigh


def plain(g: Tensor, f: int, selected: int, power: int = 2) -> list[int]:
    """Blanchard et al., with loops."""
    k = len(g)
    scores = []
    for i in range(k):
        distances = sorted((g[i] - g[j]).norm().item() ** power for j in range(k) if j != i)
        scores.append(sum(distances[: k - f - 2]))
    return sorted(sorted(range(k), key=lambda i: scores[i])[:selected])


def gradients(k: int, seed: int) -> Tensor:
    return torch.randn(k, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("k", "f"), [(5, 0), (5, 1), (7, 2), (20, 3), (20, 8)])
@pytest.mark.parametrize("selected", [1, 3])
@pytest.mark.parametrize("seed", range(10))
def test_selects_those_of_the_lowest_scores(k: int, f: int, selected: int, seed: int) -> None:
    g = gradients(k, seed)
    weights = weigh(Krum(f, selected), g)
    assert weights.nonzero().flatten().tolist() == plain(g, f, selected)
    assert torch.allclose(weights[weights > 0], torch.tensor(1 / selected, dtype=torch.float64))


@pytest.mark.parametrize("selected", [1, 2])
def test_outliers_have_no_say(selected: int) -> None:
    g = torch.ones(7, 6, dtype=torch.float64) + 0.1 * gradients(7, seed=0)
    g[2], g[5] = -100 * g[2], 1e4 * g[5]
    weights = weigh(Krum(2, selected), g)
    assert weights[2] == weights[5] == 0


def test_torchjd_agrees_where_squares_make_no_difference() -> None:
    """It sums the distances, the paper sums their squares."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    alike = 0
    for seed in range(20):
        g = gradients(7, seed)
        if plain(g, 2, 3) == plain(g, 2, 3, power=1):
            alike += 1
            assert torch.allclose(weigh(Krum(2, 3), g), aggregation.Krum(2, 3).gramian_weighting(g @ g.T))
    assert alike >= 5


def test_equal_scores_go_to_the_first_named() -> None:
    g = torch.eye(5, dtype=torch.float64)
    assert weigh(Krum(1, 2), g).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]


def test_too_few_tasks_take_the_mean() -> None:
    for k in (1, 2, 3):
        assert torch.equal(weigh(Krum(1), gradients(k, 0)), torch.full((k,), 1 / k, dtype=torch.float64))
    assert torch.equal(weigh(Krum(1, 9), gradients(4, 0)), torch.full((4,), 0.25, dtype=torch.float64))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="n_byzantine: expected at least 0, got -1"):
        Krum(-1)
    with pytest.raises(ValueError, match="n_selected: expected at least 1, got 0"):
        Krum(0, 0)
