"""What a GPU asks of a step: that nothing in it waits for the device.

A tensor on the device "meta" has a shape and no values. Whatever would make the host wait for a GPU (``.item()``,
``.tolist()``, ``.cpu()``, ``nonzero``, an ``if`` on a tensor) needs values and raises there. So a step that runs
through on "meta" waits for nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from training_cases import blobs

import pcl.gradients.grouped
import pcl.gradients.task_gradients
import pcl.losses.task_samples
import pcl.memory.balanced_reservoir
import pcl.memory.class_memory
import pcl.memory.gss
import pcl.memory.placement
import pcl.training.intake
import pcl.training.trainer
import pcl.weighting.emgd
import pcl.weighting.fixed
import pcl.weighting.graddrop
import pcl.weighting.gradvac
import pcl.weighting.mgda
import pcl.weighting.pcgrad
import pcl.weighting.rlw
from pcl import (
    AGEM,
    DER,
    DWA,
    EMGD,
    EWC,
    FAMO,
    HAL,
    IMTLL,
    MAS,
    MEGAI,
    MEGAII,
    MEMORY,
    MGDA,
    MIR,
    MLP,
    RLW,
    SI,
    AmortisedMGDA,
    Balanced,
    BalancedReservoir,
    BeforeUpdate,
    CAGradFast,
    ClassMemory,
    ConFIG,
    ContinualModel,
    FairGrad,
    Fixed,
    GMEDEdit,
    GradDrop,
    GradientWeighting,
    GradNorm,
    GradVac,
    GSSGreedy,
    Krum,
    LossTerm,
    LwF,
    MaxDO,
    Mean,
    MoCo,
    PCGrad,
    ReservoirMemory,
    ScaleInvariant,
    SDMGrad,
    SigmoidDistillation,
    Stream,
    Trainer,
    TrimmedMean,
    Uncertainty,
    Weighting,
)
from pcl.memory.retrieval import Retrieval
from pcl.training import guard


def on_meta(weighting: Weighting | GradientWeighting, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Trainer:
    """A trainer on "meta" amid its run: two tasks in training, and memory of a third."""
    monkeypatch.setattr(guard, "send", lambda flags: (lambda: False, lambda: None, flags))  # the flags never arrive
    monkeypatch.setattr(pcl.gradients.task_gradients, "why_not", lambda *a: "")  # found out once, with a wait
    monkeypatch.setattr(pcl.gradients.joined, "_alike", lambda *a: True)  # likewise
    monkeypatch.setattr(pcl.weighting.graddrop, "generator", lambda *a, **b: None)  # "meta" has no generators
    monkeypatch.setattr(torch, "autocast", lambda *a, **b: nullcontext())  # knows no "meta"
    backbone = nn.Sequential(MLP(6, [16]), nn.BatchNorm1d(16)).to("meta")
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)}
    old = ClassMemory(2)
    model = ContinualModel(backbone, 16, head=arguments.pop("head", "linear"))
    t = Trainer(model, weighting=weighting, **{"memory": old, **given, **arguments})
    for task, classes in (("a", [0, 1]), ("b", [2, 3])):
        x, y = blobs(classes, 40)
        t.add(Stream(task, list(zip(x.split(4), y.split(4), strict=True)), classes))
    t.model.add_task("old", [4, 5])
    old.x, old.y = torch.empty(4, 6, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    old.task, old.names, old.sizes = torch.empty_like(old.y), ("old",), (4,)
    t.streams["old"] = Stream("old", [], [4, 5])
    t.streams["old"].ended, t.ended_at["old"] = True, 0
    return t


class Watch(TorchDispatchMode):
    """Raises for copies from the host to "meta" that are not made by ``to_device``."""

    def __torch_dispatch__(self, op: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        tensors = [a for a in pytree.tree_leaves(arguments) if isinstance(a, Tensor)]
        target = (options or {}).get("device")
        if op is torch.ops.aten._to_copy.default and target is not None:
            crossing = target.type == "meta" and tensors[0].device.type == "cpu"
        else:
            moves = op in (torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
            crossing = moves and {"cpu", "meta"} <= {t.device.type for t in tensors if t.numel()}
        if crossing:
            raise RuntimeError(f"{op} copies from the host")
        return op(*arguments, **(options or {}))


@contextmanager
def watched() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, Watch():
        moving = (pcl.weighting.fixed, pcl.weighting.gradvac, pcl.weighting.pcgrad, pcl.weighting.rlw)
        memory = (pcl.memory.base, pcl.memory.class_memory, pcl.memory.placement, pcl.memory.retrieval)
        memory = (*memory, pcl.memory.balanced_reservoir, pcl.memory.gss)
        keeping = (pcl.losses.task_samples, *memory)
        for module in (pcl.gradients.grouped, *keeping, pcl.training.intake, *moving):
            patch.setattr(module, "to_device", lambda x, device: torch.empty_like(x, device=device))
        for holder, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
            patch.setattr(holder, name, refusing(getattr(holder, name)))
        yield


def refusing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*arguments: Any, **options: Any) -> Tensor:
        made = make(*arguments, **options)
        if made.device.type == "meta" and made is not arguments[0]:
            raise RuntimeError("a tensor of values from the host")
        return made

    return run


WEIGHTINGS: dict[str, Callable[[], Weighting | GradientWeighting]] = {
    "mean": Mean,
    "mgda": MGDA,
    "gmc": lambda: EMGD("gmc"),
    "gs": lambda: EMGD("gs", scale="unit"),
    "gmc code": lambda: EMGD("gmc", variant="code"),
    "pcgrad": lambda: PCGrad(orders=2),
    "gradvac": GradVac,
    "rlw": RLW,
    "dwa": lambda: DWA(period=2),
    "uncertainty": Uncertainty,
    "famo": FAMO,
    "cagrad-fast": lambda: CAGradFast(sample=1),
    "graddrop": GradDrop,
    "trimmed-mean": TrimmedMean,
    "moco": MoCo,
    "a-gem": AGEM,
    "mega-i": MEGAI,
    "mega-ii": MEGAII,
    "famo next step": lambda: FAMO(second_loss="next step"),
    "amortised mgda": AmortisedMGDA,
    "fixed": lambda: Fixed({"a": 2.0}),
    "mgda l2": lambda: MGDA("l2"),
    "mgda loss+": lambda: MGDA("loss+", variant="descent"),
    "gradnorm": GradNorm,
    "imtl-l": IMTLL,
    "scale-invariant": ScaleInvariant,
    "config": ConFIG,
    "krum": lambda: Krum(0),
    "fairgrad": FairGrad,
    "maxdo": MaxDO,
    "sdmgrad": SDMGrad,
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p),
}


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("strategy", ["loop", "segment", "lowmem"])
def test_a_step_waits_for_nothing(weighting: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if strategy == "lowmem" and WEIGHTINGS[weighting]().needs == "gradients":
        pytest.skip("lowmem holds no gradients")
    t = on_meta(WEIGHTINGS[weighting](), monkeypatch, strategy=strategy)
    t.step()  # heads, and what is found out and kept of the tasks, begin here
    with watched():
        for _ in range(4):
            result = t.step()
            assert result is not None
            assert result.tasks == ("a", "b", MEMORY)
            assert result.weights.device.type == "meta"


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "setting",
    [{}, {"accumulate": 2}, {"clip": 1.0}, {"gradients_over": "all"}, {"memory_tasks": "each"}, {"head": "cosine"}],
    ids=str,
)
def test_options_wait_for_nothing(optimizer: str, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    t = on_meta(EMGD("gmc"), monkeypatch, strategy="loop", optimizer=OPTIMIZERS[optimizer], **setting)
    t.step()
    with watched():
        for _ in range(3):
            assert t.step() is not None


LOSS_TERMS: dict[str, Callable[[], LossTerm]] = {
    "ewc": lambda: EWC(1.0, samples=6),
    "mas": lambda: MAS(1.0, samples=6, protect="all"),
    "si": lambda: SI(1.0),
    "lwf": LwF,
    "sigmoid distillation": SigmoidDistillation,
    "hal": HAL,
}


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("name", LOSS_TERMS)
def test_loss_terms_wait_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    term = LOSS_TERMS[name]()
    t = on_meta(MGDA(), monkeypatch, loss_terms=[term])
    if isinstance(term, (EWC, MAS)):
        parameters = term.springs.parameters(t.model)
        term.springs.attach({name: torch.empty_like(p) for name, p in parameters.items()}, parameters)
    if isinstance(term, (LwF, SigmoidDistillation)):
        term.task_ended(t.model, "old")
    if isinstance(term, HAL):
        term._names, term._x = ("old",), torch.empty(2, 6, device="meta")
        term._task = torch.empty(2, dtype=torch.int64, device="meta")
        term._width = torch.empty_like(term._task)
    t.step()  # before it the samples of tasks, and paths, do not exist
    with watched():
        for _ in range(9):
            assert t.step() is not None


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize(
    "retrieval",
    [None, MIR(lr=0.1), Balanced("task"), Balanced("class")],
    ids=["random", "mir", "task-balanced", "class-balanced"],
)
@pytest.mark.parametrize("samples", ["recalled", "others"])
def test_a_reservoir_waits_for_nothing(
    retrieval: Retrieval | None, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do retrieval, and an edit before the update."""
    edit = BeforeUpdate(GMEDEdit(0.1), samples)
    memory = ReservoirMemory(7)
    t = on_meta(Mean(), monkeypatch, memory=memory, retrieval=retrieval, edit=edit, memory_batch=3)
    t.step()
    t.step()  # here the first samples come back
    assert memory.x.device.type == "meta"
    with watched():
        for _ in range(4):
            result = t.step()
            assert result is not None
            assert result.tasks == ("a", "b", MEMORY)
    assert memory.seen == 6 * 8


