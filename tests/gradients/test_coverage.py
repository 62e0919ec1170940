"""What one pass does not cover goes to the loop, and is said."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import Workspace, notices, task_gradients
from tests.gradients.layer_models import Problem, problem
from tests.gradients.test_strategies import assert_same, run


class Forward(nn.Module):
    """A Linear layer and a forward pass of one's own."""

    def __init__(self, forward: Callable[[nn.Linear, Tensor], Tensor], width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(3, width)
        self._forward_of = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward_of(self.layer, x)


class Slow(nn.Linear):
    """A Linear layer with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Scaled(nn.Module):
    """A parameter in a module of unknown type."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


def batch_mean(layer: nn.Linear, x: Tensor) -> Tensor:
    z = layer(x)
    return z - z.mean(dim=0)


def positions_first(layer: nn.Linear, x: Tensor) -> Tensor:
    """Rows of other samples' positions, in a number that fits."""
    rows = x.view(len(x), 1, 3).expand(-1, 4, -1).transpose(0, 1).reshape(-1, 3)
    return layer(rows).view(4, len(x), 3).sum(dim=0)


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "an unknown layer": (Scaled, "Scaled is a layer of unknown type"),
    "a layer of another forward": (lambda: nn.Sequential(Slow(3, 3)), "Slow is a layer of unknown type"),
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), "draws random numbers"),
    "functional dropout": (lambda: Forward(lambda layer, x: F.dropout(layer(x))), "draws random numbers"),
    "samples that meet": (lambda: Forward(batch_mean), "loss is another"),
    "samples out of order": (lambda: Forward(positions_first), "gradient is another"),
    "rows that are no samples": (
        lambda: Forward(lambda layer, x: layer(x[:2]).sum(dim=0).expand(len(x), 3)),
        "shape (2, 3)",
    ),
    "a weight without its layer": (
        lambda: Forward(lambda layer, x: x @ layer.weight),
        "gradient is another|outside of the layer",
    ),
    "a weight besides its layer": (lambda: Forward(lambda layer, x: layer(x) @ layer.weight), "outside of the layer"),
    "statistics of an instance": (
        lambda: nn.Sequential(
            nn.Linear(3, 3), nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()
        ),
        "buffers end up different",
    ),
    "a batch of one size": (lambda: Forward(lambda layer, x: layer(x.view(4, 3))), "batches of two tasks together"),
    "a layer called by keyword": (lambda: Forward(lambda layer, x: layer(input=x)), "batches of two tasks together"),
    "embedding by frequency": (
        lambda: nn.Sequential(nn.Embedding(11, 2, scale_grad_by_freq=True), nn.Flatten()),
        "by how often a word occurs",
    ),
    "embedding of bounded norm": (
        lambda: nn.Sequential(nn.Embedding(11, 2, max_norm=1.0), nn.Flatten()),
        "changes its weight",
    ),
}


def case(name: str) -> Problem:
    torch.manual_seed(0)
    return problem(CASES[name][0](), (3,), torch.float64, (4, 4, 4))


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.mark.parametrize("strategy", ["auto", "segment", "lowmem"])
@pytest.mark.parametrize("name", CASES)
def test_falls_back_to_the_loop(name: str, strategy: str) -> None:
    p, q, workspace = case(name), case(name), Workspace()
    torch.manual_seed(1)
    expected = run(p, "loop")
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="one backward pass per task") as said:
        found = run(q, strategy, workspace)
    assert any(word in str(said[0].message) for word in CASES[name][1].split("|"))
    assert type(found).__name__ == "StoredGradients"
    assert_same(found, expected, 0.0)
    for a, b in zip(p.model.buffers(), q.model.buffers(), strict=True):
        assert torch.equal(a, b)


def test_said_once() -> None:
    p, workspace = case("an unknown layer"), Workspace()
    with pytest.warns(UserWarning, match="one backward pass per task"):
        run(p, "auto", workspace)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(p, "auto", workspace)


def test_an_output_that_is_no_tensor() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    model = Pair(layer)
    losses = {t: lambda pair: pair[0].sum() * pair[1].sum() for t in "ab"}
    inputs = {t: torch.randn(4, 3) for t in "ab"}
    shared = list(layer.parameters())
    expected = task_gradients(losses, shared, model=model, inputs=inputs, strategy="loop")
    with pytest.warns(UserWarning, match="not one tensor with a row"):
        found = task_gradients(losses, shared, model=model, inputs=inputs)
    assert_same(found, expected, 0.0)


