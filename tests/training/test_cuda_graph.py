"""Captured steps: when they are captured, what they read, and on a GPU that they are the plain steps, unwaited for.

On the CPU a stand-in for the graph runs the captured function again at every replay, on whatever its buffers hold.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import blobs, same, stream, trainer

from pcl import (
    AGEM,
    DER,
    DWA,
    EMGD,
    EWC,
    FAMO,
    IMTLL,
    MAS,
    MEGAI,
    MEGAII,
    MGDA,
    MLP,
    RLW,
    SI,
    ClassMemory,
    ConFIG,
    ContinualModel,
    GradNorm,
    Krum,
    LossTerm,
    LwF,
    MaxDO,
    Mean,
    ReservoirMemory,
    ScaleInvariant,
    SDMGrad,
    SigmoidDistillation,
    Stream,
    Trainer,
    Uncertainty,
    Weighting,
)
from pcl.training.cuda_graph import WARM_UP, GraphedStep, Replay, check_capturable
from pcl.training.guard import Later
from pcl.training.step_data import StepData
from pcl.training.step_result import Descent

WEIGHTINGS: dict[str, Callable[[], Weighting]] = {
    "mean": Mean,
    "mgda": MGDA,
    "gmc": lambda: EMGD("gmc"),
    "gs": lambda: EMGD("gs"),
    "gmc code": lambda: EMGD("gmc", variant="code"),
    "dwa": lambda: DWA(period=3),
    "uncertainty": lambda: Uncertainty(lr=0.1),
    "a-gem": AGEM,
    "mega-i": MEGAI,
    "mega-ii": MEGAII,
    "mgda loss+": lambda: MGDA("loss+"),
    "gradnorm": GradNorm,
    "imtl-l": lambda: IMTLL(lr=0.1),
    "scale-invariant": ScaleInvariant,
    "config": ConFIG,
    "krum": lambda: Krum(0),
    "maxdo": MaxDO,
    "sdmgrad": SDMGrad,
}


class StandIn:
    """Counts captures and replays, and where the captured function found its batches."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def __call__(self, function: Replay) -> Replay:
        self.captures += 1

        def replay() -> Descent:
            self.replays += 1
            return function()

        return replay


def graphed(t: Trainer) -> StandIn:
    stand_in = StandIn()
    t._graph = GraphedStep(t, stand_in)
    return stand_in


def timeline(t: Trainer) -> Iterator[None]:
    """Steps in which tasks arrive, pause, end, and give batches that are smaller."""
    t.add(stream("a", [0, 1], 46))  # batches of 4; the last of 2
    t.add(stream("b", [2, 3], 400))
    yield from (t.step() for _ in range(16))  # type: ignore[misc]  # "a" ends after 12; MEMORY joins
    t.add(stream("c", [1, 4], 400))
    yield from (t.step() for _ in range(8))  # type: ignore[misc]
    t.streams["b"].pause()
    yield from (t.step() for _ in range(6))  # type: ignore[misc]
    t.streams["b"].resume()
    yield from (t.step() for _ in range(8))  # type: ignore[misc]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_replayed_steps_are_the_plain_ones(weighting: str, setting: str) -> None:
    plain, other = (trainer(setting=setting, weighting=WEIGHTINGS[weighting]()) for _ in range(2))
    stand_in = graphed(other)
    for a, b in zip(timeline(plain), timeline(other), strict=True):
        assert torch.equal(a.losses, b.losses)  # type: ignore[attr-defined]
        assert torch.equal(a.weights, b.weights)  # type: ignore[attr-defined]
    assert same(dict(plain.model.state_dict()), dict(other.model.state_dict()))
    assert same(plain.weighting.state_dict(), other.weighting.state_dict())
    assert stand_in.captures == 5  # {a, b}, {b, MEMORY}, {b, c, MEMORY}, {c, MEMORY}, {b, c, MEMORY} again
    # 12 steps of {a, b}, of which one is smaller; 4, 8, 6 and 8 of the others
    assert stand_in.replays == (12 - 1 - WARM_UP) + (4 - WARM_UP) + (8 - WARM_UP) + (6 - WARM_UP) + (8 - WARM_UP)


@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_replayed_steps_store_and_read_logits(beta: float, setting: str) -> None:
    runs = []
    for _ in range(2):
        memory = ReservoirMemory(30, logits=True)
        runs.append(trainer(setting=setting, memory=memory, memory_batch=4, loss_terms=[DER(0.5, beta)]))
    stand_in = graphed(runs[1])
    for a, b in zip(*map(timeline, runs), strict=True):
        assert torch.equal(a.losses, b.losses)  # type: ignore[attr-defined]
    plain, other = (t.memory for t in runs)
    assert isinstance(plain, ReservoirMemory)
    assert isinstance(other, ReservoirMemory)
    assert torch.equal(plain.logits.nan_to_num(9.0), other.logits.nan_to_num(9.0))
    assert same(dict(runs[0].model.state_dict()), dict(runs[1].model.state_dict()))
    assert stand_in.replays > 10


