"""Every way to the gradient of the distance, for every layer type, against central differences in float64."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pcl.gradients.sample_distance import WAYS, DistanceGradient, Problem, Rows, Way
from pcl.gradients.sweep.recording import Sweep, UncoveredError
from tests.gradients.distance_cases import MODELS, Through, central_differences, make_problem


@pytest.fixture(autouse=True)
def twice_differentiable_attention():  # type: ignore[no-untyped-def]
    with sdpa_kernel(SDPBackend.MATH):
        yield


# differences see through detach(), which gradients do not
@pytest.mark.parametrize("name", [name for name in MODELS if name != "one path without gradient"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_equals_central_differences(way: Way, name: str) -> None:
    problem = make_problem(name)
    at, expected = central_differences(problem)
    try:
        found = WAYS[way](problem)
    except (UncoveredError, RuntimeError):
        assert way in ("ghost", "vmap"), "the sweep and the loop cover all of these"
        pytest.skip("not covered, and says so")
    found = found.flatten(1).gather(1, at)
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("name", MODELS)
def test_the_sweep_equals_the_loop_to_rounding(name: str) -> None:
    problem = make_problem(name, samples=5)
    expected = WAYS["loop"](problem)
    assert (WAYS["sweep"](problem) - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("name", ["activation Tanh", "batch norm 2d", "layer norm", "residual network", "attention"])
@pytest.mark.parametrize("frozen", [(0,), (1,), (0, 1), (2, 3)])
def test_some_parameters_shared(name: str, frozen: tuple[int, ...]) -> None:
    problem = make_problem(name, frozen=frozen)
    expected = WAYS["loop"](problem)
    assert (WAYS["sweep"](problem) - expected).norm() <= 1e-12 * expected.norm()


def test_nothing_that_depends_on_the_samples_gives_zero() -> None:
    problem = make_problem("activation Tanh")
    constant = replace(problem, losses=lambda x, rows: torch.zeros(len(x), dtype=x.dtype))
    assert torch.equal(WAYS["sweep"](constant), torch.zeros_like(problem.x))


def test_float32_agrees_with_float64() -> None:
    problem = make_problem("residual network", samples=8)
    expected = WAYS["sweep"](problem)
    problem.model.float()
    direction = [None if d is None else d.float() for d in problem.direction]
    found = WAYS["sweep"](replace(problem, x=problem.x.float(), direction=direction))
    assert found.dtype == torch.float32
    assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_a_sweep_leaves_no_trace() -> None:
    problem = make_problem("batch norm 2d")
    before = {key: value.clone() for key, value in problem.model.state_dict().items()}
    x = problem.x.clone()
    WAYS["sweep"](problem)
    assert torch.equal(problem.x, x)
    assert all(p.grad is None for p in problem.shared)
    assert all(torch.equal(before[key], value) for key, value in problem.model.state_dict().items())


class Unusual(nn.Module):
    """Uses of a layer that a quick way would misread."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inner, self.outer = how, nn.Linear(3, 3), nn.Linear(6, 4)
        self.free = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 2, 3)
        if self.how == "rows":
            h = self.inner(x.reshape(-1, 3))
        elif self.how == "time first":
            h = self.inner(x.transpose(0, 1)).transpose(0, 1)
        elif self.how == "twice":
            h = self.inner(torch.tanh(self.inner(x)))
        elif self.how == "weight elsewhere":
            h = self.inner(x) @ self.inner.weight
        elif self.how == "free parameter":
            h = self.inner(x).reshape(-1, 6) * self.free
        elif self.how == "in place":
            h = self.inner(x)
            h.mul_(2)
        else:
            h = self.inner(x)
            h = h - h.mean(dim=0)
        return self.outer(torch.tanh(h).reshape(-1, 6))


def unusual(how: str, samples: int = 4) -> Problem:
    torch.manual_seed(0)
    model = Unusual(how).double().eval()
    x, y = torch.randn(samples, 6, dtype=torch.float64), torch.arange(samples)

    def losses(x: Tensor, rows: Rows) -> Tensor:
        return nn.functional.cross_entropy(model(x), y[rows] % 4, reduction="none")

    shared = list(model.parameters())
    return Problem(model, losses, x, shared, [0.1 * torch.randn_like(p) for p in shared])


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("rows", "linear"),
        ("twice", "used twice"),
        ("weight elsewhere", "without a rule"),
        ("free parameter", "without a rule"),
        ("in place", "in place"),
    ],
)
def test_what_the_sweep_does_not_cover_is_named(how: str, word: str) -> None:
    with pytest.raises(UncoveredError, match=word):
        WAYS["sweep"](unusual(how))


@pytest.mark.filterwarnings("ignore:edit")
@pytest.mark.parametrize("how", ["rows", "time first", "twice", "weight elsewhere", "free parameter", "in place"])
def test_the_choice_is_right_for_unusual_models(how: str) -> None:
    problem = unusual(how)
    expected = WAYS["loop"](problem)
    gradient = DistanceGradient()
    for _ in range(2):
        assert (gradient(problem) - expected).norm() <= 1e-9 * expected.norm()


def test_time_first_with_as_many_steps_as_samples_is_noticed() -> None:
    problem = unusual("time first", samples=2)  # two samples, two positions: shapes tell nothing
    with pytest.raises(ValueError, match="not right for this model"):
        DistanceGradient("sweep")(problem)


