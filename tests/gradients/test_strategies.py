"""Every strategy against the loop, and against central differences, layer type by layer type."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcl import TaskGradients, Workspace, task_gradients
from pcl.gradients.one_pass import OnePass, OnePassGradients
from tests.gradients.layer_models import MODELS, Problem, make, problem

ONE_PASS = ["segment", "lowmem"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(autouse=True)
def _no_fallback() -> Iterator[None]:
    """A model that falls back to the loop would agree with it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="task gradients")
        yield


def run(p: Problem, strategy: str, workspace: Workspace | None = None, **changes: object) -> TaskGradients:
    arguments = {"losses": p.losses, "shared": p.shared, "own": p.own, "model": p.model, "inputs": p.inputs}
    return task_gradients(**(arguments | changes), strategy=strategy, workspace=workspace)  # type: ignore[arg-type]


def flat(gradient: list[Tensor | None]) -> Tensor:
    return torch.cat([g.flatten().double() for g in gradient if g is not None])


def assert_same(found: TaskGradients, expected: TaskGradients, tolerance: float) -> None:
    """All results agree relative to the norms of the gradients, and None is where it was."""
    assert found.tasks == expected.tasks
    assert torch.allclose(found.losses, expected.losses, rtol=tolerance, atol=0)
    gram, truth = found.gramian(), expected.gramian()
    norms = truth.diagonal().sqrt()
    assert gram.dtype == torch.float64
    assert ((gram - truth).abs() <= tolerance * norms[:, None] * norms).all()
    weights = torch.linspace(0.2, 1.0, len(found.tasks), dtype=torch.float64)
    pairs = [
        (found.combine(weights), expected.combine(weights)),
        (found.own, expected.own),
        *zip(found.each(), expected.each(), strict=True),
    ]
    for mine, loops in pairs:
        assert [g is None for g in mine] == [g is None for g in loops]
        assert all(a.shape == b.shape for a, b in zip(mine, loops, strict=True) if a is not None and b is not None)
        if any(g is not None for g in loops):
            assert (flat(mine) - flat(loops)).norm() <= tolerance * flat(loops).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(3, 5, 4), (4, 4, 4)], ids=["ragged", "equal"])
@pytest.mark.parametrize("strategy", ONE_PASS)
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_loop(name: str, strategy: str, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    expected = run(make(name, dtype, sizes), "loop")
    p = make(name, dtype, sizes)
    found = run(p, strategy)
    assert_same(found, expected, TOLERANCE[dtype])
    assert all(q.grad is None for q in p.shared + p.own)
    assert not any("forward" in vars(m) for m in p.model.modules())


@pytest.mark.parametrize("strategy", ["loop", *ONE_PASS])
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_central_differences(name: str, strategy: str) -> None:
    p = make(name)
    found = run(p, strategy)
    torch.manual_seed(1)
    direction = [torch.randn_like(q) for q in p.shared]
    if name == "embedding":
        direction[0][2] = 0  # the row of padding_idx is kept out of gradients by definition
    eps = 1e-6 / flat(list(direction)).norm().item()  # a short step, so that hardly a ReLU changes sides

    def losses_at(step: float) -> Tensor:
        with torch.no_grad():
            for q, d in zip(p.shared, direction, strict=True):
                q.add_(d, alpha=step)
            values = torch.stack([p.losses[task](p.model(x)) for task, x in p.inputs.items()])
            for q, d in zip(p.shared, direction, strict=True):
                q.sub_(d, alpha=step)
        return values

    each = found.each()
    slopes = (losses_at(eps) - losses_at(-eps)) / (2 * eps)
    for gradient, slope in zip(each, slopes, strict=True):
        found_slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True) if g is not None)
        scale = flat(gradient).norm() * flat(direction).norm()  # type: ignore[arg-type]
        assert abs(found_slope - slope) <= 1e-6 * scale


