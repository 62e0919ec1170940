"""Weightings by conflict, projection and balance: what their papers promise, on gradients of very different length."""

from collections.abc import Callable

import pytest
import torch

from pcl import IMTL, IMTLG, MGDA, AlignedMTL, CAGrad, ConFIG, DualProj, Krum, NashMTL, UPGrad, Weighting
from tests.weighting.cases import SIZES, conflicting, gradients, weigh

WEIGHTINGS: dict[str, Callable[[], Weighting]] = {
    "cagrad": CAGrad,
    "imtl-g": IMTLG,
    "nash-mtl": NashMTL,
    "nash-mtl unit": lambda: NashMTL(scale="unit"),
    "upgrad": UPGrad,
    "dualproj": DualProj,
    "aligned-mtl": AlignedMTL,
    "imtl": IMTL,
    "config": ConFIG,
    "krum": Krum,
    "multi-krum": lambda: Krum(0, n_selected=3),
    "mgda-l2": lambda: MGDA("l2"),
    "mgda-loss-plus": lambda: MGDA("loss+"),
}


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("k", SIZES)
def test_order_and_unit_of_the_tasks_do_not_matter(name: str, k: int) -> None:
    g = gradients(k, seed=k, shared=1.0)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(0))
    weights = weigh(WEIGHTINGS[name](), g)
    assert weights.shape == (k,)
    assert weights.dtype == torch.float64
    assert weights.isfinite().all()
    assert torch.allclose(weigh(WEIGHTINGS[name](), g[order]), weights[order], rtol=1e-8, atol=1e-12)
    longer = weigh(WEIGHTINGS[name](), 64 * g)
    unit = 1 / 64 if name == "nash-mtl" else 1.0  # its direction has one length, whatever that of the gradients
    assert torch.allclose(longer, unit * weights, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_one_task_follows_its_own_gradient(name: str) -> None:
    g = gradients(1, seed=3)
    direction = weigh(WEIGHTINGS[name](), g) @ g
    assert torch.allclose(direction / direction.norm(), g[0] / g[0].norm())


@pytest.mark.parametrize("c", [0.0, 0.2, 0.5, 0.8, 10.0])
@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_cagrad_reaches_the_dual_bound_inside_its_ball(c: float, k: int, seed: int) -> None:
    """Weak duality: no direction in the ball gains more than any w's value of the dual; ours gains that much."""
    g = gradients(k, seed, decades=1.0) if seed % 2 else conflicting(k, seed)
    mean = g.mean(dim=0)
    weights = weigh(CAGrad(c), g)
    d = weights @ g
    radius = c * mean.norm()
    assert (d - mean).norm() <= radius * (1 + 1e-9) + 1e-12
    w = weights - 1 / k  # along the dual's minimiser
    if c > 0 and w.sum() > 1e-9:
        g_w = w / w.sum() @ g
        bound = g_w @ mean + radius * g_w.norm()
        assert (g @ d).min() == pytest.approx(bound.item(), rel=1e-6, abs=1e-7 * g.norm().item() ** 2)
    if c == 0:
        assert torch.allclose(weights, torch.full_like(weights, 1 / k))


@pytest.mark.parametrize("seed", range(20))
def test_cagrad_goes_nowhere_that_rounding_alone_points_to(seed: int) -> None:
    """Gradients that cancel do so up to rounding only, and other axes round otherwise."""
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    g = conflicting(20, 2 * seed) @ turn
    assert weigh(MGDA(), g).matmul(g).norm() < 1e-6  # they cancel
    assert torch.allclose(weigh(CAGrad(10.0), g), torch.full((20,), 0.05, dtype=torch.float64))


def test_cagrad_of_a_large_ball_turns_to_mgda() -> None:
    g = gradients(5, seed=2, decades=0.5)
    d, shortest = weigh(CAGrad(1e6), g) @ g, weigh(MGDA(), g) @ g
    assert torch.cosine_similarity(d, shortest, dim=0) > 1 - 1e-9


@pytest.mark.parametrize("k", SIZES)
def test_cagrad_of_unit_scale_has_the_same_direction(k: int) -> None:
    g = gradients(k, seed=k, decades=1.0)
    weights = weigh(CAGrad(0.8), g)
    assert weights.sum() > 1.5
    assert torch.allclose(weigh(CAGrad(0.8, scale="unit"), g), weights / weights.sum(), rtol=1e-12)


def test_cagrad_of_cancelling_gradients_is_the_mean() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(weigh(CAGrad(), g), torch.tensor([0.5, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("k", SIZES)
def test_imtl_projects_equally_on_all(k: int) -> None:
    g = gradients(k, seed=k, shared=0.5)
    weights = weigh(IMTLG(), g)
    assert weights.sum() == pytest.approx(1)
    projections = g / g.norm(dim=1, keepdim=True) @ (weights @ g)
    assert torch.allclose(projections, projections.mean().expand(k), rtol=1e-8)


def test_imtl_of_opposite_gradients_is_the_mean() -> None:
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(weigh(IMTLG(), g), torch.tensor([0.5, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("k", SIZES)
def test_nash_gains_are_equal(k: int) -> None:
    g = gradients(k, seed=k, shared=1.0)
    weights = weigh(NashMTL(), g)
    d = weights @ g
    assert torch.allclose(weights * (g @ d), torch.ones(k, dtype=torch.float64), atol=1e-9)
    assert d.norm() == pytest.approx(k**0.5)
    unit = weigh(NashMTL(scale="unit"), g)
    assert torch.allclose(unit, weights / weights.sum())


def test_nash_and_imtl_agree_for_two_tasks() -> None:
    g = gradients(2, seed=8)
    assert torch.allclose(weigh(NashMTL(scale="unit"), g), weigh(IMTLG(), g))


def test_nash_solves_every_n_steps_and_when_tasks_change() -> None:
    weighting = NashMTL(update_every=3)
    first = weigh(weighting, gradients(3, seed=0, shared=1.0))
    other = gradients(3, seed=1, shared=1.0)
    assert torch.equal(weigh(weighting, other), first)
    assert torch.equal(weigh(weighting, other), first)
    solved = weigh(weighting, other)
    assert torch.equal(solved, weigh(NashMTL(), other))
    fewer = other[:2]
    assert torch.equal(weigh(weighting, fewer), weigh(NashMTL(), fewer))


def test_nash_at_a_stationary_point_stays_as_it_was() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert torch.equal(weigh(NashMTL(), opposite), torch.tensor([0.5, 0.5], dtype=torch.float64))
    weighting = NashMTL()
    before = weigh(weighting, gradients(2, seed=0, shared=1.0))
    assert torch.equal(weigh(weighting, opposite), before)


def test_nash_goes_on_from_its_state() -> None:
    weighting, resumed = NashMTL(update_every=3), NashMTL(update_every=3)
    weigh(weighting, gradients(3, seed=0, shared=1.0))
    resumed.load_state_dict(weighting.state_dict())
    for seed in range(1, 6):
        g = gradients(3, seed, shared=1.0)
        assert torch.equal(weigh(weighting, g), weigh(resumed, g))
    weighting.forget("t0")
    assert set(weighting.state_dict()["weights"]) == {"t1", "t2"}


@pytest.mark.parametrize("make", [UPGrad, DualProj])
@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("seed", range(10))
def test_projections_conflict_with_no_task(make: Callable[[], Weighting], k: int, seed: int) -> None:
    g = conflicting(k, seed) if seed % 2 else gradients(k, seed)
    d = weigh(make(), g) @ g
    gain = g @ d
    assert (gain >= -1e-9 * g.norm(dim=1) * g.norm(dim=1).max()).all()


@pytest.mark.parametrize("make", [UPGrad, DualProj])
def test_projections_leave_agreeing_gradients_alone(make: Callable[[], Weighting]) -> None:
    g = gradients(5, seed=1).abs()
    assert torch.equal(weigh(make(), g), torch.full((5,), 0.2, dtype=torch.float64))


def test_projections_of_two_opposed_tasks_by_hand() -> None:
    g = torch.tensor([[1.0, 0.0], [-2.0, 2.0]], dtype=torch.float64)
    # UPGrad: each loses its part along the other; (1, 0) becomes (1/2, 1/2), (-2, 2) becomes (0, 2)
    assert torch.allclose(weigh(UPGrad(), g) @ g, torch.tensor([0.25, 1.25], dtype=torch.float64))
    # DualProj: the mean (-1/2, 1) loses its part against the first
    assert torch.allclose(weigh(DualProj(), g) @ g, torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("k", SIZES)
def test_aligned_mtl_makes_the_gradients_orthogonal_and_equally_long(k: int) -> None:
    """Its mean of k such gradients has length sqrt(s_min / k)."""
    g = gradients(k, seed=k)
    d = weigh(AlignedMTL(), g) @ g
    least = torch.linalg.svdvals(g)[-1]
    assert d.norm() == pytest.approx(least.item() / k**0.5)
    balanced = torch.linalg.svd(g, full_matrices=False)
    assert torch.allclose(d, least * (balanced.U @ balanced.Vh).mean(dim=0))


def test_aligned_mtl_of_dependent_gradients_counts_their_span() -> None:
    g = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    d = weigh(AlignedMTL(), g) @ g
    assert torch.allclose(d, torch.tensor([2**0.5, 1.0], dtype=torch.float64) / 3)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("name", [name for name in WEIGHTINGS if not name.startswith("nash")])
def test_nothing_but_zero_gradients(name: str, k: int) -> None:
    assert weigh(WEIGHTINGS[name](), torch.zeros(k, 4, dtype=torch.float64)).isfinite().all()


def test_bad_settings_are_refused() -> None:
    for c in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="CAGrad c"):
            CAGrad(c)
    with pytest.raises(ValueError, match="CAGrad scale"):
        CAGrad(scale="long")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="update_every"):
        NashMTL(update_every=0)
    with pytest.raises(ValueError, match="scale"):
        NashMTL(scale="long")  # type: ignore[arg-type]
