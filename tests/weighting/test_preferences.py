"""Preferences of the weightings that have a preferred direction, and SDMGrad: their limits, and torchjd beside them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcl import MGDA, AlignedMTL, CAGrad, DualProj, SDMGrad, UPGrad, Weighting
from pcl_kernels import simplex_qp
from tests.weighting.cases import NAMES, gradients, weigh

PREFERENCE = {"t0": 3.0, "t1": 0.5}
MAKERS: dict[str, Callable[..., Weighting]] = {
    "cagrad": CAGrad,
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "aligned-mtl": AlignedMTL,
    "sdmgrad": SDMGrad,
}


def shares(k: int) -> Tensor:
    """PREFERENCE as a vector of sum 1."""
    p = torch.ones(k, dtype=torch.float64)
    p[:2] = torch.tensor([3.0, 0.5])[:k]
    return p / p.sum()


@pytest.mark.parametrize("name", MAKERS)
def test_equal_preferences_change_nothing_and_others_follow_their_task(name: str) -> None:
    g = gradients(5, seed=1, decades=1.0)
    make = MAKERS[name]
    plain = weigh(make(), g)
    assert torch.allclose(weigh(make(preference=dict.fromkeys(NAMES, 2.0)), g), plain, rtol=1e-9, atol=1e-12)
    preferred = weigh(make(preference=PREFERENCE), g)
    assert not torch.allclose(preferred, plain)
    order = torch.tensor([3, 0, 4, 1, 2])
    gram = g[order] @ g[order].T
    again = make(preference=PREFERENCE)(gram, torch.ones(5), [NAMES[i] for i in order.tolist()])
    assert torch.allclose(again, preferred[order], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_a_preference_that_is_not_positive_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="preference: expected finite numbers above 0"):
        MAKERS[name](preference={"t0": -1.0})


@pytest.mark.parametrize("seed", range(5))
def test_cagrad_stays_in_the_ball_around_the_preferred_mean(seed: int) -> None:
    g, c, p = gradients(5, seed, width=4, decades=1.0), 0.5, shares(5)
    d, g_0 = weigh(CAGrad(c, preference=PREFERENCE), g) @ g, p @ g
    assert (d - g_0).norm() <= c * g_0.norm() * (1 + 1e-9)
    w = weigh(CAGrad(c, preference=PREFERENCE), g) - p  # along the dual's minimiser
    g_w = w / w.sum() @ g
    bound = g_w @ g_0 + c * g_0.norm() * g_w.norm()  # by weak duality no direction in the ball gains more
    assert (g @ d).min() == pytest.approx(bound.item(), rel=1e-7, abs=1e-9 * g.norm().item() ** 2)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("lambda_", [0.0, 0.3, 2.0])
def test_sdmgrad_is_the_minimiser_over_the_simplex(lambda_: float, k: int) -> None:
    g, p = gradients(k, seed=k, decades=1.0), shares(k)
    g_0 = p @ g
    u = weigh(SDMGrad(lambda_, preference=PREFERENCE), g)
    w = (1 + lambda_) * u - lambda_ * p
    assert u.sum() == pytest.approx(1)
    assert w.min() >= -1e-12
    # first-order optimality of |g_w + lambda g_0|^2 / 2: its gradient in w is least, and equal, on the support
    pull = w @ g + lambda_ * g_0
    slope = g @ pull
    assert slope.min() >= pull @ (w @ g) - 1e-10 * g.norm() ** 2
    bounds = lambda_ / (1 + lambda_) * p
    assert torch.allclose(u @ g, simplex_qp(g @ g.T, lower=bounds) @ g, rtol=1e-8, atol=1e-10 * g.norm().item())


def test_limits_of_sdmgrad() -> None:
    g = gradients(5, seed=3, decades=1.0)
    assert torch.allclose(weigh(SDMGrad(0.0), g), weigh(MGDA(), g), rtol=1e-12, atol=1e-15)
    assert torch.allclose(weigh(SDMGrad(1e9), g), torch.full((5,), 0.2, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(weigh(SDMGrad(1e9, preference=PREFERENCE), g), shares(5), atol=1e-8)
    zeros = weigh(SDMGrad(), torch.zeros(4, 3, dtype=torch.float64))
    assert torch.allclose(zeros, torch.full((4,), 0.25, dtype=torch.float64))
    with pytest.raises(ValueError, match="SDMGrad lambda_"):
        SDMGrad(-0.1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["upgrad", "dualproj", "aligned-mtl"])
def test_torchjd_with_the_same_preference_agrees(name: str, seed: int) -> None:
    """To what its regularisation of 1e-4 and its solver leave."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    peers = {
        "upgrad": lambda p: aggregation.UPGradWeighting(pref_vector=p),
        "dualproj": lambda p: aggregation.DualProjWeighting(pref_vector=p),
        "aligned-mtl": lambda p: aggregation.AlignedMTLWeighting(pref_vector=p),
    }
    g = gradients(4, seed, decades=0.2)
    try:
        theirs = peers[name](shares(4))(g @ g.T)
    except ImportError as error:  # two of them ask for packages of their own
        pytest.skip(str(error))
    ours = weigh(MAKERS[name](preference=PREFERENCE), g)
    close = 1e-9 if name == "aligned-mtl" else 1e-3
    assert (ours - theirs).abs().max() <= close * theirs.abs().max()