def test_the_graph_reads_its_own_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    t = trainer(stream("a", [0, 1], 400), stream("b", [2, 3], 400))
    graphed(t)
    seen: list[tuple[list[int], list[Tensor]]] = []
    descend = t._descend

    def watched(data: StepData) -> Descent:
        seen.append(([part.data_ptr() for part in data.tensors()], [part.clone() for part in data.tensors()]))
        return descend(data)

    monkeypatch.setattr(t, "_descend", watched)
    expected = []
    for _ in range(WARM_UP + 4):
        expected.append([part for s in t.streams.values() for part in s.peek()])  # type: ignore[union-attr]
        t.step()
    where = [addresses for addresses, _ in seen[WARM_UP:]]
    assert all(addresses == where[0] for addresses in where)
    for (_, found), batches in zip(seen, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, batches, strict=True))


def test_results_of_different_steps_share_no_memory() -> None:
    t = trainer(stream("a", [0, 1], 400), stream("b", [2, 3], 400), weighting=MGDA())
    stand_in = StandIn()

    def one_place(function: Replay) -> Replay:
        """As a graph does it: every replay writes to the same tensors."""
        first: list[Descent] = []

        def replay() -> Descent:
            found = function()
            if not first:
                first.append(found)
                return found
            for name in ("losses", "gram", "weights"):
                getattr(first[0], name).copy_(getattr(found, name))
            for mine, new in zip(first[0].direction, found.direction, strict=True):
                if mine is not None and new is not None:
                    mine.copy_(new)
            return first[0]

        return replay

    t._graph = GraphedStep(t, one_place)
    results = [t.step() for _ in range(WARM_UP + 3)]
    twin = trainer(stream("a", [0, 1], 400), stream("b", [2, 3], 400), weighting=MGDA())
    for result in results:
        expected = twin.step()
        assert result is not None
        assert expected is not None
        for name in ("losses", "gram", "weights"):
            assert torch.equal(getattr(result, name), getattr(expected, name))
    assert stand_in.captures == 0


CHANGES: dict[str, Callable[[Trainer], object]] = {
    "learning rate": lambda t: t.optimizer.param_groups[0].update(lr=0.1),
    "frozen": lambda t: t.model.shared_parameters()[0].requires_grad_(False),
    "mode": lambda t: t.model.eval(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_baked_in_is_captured_anew_when_it_changes(change: str) -> None:
    runs = [trainer(stream("a", [0, 1], 400), stream("b", [2, 3], 400)) for _ in range(2)]
    stand_in = graphed(runs[1])
    for t in runs:
        t.fit(steps=6)
        CHANGES[change](t)
        t.fit(steps=6)
    assert stand_in.captures == 2
    assert same(dict(runs[0].model.state_dict()), dict(runs[1].model.state_dict()))


def test_a_learning_rate_in_a_tensor_needs_no_new_capture() -> None:
    rate = torch.tensor(0.1)
    t = trainer(stream("a", [0, 1], 400), optimizer=lambda p: torch.optim.Adam(p, lr=rate, foreach=False))
    stand_in = graphed(t)
    t.fit(steps=6)
    rate.fill_(0.2)
    t.fit(steps=6)
    assert stand_in.captures == 1


def test_after_a_bad_step_it_is_captured_anew() -> None:
    """What is put back does not lie where the graph looks for it."""
    t = trainer(stream("a", [0, 1], 400), stream("b", [2, 3], 400), weighting=DWA(period=2))
    t._guard = Later(torch.device("cpu"))
    stand_in = graphed(t)
    t.fit(steps=6)
    state = t.weighting.state_dict()
    hook = t.model.backbone.register_forward_hook(lambda module, arguments, out: out * torch.inf)
    t.step()
    hook.remove()
    with pytest.raises(FloatingPointError, match="task 'a': the loss is not finite"):
        t.step()
    assert same(state, t.weighting.state_dict())
    t.fit(steps=5)
    assert stand_in.captures == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a model on a CUDA device, this one is on cpu"),
        ({"weighting": RLW()}, "cannot capture the weighting RLW"),
        ({"weighting": FAMO()}, "cannot capture the weighting FAMO"),
        ({"optimizer": lambda p: torch.optim.Adam(p)}, "make Adam with it"),
    ],
)
def test_what_cannot_be_captured_is_refused(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = trainer(**arguments)
    if arguments:
        monkeypatch.setattr(Trainer, "device", torch.device("cuda"))
    with pytest.raises(ValueError, match=message):
        check_capturable(t)


def test_a_trainer_on_the_cpu_cannot_be_asked_for_a_graph() -> None:
    with pytest.raises(ValueError, match="cuda_graph needs a model on a CUDA device"):
        trainer(cuda_graph=True)


# ---- on a GPU


@pytest.fixture
def cuda() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    yield
    torch.cuda.set_sync_debug_mode("default")


def on_gpu(weighting: Weighting, **arguments: Any) -> Trainer:
    torch.manual_seed(0)
    backbone = nn.Sequential(MLP(6, [16, 8]), nn.BatchNorm1d(8)).cuda()
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True, capturable=True)}
    return Trainer(
        ContinualModel(backbone, 8),
        weighting=weighting,
        memory=ClassMemory(3),
        memory_batch=4,
        **{**given, **arguments},
    )