class Pair(nn.Module):
    """Two outputs."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.layer(2 * x)


def test_a_function_that_is_no_module() -> None:
    layer = nn.Linear(3, 2)
    inputs = {t: torch.randn(4, 3) for t in "ab"}
    losses = {t: lambda out: out.square().mean() for t in "ab"}
    with pytest.warns(UserWarning, match="not a module"):
        task_gradients(losses, list(layer.parameters()), model=lambda x: layer(x), inputs=inputs)
    workspace = Workspace()
    for _ in range(2):  # the root says where the layers are, and that was found out once
        found = task_gradients(
            losses,
            list(layer.parameters()),
            model=lambda x: layer(x),
            inputs=inputs,
            root=layer,
            workspace=workspace,
        )
        assert type(found).__name__ == "OnePassGradients"
    assert len(workspace.verdicts) == 1


def test_inputs_of_different_kinds() -> None:
    layer = nn.Linear(3, 2)
    inputs = {"a": torch.randn(4, 3), "b": torch.randn(4, 5, 3)}
    losses = {t: lambda out: out.square().mean() for t in "ab"}
    with pytest.warns(UserWarning, match="differ in shape"):
        task_gradients(losses, list(layer.parameters()), model=layer, inputs=inputs)


def test_what_was_found_out_of_small_rows_is_refused_later_on_others() -> None:
    """A first batch may fit by chance; one that does not goes to the loop, buffers as if nothing had happened."""
    torch.manual_seed(0)
    layer, norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
    model = nn.Sequential(norm, Forward(lambda _, x: layer(x) if len(x) < 9 else layer(x[:-1]), 1), layer)
    model[1].layer.requires_grad_(False)
    shared, workspace = [*norm.parameters(), *layer.parameters()], Workspace()
    losses = {t: lambda out: out.square().mean() for t in "ab"}

    def inputs(rows: int) -> dict[str, Tensor]:
        return {t: torch.randn(rows, 3) for t in "ab"}

    small = task_gradients(losses, shared, model=model, inputs=inputs(4), workspace=workspace)
    assert type(small).__name__ == "OnePassGradients"
    before = norm.running_mean.clone()
    large = inputs(5)
    with pytest.warns(UserWarning, match="not made of the 10 rows|not one tensor with a row"):
        task_gradients(losses, shared, model=model, inputs=large, workspace=workspace)
    for x in large.values():
        before = 0.9 * before + 0.1 * x.mean(dim=0)
    assert torch.allclose(norm.running_mean, before)

    seen: list[int] = []
    norm.register_forward_hook(lambda *of: seen.append(len(of[1][0])))
    task_gradients(losses, shared, model=model, inputs=inputs(5), workspace=workspace)
    assert seen == [5, 5]  # it is remembered: no pass over both is tried again


def test_numbers_that_are_not_finite_are_no_verdict() -> None:
    """A first batch with a NaN says nothing about the model."""
    layer, workspace = nn.Linear(3, 2), Workspace()
    losses = {t: lambda out: out.square().mean() for t in "ab"}
    shared = list(layer.parameters())
    bad = {t: torch.full((4, 3), torch.nan) for t in "ab"}
    assert task_gradients(losses, shared, model=layer, inputs=bad, workspace=workspace).gramian().isnan().all()
    good = {t: torch.randn(4, 3) for t in "ab"}
    found = task_gradients(losses, shared, model=layer, inputs=good, workspace=workspace)
    assert type(found).__name__ == "OnePassGradients"


def test_the_first_call_leaves_generators_and_statistics_as_one_pass_per_task() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    inputs = {t: torch.randn(4, 3) for t in "abc"}
    losses = {t: lambda out: out.pow(3).mean() for t in "abc"}
    state = torch.get_rng_state()
    for model, strategy in zip(models, ("loop", "segment"), strict=True):
        task_gradients(losses, list(model.parameters()), model=model, inputs=inputs, strategy=strategy)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.allclose(a, b)