def test_the_reason_for_a_slower_way_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcl.notices._said", set())
    gradient = DistanceGradient()
    with pytest.warns(UserWarning, match=r"vmap is the fastest.*sweep: mul, which uses a parameter"):
        gradient(unusual("free parameter"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(unusual("free parameter"))
        DistanceGradient()(make_problem("residual network"))


def test_vmap_is_left_out_where_the_loop_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcl.notices._said", set())
    monkeypatch.setattr("pcl.gradients.sample_distance.VMAP_NUMBERS", 16)
    problem = unusual("free parameter")
    with pytest.warns(UserWarning, match=r"loop is the fastest.*vmap: no faster than the loop for 46 parameters"):
        DistanceGradient()(problem)
    assert torch.allclose(DistanceGradient("vmap")(problem), WAYS["loop"](problem), rtol=1e-9)


def test_a_way_that_stops_being_right_is_left() -> None:
    problem = unusual("none", samples=3)
    model = problem.model
    assert isinstance(model, Unusual)
    model.how = "time first"
    plain = replace(problem, losses=problem.losses)
    gradient = DistanceGradient()
    model.how = "twice"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradient(plain)
        model.how = "weight elsewhere"
        assert torch.allclose(gradient(plain), WAYS["loop"](plain), rtol=1e-9)


@pytest.mark.parametrize(
    ("factor", "in_double", "right"), [(1.03, 1, True), (1.03, 1.03, False), (torch.nan, 1, False), (2, 1, False)]
)
def test_a_way_that_differs_is_judged_in_float64(
    factor: float, in_double: float, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = make_problem("batch norm 2d")
    model = problem.model.float()
    before = [(t, t.clone(), t.data_ptr()) for t in (*model.parameters(), *model.buffers())]
    direction = [None if d is None else d.float() for d in problem.direction]
    problem = replace(problem, x=problem.x.float(), direction=direction)
    sweep = WAYS["sweep"]

    def on_the_other_side_of_a_kink(problem: Problem) -> Tensor:
        found = sweep(problem)
        return found * (factor if found.dtype == torch.float32 else in_double)

    monkeypatch.setitem(WAYS, "sweep", on_the_other_side_of_a_kink)
    gradient = DistanceGradient()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gradient(problem)
    assert torch.equal(found, on_the_other_side_of_a_kink(problem)) == right
    assert all(torch.equal(t, was) and t.data_ptr() == at for t, was, at in before)


@pytest.mark.parametrize("way", WAYS)
def test_a_way_can_be_asked_for(way: Way) -> None:
    problem = make_problem("batch norm 2d")
    assert torch.allclose(DistanceGradient(way)(problem), WAYS["loop"](problem), rtol=1e-9, atol=1e-12)
    assert DistanceGradient(way)(replace(problem, x=problem.x[:0])).shape == (0, 2, 4, 5)


def test_a_way_that_is_wrong_is_refused_where_it_was_asked_for() -> None:
    with pytest.raises(ValueError, match=r"method 'ghost' is not right for this model: a layer of type LayerNorm"):
        DistanceGradient("ghost")(make_problem("layer norm"))
    with pytest.raises(ValueError, match="expected method 'auto', 'sweep'"):
        DistanceGradient("fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
def test_what_a_model_keeps_from_its_first_call_stays_usable(way: Way) -> None:
    problem = make_problem("activation Tanh")
    kept: list[Tensor] = []

    def losses(x: Tensor, rows: Rows) -> Tensor:
        if not kept:
            kept.append(torch.tensor([0, 1]))
        return problem.losses(x, rows) * kept[0].sum()

    for _ in range(2):
        WAYS[way](replace(problem, losses=losses))
    assert torch.isfinite(losses(problem.x, slice(None))).all()


def test_errors_of_the_model_come_through() -> None:
    problem = make_problem("activation Tanh")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        DistanceGradient()(replace(problem, x=torch.randn(2, 5, dtype=torch.float64)))


def test_a_batch_that_is_not_finite_verifies_nothing() -> None:
    problem = make_problem("activation Tanh")
    gradient = DistanceGradient()
    spoilt = replace(problem, x=torch.full_like(problem.x, torch.nan))
    assert gradient(spoilt).isnan().all()
    assert torch.allclose(gradient(problem), WAYS["loop"](problem), rtol=1e-9)


def test_a_batch_without_gradient_verifies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem("activation ReLU")
    right = WAYS["loop"](problem)
    monkeypatch.setitem(WAYS, "sweep", lambda p: 0 * p.x[p.rows])  # right for such a batch only
    gradient = DistanceGradient()
    nothing = replace(problem, losses=lambda x, rows: 0 * problem.losses(x, rows))
    assert not gradient(nothing).any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(gradient(problem), right, rtol=1e-9)


def test_lack_of_memory_does_not_rule_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, sweep = make_problem("activation Tanh"), WAYS["sweep"]

    def too_large(_: Problem) -> Tensor:
        raise torch.cuda.OutOfMemoryError("out of memory")

    gradient = DistanceGradient()
    monkeypatch.setitem(WAYS, "sweep", too_large)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gradient(problem)
    monkeypatch.setitem(WAYS, "sweep", sweep)
    assert torch.equal(gradient(problem), sweep(problem))


def test_shapes_and_comparisons_are_no_operations() -> None:
    model = nn.Sequential(Through(lambda x: x.view(x.shape[0], -1) * (x.flatten(1) > 0)), nn.Linear(6, 2)).double()
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    with torch.no_grad(), Sweep(x, list(model.parameters()), [None, None]) as sweep:
        loss = model(x).square().sum(dim=1)
    assert torch.isfinite(sweep.gradient(loss)).all()