@pytest.mark.parametrize("memory", [BalancedReservoir(7), GSSGreedy(7, compared=3)], ids=["balanced", "gss"])
def test_memories_that_choose_by_labels_and_gradients_wait_for_nothing(
    memory: ReservoirMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = on_meta(Mean(), monkeypatch, memory=memory, memory_batch=3)
    t.step()
    t.step()  # here the memory is full
    with watched():
        for _ in range(4):
            assert t.step() is not None
    assert memory.x.device.type == "meta"
    assert memory.seen == 6 * 8


@pytest.mark.parametrize("memory_tasks", ["one", "each"])
def test_stored_logits_wait_for_nothing(memory_tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = ReservoirMemory(7, logits=True)
    t = on_meta(
        MGDA(), monkeypatch, memory=memory, memory_batch=3, memory_tasks=memory_tasks, loss_terms=[DER(0.5, 0.5)]
    )
    t.step()
    t.step()
    with watched():
        for _ in range(4):
            assert t.step() is not None
    assert memory.logits.shape == (7, 2)
    assert memory.logits.device.type == "meta"


def test_batches_that_are_on_the_device_already_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    t = on_meta(MGDA(), monkeypatch, strategy="loop")
    x, y = torch.rand(4, 6, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    t.add(Stream("c", [(x, y)] * 9, [6, 7]))
    t.step()
    with watched():
        for _ in range(3):
            assert t.step() is not None


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda g: g[0, 0].item(),
    "float": lambda g: float(g[0, 0]),
    "if": lambda g: bool((g > 0).all()),
    "tolist": lambda g: g.tolist(),
    "cpu": lambda g: g.cpu(),
    "numpy": lambda g: g.numpy(),
    "nonzero": lambda g: g.nonzero(),
    "mask": lambda g: g[g > 0],
    "equal": lambda g: torch.equal(g, g),
    "unique": lambda g: g.unique(),
    "tensor": lambda g: torch.tensor([g[0, 0]]),
    # and from the host to the device, where the copy from ordinary memory waits
    "new tensor": lambda g: torch.tensor([1.0], device=g.device),
    "like": lambda g: g.new_tensor([1.0]),
    "as tensor": lambda g: torch.as_tensor([1.0], device=g.device),
    "to": lambda g: torch.ones(2).to(g),
    "copy": lambda g: g[0].copy_(torch.ones(3)),
    "index": lambda g: g[torch.tensor([0])],
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_planted_wait_is_found(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting(MGDA):
        def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
            if t.step_count > 0:
                WAITS[wait](gram)
            return super().__call__(gram, losses, tasks)

    t = on_meta(Waiting(), monkeypatch, strategy="loop")
    t.step()
    with watched(), pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        t.step()