@pytest.mark.parametrize("strategy", ONE_PASS)
@pytest.mark.parametrize("name", [name for name in MODELS if "norm" in name or "residual" in name])
def test_running_statistics_end_up_as_in_the_loop(name: str, strategy: str) -> None:
    one, other = make(name), make(name)
    workspace = Workspace()
    for _ in range(3):
        run(one, "loop")
        run(other, strategy, workspace)
    for a, b in zip(one.model.buffers(), other.model.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("strategy", ONE_PASS)
@pytest.mark.parametrize("name", ["batch norm 2d", "residual network", "batch norm, no statistics"])
def test_evaluation_mode(name: str, strategy: str) -> None:
    one, other = make(name), make(name)
    for p in (one, other):
        p.model.train()
        p.model(p.inputs["task 1"])  # statistics that are not 0 and 1
        p.model.eval()
    assert_same(run(other, strategy), run(one, "loop"), 1e-10)


@pytest.mark.parametrize("strategy", ONE_PASS)
def test_frozen_parameters(strategy: str) -> None:
    one, other = make("residual network"), make("residual network")
    for p in (one, other):
        for q in p.shared[::3]:
            q.requires_grad_(False)
        p.shared[:] = [q for q in p.shared if q.requires_grad]
    assert_same(run(other, strategy), run(one, "loop"), 1e-10)


@pytest.mark.parametrize("strategy", ONE_PASS)
@pytest.mark.parametrize("name", ["linear", "wide linear, by ghost products", "batch norm 2d", "tied embedding"])
def test_tasks_that_leave_parameters_alone(name: str, strategy: str) -> None:
    """A task whose loss ignores the model has None everywhere, as in the loop."""
    p = make(name)
    head = p.own[0]
    losses = dict(p.losses) | {"task 1": lambda features: head.square().sum()}
    expected = run(make(name), "loop", losses=losses, own=p.own)
    found = run(p, strategy, losses=losses)
    assert found.each()[1] == [None] * len(p.shared)
    assert (found.gramian()[1] == 0).all()
    assert torch.equal(found.gramian(), found.gramian().T)
    assert expected.each()[1] == [None] * len(p.shared)


@pytest.mark.parametrize("strategy", ONE_PASS)
@pytest.mark.parametrize("sizes", [(3, 5, 4), (4, 4, 4)])
def test_shared_parameters_in_the_losses(sizes: tuple[int, ...], strategy: str) -> None:
    """Heads among the shared parameters: each belongs to its task, and one that two tasks use to both."""
    found = []
    for how in ("loop", strategy):
        p = make("linear", sizes=sizes)
        both = p.heads["task 0"]
        losses = dict(p.losses) | {"task 1": lambda f, both=both: both(f).square().mean()}
        root = nn.ModuleList([p.model, p.heads])
        found.append(run(p, how, losses=losses, shared=p.shared + p.own, own=[], root=root))
    assert_same(found[1], found[0], 1e-10)
    each = found[1].each()
    heads = len(each[0]) - 6
    touched = [[g is not None for g in gradient[heads:]] for gradient in each]
    assert touched == [[True] * 2 + [False] * 4, [True] * 2 + [False] * 4, [False] * 4 + [True] * 2]


def test_auto_takes_one_pass_and_a_workspace_its_buffers_again() -> None:
    p, workspace = make("linear", torch.float32), Workspace()
    first = run(p, "auto", workspace)
    assert type(first).__name__ == "OnePassGradients"
    addresses = [g.data_ptr() for g in first.each()[0] if g is not None and g.dim() == 2]
    again = run(p, "auto", workspace)
    assert addresses == [g.data_ptr() for g in again.each()[0] if g is not None and g.dim() == 2]


def test_auto_leaves_convolutions_with_large_batches_on_the_cpu_to_the_loop() -> None:
    for sizes, name in (((4, 4), "OnePassGradients"), ((5, 5), "StoredGradients")):
        assert type(run(make("conv2d", sizes=sizes), "auto")).__name__ == name
    assert type(run(make("linear", sizes=(9,)), "auto")).__name__ == "StoredGradients"


def test_ghost_products_are_what_the_wide_layer_takes() -> None:
    p = make("wide linear, by ghost products")
    forward = OnePass(p.losses, p.shared, p.own, p.model, p.inputs, p.model)
    found = OnePassGradients(tuple(p.losses), forward, p.shared, Workspace())
    assert set(found._store._kept) == {id(p.shared[0]), id(p.shared[2])}


@pytest.mark.parametrize("strategy", ONE_PASS)
def test_autocast(strategy: str) -> None:
    """bfloat16 products; gradients have the parameters' dtype and agree to bfloat16's rounding."""
    for name in ("linear", "conv2d", "batch norm 2d", "layer norm", "group norm", "tied embedding"):
        one, other = make(name, torch.float32), make(name, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            expected, found = run(one, "loop"), run(other, strategy)
        for a, b in zip(found.each(), expected.each(), strict=True):
            assert all(g is None or g.dtype == torch.float32 for g in a)
            assert (flat(a) - flat(b)).norm() <= 2 * torch.finfo(torch.bfloat16).eps * flat(b).norm()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 7, 2)])
