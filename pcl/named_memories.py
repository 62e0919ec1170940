"""The named memories, the ways to choose from them, and the ways to tell classes by them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pcl.inference.base import Inference
from pcl.inference.from_scratch import FromScratch
from pcl.inference.nearest_mean import NearestMean
from pcl.memory.balanced_reservoir import BalancedReservoir
from pcl.memory.base import Memory
from pcl.memory.class_memory import ClassMemory
from pcl.memory.generative import GenerativeMemory
from pcl.memory.greedy_balanced import GreedyBalanced
from pcl.memory.gss import GSSGreedy
from pcl.memory.herding import HerdingMemory
from pcl.memory.reservoir import ReservoirMemory
from pcl.memory.retrieval import MIR, Balanced, Retrieval
from pcl.memory.shared_memory import SharedMemory

MemoryName = Literal[
    "class",
    "shared",
    "ring",
    "reservoir",
    "reservoir-logits",
    "balanced",
    "gss",
    "herding",
    "greedy-balanced",
    "generative",
    "none",
]
RetrievalName = Literal["random", "mir", "mir-finished", "task-balanced", "class-balanced"]
InferenceName = Literal["model", "nearest-mean", "from-scratch"]


@dataclass(frozen=True)
class MemorySpec:
    """A memory that has a name.

    Attributes:
        make: builds it from the samples per class, those in all and the seed of the run, each heeding what concerns it;
            None is no memory.
        summary: one line for people.
        source: where it comes from.
    """

    make: Callable[[int, int, int], Memory | None]
    summary: str
    source: str


MEMORIES: dict[MemoryName, MemorySpec] = {
    "class": MemorySpec(
        lambda per_class, capacity, seed: ClassMemory(per_class),
        "n samples per class of finished tasks",
        "Vitter 1985, a reservoir per class",
    ),
    "shared": MemorySpec(
        lambda per_class, capacity, seed: SharedMemory(capacity),
        "so many samples in all, shared evenly among the classes of finished tasks",
        "the published code of arXiv 2401.01054",
    ),
    "ring": MemorySpec(
        lambda per_class, capacity, seed: ClassMemory(per_class, keep="last"),
        "the last n samples per class of finished tasks",
        "arXiv 1706.08840",
    ),
    "reservoir": MemorySpec(
        lambda per_class, capacity, seed: ReservoirMemory(capacity),
        "a uniform sample of all that was seen, of running tasks too",
        "Vitter 1985, Algorithm R",
    ),
    "reservoir-logits": MemorySpec(
        lambda per_class, capacity, seed: ReservoirMemory(capacity, logits=True),
        "the same, with what the model said of the samples",
        "Buzzega et al. 2020",
    ),
    "balanced": MemorySpec(
        lambda per_class, capacity, seed: BalancedReservoir(capacity),
        "of all that was seen as many of every class",
        "Chrysakis and Moens 2020, Algorithm 1",
    ),
    "gss": MemorySpec(
        lambda per_class, capacity, seed: GSSGreedy(capacity),
        "samples whose gradients point away from each other",
        "Aljundi et al. 2019, GSS-Greedy, n = 10",
    ),
    "herding": MemorySpec(
        lambda per_class, capacity, seed: HerdingMemory(capacity),
        "of finished tasks the samples whose means are nearest to those of their classes",
        "iCaRL, Alg. 4 and 5",
    ),
    "greedy-balanced": MemorySpec(
        lambda per_class, capacity, seed: GreedyBalanced(capacity),
        "of all that was seen what comes first, while there are as many of every class",
        "GDumb, Alg. 1",
    ),
    "generative": MemorySpec(
        lambda per_class, capacity, seed: GenerativeMemory(seed=seed),
        "none stored: images that a small VAE makes up, with labels of the model at the last end of a task",
        "Shin et al. 2017",
    ),
    "none": MemorySpec(lambda per_class, capacity, seed: None, "no rehearsal", "fine-tuning"),
}


@dataclass(frozen=True)
class RetrievalSpec:
    """A retrieval that has a name.

    Attributes:
        make: builds it from the number of samples drawn in a step and the learning rate, each heeding what concerns it;
            None is uniform.
        summary: one line for people.
        source: where it comes from.
    """

    make: Callable[[int, float], Retrieval | None]
    summary: str
    source: str


RETRIEVALS: dict[RetrievalName, RetrievalSpec] = {
    "random": RetrievalSpec(lambda count, lr: None, "every stored sample alike", "experience replay"),
    "mir": RetrievalSpec(
        lambda count, lr: MIR(5 * count, lr=lr), "the most interfered of five times as many", "Aljundi et al. 2019"
    ),
    "mir-finished": RetrievalSpec(
        lambda count, lr: MIR(5 * count, lr=lr, finished_only=True),
        "the same among samples of tasks that are not in training",
        "its released code",
    ),
    "task-balanced": RetrievalSpec(lambda count, lr: Balanced("task"), "as many of every task", "stratified draw"),
    "class-balanced": RetrievalSpec(lambda count, lr: Balanced("class"), "as many of every class", "stratified draw"),
}


@dataclass(frozen=True)
class InferenceSpec:
    """A way to tell classes that has a name.

    Attributes:
        make: builds it from what makes the run's backbone, the epochs of its training and the seed of the run, each
            heeding what concerns it; None is the model's heads.
        summary: one line for people.
        source: where it comes from.
        costly: whether a run that does not say measures accuracy only when tasks end.
    """

    make: Callable[[Callable[[], nn.Module], int, int], Inference | None]
    summary: str
    source: str
    costly: bool = False


INFERENCES: dict[InferenceName, InferenceSpec] = {
    "model": InferenceSpec(lambda make, epochs, seed: None, "the model's own heads", "every paper but those below"),
    "nearest-mean": InferenceSpec(
        lambda make, epochs, seed: NearestMean(),
        "the class whose stored samples are nearest in their mean",
        "iCaRL, Alg. 1",
    ),
    "from-scratch": InferenceSpec(
        lambda make, epochs, seed: FromScratch(make, epochs=epochs, seed=seed),
        "a model trained anew on the memory alone, whenever accuracy is measured",
        "GDumb",
        costly=True,
    ),
}