def assert_replayed(plain: Trainer, other: Trainer) -> None:
    """The other, with a graph, makes the steps of the plain one, but for the order of sums on a GPU."""
    for a, b in zip(timeline(plain), timeline(other), strict=True):
        assert torch.allclose(a.losses, b.losses, rtol=1e-4, atol=1e-6)  # type: ignore[attr-defined]
    for mine, expected in zip(other.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-6)
    assert other._graph is not None
    assert other._graph._replay is not None


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("strategy", ["loop", "segment", "lowmem"])
def test_on_a_gpu_replayed_steps_are_the_plain_ones(weighting: str, strategy: str) -> None:
    plain, other = (on_gpu(WEIGHTINGS[weighting](), strategy=strategy, cuda_graph=g) for g in (False, True))
    assert_replayed(plain, other)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("weighting", [*WEIGHTINGS, "rlw"])
def test_on_a_gpu_a_step_waits_for_nothing(weighting: str, cuda_graph: bool, where: str) -> None:
    if weighting == "rlw" and cuda_graph:
        pytest.skip("refused")
    t = on_gpu({**WEIGHTINGS, "rlw": RLW}[weighting](), cuda_graph=cuda_graph)
    for task, classes, n in (("a", [0, 1], 8), ("b", [2, 3], 400), ("c", [4, 5], 400)):
        x, y = (part.to(where) for part in blobs(classes, n))
        t.add(Stream(task, list(zip(x.split(4), y.split(4), strict=True)), classes))
    t.fit(steps=8)  # "a" has ended, the memory takes part; the graph is captured
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(20):
        t.step()
    torch.cuda.set_sync_debug_mode("default")
    assert t.step_count == 28


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_on_a_gpu_a_bad_step_changes_nothing(cuda_graph: bool, fused: bool) -> None:
    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01, fused=fused, capturable=True)

    t = on_gpu(MGDA(), optimizer=optimizer, cuda_graph=cuda_graph)
    t.add(stream("a", [0, 1], 400))
    x, y = (part.cuda() for part in blobs([2, 3], 400))
    x[8 * 4 + 2, 3] = torch.nan  # in the batch of step 8
    t.add(Stream("b", list(zip(x.split(4), y.split(4), strict=True)), [2, 3]))
    t.fit(steps=8)
    before = {name: value.clone() for name, value in t.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="step 8, task 'b': x holds NaN"):
        t.fit(steps=30)
    assert same(before, dict(t.model.state_dict()))
    t.fit(steps=8)
    assert all(torch.isfinite(p).all() for p in t.model.parameters())


LOSS_TERMS: dict[str, Callable[[], LossTerm]] = {
    "ewc": lambda: EWC(1.0, samples=6),
    "mas": lambda: MAS(0.1, samples=6),
    "si": lambda: SI(1.0),
    "lwf": LwF,
    "sigmoid distillation": SigmoidDistillation,
}


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("name", LOSS_TERMS)
def test_on_a_gpu_loss_terms_are_replayed_too(name: str) -> None:
    plain, other = (on_gpu(MGDA(), loss_terms=[LOSS_TERMS[name]()], cuda_graph=g) for g in (False, True))
    assert_replayed(plain, other)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("name", LOSS_TERMS)
def test_on_a_gpu_a_step_with_loss_terms_waits_for_nothing(name: str, cuda_graph: bool) -> None:
    t = on_gpu(MGDA(), loss_terms=[LOSS_TERMS[name]()], cuda_graph=cuda_graph)
    for task, classes, n in (("a", [0, 1], 8), ("b", [2, 3], 400), ("c", [4, 5], 400)):
        t.add(stream(task, classes, n))
    t.fit(steps=8)  # "a" has ended, the graph is captured
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(20):
        t.step()
    torch.cuda.set_sync_debug_mode("default")
    assert t.step_count == 28