@pytest.mark.parametrize("strategy", ONE_PASS)
def test_batches_of_one(strategy: str, sizes: tuple[int, ...]) -> None:
    for name in ("linear", "conv2d", "layers used twice", "layer norm"):
        assert_same(run(make(name, sizes=sizes), strategy), run(make(name, sizes=sizes), "loop"), 1e-10)


def test_gradients_far_apart_in_scale() -> None:
    """The Gramian is exact relative to each pair's norms, whatever the others' are."""
    found = []
    for strategy in ("loop", "segment", "lowmem"):
        p = make("wide linear, by ghost products")
        scales = zip(p.losses, (1e-12, 1.0, 1e12), strict=True)
        losses = {t: lambda f, p=p, t=t, c=c: c * p.losses[t](f) for t, c in scales}
        found.append(run(p, strategy, losses=losses).gramian())
    norms = found[0].diagonal().sqrt()
    for gram in found[1:]:
        assert ((gram - found[0]).abs() <= 1e-10 * norms[:, None] * norms).all()


def test_weights_of_another_number_are_refused() -> None:
    for strategy in ("segment", "lowmem"):
        with pytest.raises(ValueError, match="one weight per task"):
            run(make("linear"), strategy).combine([1.0, 2.0])


def test_a_problem_of_any_model() -> None:
    p = problem(nn.Sequential(nn.Linear(3, 3), nn.Sigmoid()), (3,), torch.float64, (2, 2))
    assert_same(run(p, "segment"), run(p, "loop"), 1e-10)


@pytest.mark.parametrize("strategy", ONE_PASS)
@pytest.mark.parametrize("over", ["own", "shared"])
def test_one_classifier_for_all_tasks(over: str, strategy: str) -> None:
    """As in the class-incremental setting: its gradient is a sum over tasks, or split like the model's."""
    found = []
    for how in ("loop", strategy):
        p = make("batch norm 2d")
        head = p.heads["task 0"]
        losses = {task: lambda f, head=head, c=c: head(f).pow(c).mean() for c, task in enumerate(p.losses, start=2)}
        parameters = {"own": list(head.parameters())}
        if over == "shared":
            parameters = {"own": [], "shared": p.shared + list(head.parameters())}
        root = nn.ModuleList([p.model, p.heads])
        found.append(run(p, how, losses=losses, root=root, **parameters))
    assert_same(found[1], found[0], 1e-10)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(t, Tensor):
                self.numel = max(self.numel, t.numel())
        return out


@pytest.mark.parametrize(
    ("model", "shape", "rows"),
    [
        (lambda: nn.Sequential(nn.Linear(60, 50), nn.Tanh(), nn.Linear(50, 40)), (60,), 20),
        (lambda: nn.Sequential(nn.Conv2d(4, 30, 3), nn.Tanh(), nn.Conv2d(30, 20, 2), nn.Flatten()), (4, 4, 4), 2),
    ],
    ids=["linear", "convolution"],
)
def test_lowmem_never_holds_k_gradients_of_a_weight(model, shape, rows) -> None:  # type: ignore[no-untyped-def]
    tasks, largest = 30, {}
    for strategy in ("segment", "lowmem"):
        torch.manual_seed(0)
        p = problem(model(), shape, torch.float32, (rows,) * tasks)
        workspace = Workspace()
        run(p, strategy, workspace)
        with LargestTensor() as seen:
            found = run(p, strategy, workspace)
            found.combine(found.gramian()[0])
        largest[strategy] = seen.numel
    weight = max(q.numel() for q in p.shared)
    activations = rows * tasks * max(60, 30 * 2 * 2)
    assert largest["lowmem"] <= max(weight, activations)
    assert max(weight, activations) < tasks * weight


class ConvolvesOnceMore(nn.Module):
    """A convolution that runs twice, with the second result unused."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        self.layer(z)
        return z.flatten(1)


@pytest.mark.parametrize("strategy", ONE_PASS)
def test_gradients_of_a_run_without_effect_carry_no_graph(strategy: str) -> None:
    p = problem(ConvolvesOnceMore(), (2, 5), torch.float64, (2, 2))
    found, expected = run(p, strategy), run(p, "loop")
    assert_same(found, expected, 1e-10)
    assert not found.gramian().requires_grad
    assert not any(g.requires_grad for gradient in found.each() for g in gradient if g is not None)
