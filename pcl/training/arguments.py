"""What a trainer may be made of."""

from typing import TYPE_CHECKING, get_args

from pcl import parts
from pcl.gradients.task_gradients import Strategy
from pcl.losses.base import FollowsPath, LooksAhead
from pcl.memory.generative import GenerativeMemory
from pcl.models.continual import ContinualModel
from pcl.models.growth.growing import GrowingModel
from pcl.streams.sampling import TaskSampling
from pcl.training.beside_growth import check_growing, check_growing_optimizer
from pcl.training.bgd import BGD
from pcl.training.losses import Precision
from pcl.training.step_data import MemoryTasks
from pcl.weighting.base import GradientWeighting, Needs, Remembers

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


def check_model(model: object) -> None:
    """Refuse what is not a model with something to train; see :class:`pcl.Trainer`."""
    if not isinstance(model, ContinualModel):
        raise TypeError(
            f"trainer: expected a ContinualModel, got {type(model).__name__}; wrap your network: "
            "ContinualModel(backbone, features=width of its output)"
        )
    check_trainable(model)


def check_trainable(model: ContinualModel) -> None:
    """Refuse a backbone all of whose parameters are frozen.

    Raises:
        ValueError: if they are.
    """
    if parts.first(model.backbone, trainable=True) is None:
        raise ValueError(
            "trainer: the backbone has no trainable parameter, so that no task gradients exist; unfreeze at least one"
        )


def check_arguments(trainer: "Trainer") -> None:
    """Refuse a composition that makes no sense; see :class:`pcl.Trainer`."""
    if trainer.sampling is not None and not isinstance(trainer.sampling, TaskSampling):
        raise TypeError(
            f"trainer: expected sampling to be a TaskSampling, got {trainer.sampling!r}; make one: "
            'TaskSampling("equal", tasks_per_step=2)'
        )
    if trainer.edit is not None and trainer.memory is None:
        raise ValueError("trainer: an edit changes stored samples; pass a memory too, memory=ClassMemory(n)")
    if trainer.retrieval is not None and trainer.memory is None:
        raise ValueError("trainer: retrieval chooses stored samples; pass a memory too, memory=ReservoirMemory(n)")
    if trainer.inference is not None and trainer.memory is None:
        raise ValueError("trainer: inference asks the memory; pass one too, such as memory=HerdingMemory(n)")
    check_stored(trainer)
    if trainer.retrieval is not None and trainer.memory_tasks == "each":
        raise ValueError(
            "trainer: retrieval chooses one batch from the whole memory, memory_tasks='each' draws one for every task; "
            "leave one of them out"
        )
    parts = {"memory": "observe", "retrieval": "settings", "edit": "load_state_dict", "inference": "settings"}
    for name, method in parts.items():
        part = getattr(trainer, name)
        if part is not None and (isinstance(part, type) or not hasattr(part, method)):
            raise TypeError(f"trainer: expected {name} to be an object, such as pcl.ClassMemory(5), got {part!r}")
    check_replay(trainer)
    names = {
        "gradients_over": ("backbone", "all"),
        "gramian": ("needed", "always"),
        "strategy": get_args(Strategy),
        "precision": get_args(Precision),
        "memory_tasks": get_args(MemoryTasks),
    }
    for name, known in names.items():
        if getattr(trainer, name) not in known:
            choice = " or ".join(map(repr, known))
            raise ValueError(f"trainer: expected {name} {choice}, got {getattr(trainer, name)!r}")
    for name in ("memory_batch", "evaluate_every", "accumulate", "measure_descent"):
        value = getattr(trainer, name)
        if value is not None and value < 1:
            raise ValueError(f"trainer: {name} must be at least 1, got {value}")
    if trainer.clip is not None and not trainer.clip > 0:
        raise ValueError(f"trainer: expected clip, a norm, above 0, got {trainer.clip}; leave it out not to clip")
    check_weighting(trainer.weighting, trainer.strategy)
    if isinstance(trainer.model, GrowingModel):
        check_growing(trainer)


def check_stored(trainer: "Trainer") -> None:
    """Refuse what works on stored samples where the memory makes samples up.

    Raises:
        ValueError: naming it.
    """
    works_on_samples = {
        "an edit": trainer.edit is not None,
        "retrieval": trainer.retrieval is not None,
        "inference": trainer.inference is not None,
        "memory_tasks='each'": trainer.memory_tasks == "each",
        **{type(term).__name__: isinstance(term, LooksAhead) for term in trainer.loss_terms},
    }
    for what, given in works_on_samples.items():
        if given and isinstance(trainer.memory, GenerativeMemory):
            raise ValueError(
                f"trainer: {what} works on stored samples, and a GenerativeMemory makes samples up; leave it out, or "
                "take a memory that stores samples"
            )


def check_optimizer(trainer: "Trainer") -> None:
    """Refuse terms that learn from updates where parameters are drawn anew and no update is along one gradient.

    Raises:
        ValueError: naming the term.
    """
    if isinstance(trainer.model, GrowingModel):
        check_growing_optimizer(trainer)
    for term in trainer.loss_terms:
        if isinstance(trainer.optimizer, BGD) and isinstance(term, FollowsPath):
            raise ValueError(
                f"trainer: {type(term).__name__} learns from the updates along gradients, which BGD does not make; "
                "leave one of them out"
            )


def check_replay(trainer: "Trainer") -> None:
    """Refuse a term that says how the memory is replayed where there is none of its kind.

    Raises:
        ValueError: saying which memory it needs.
    """
    term = trainer.loss_terms.replays
    if term is None:
        return
    if trainer.memory is None:
        raise ValueError(
            f"trainer: {type(term).__name__} replays stored samples; pass a memory too, memory=ReservoirMemory(n)"
        )
    if term.needs_logits and not trainer.memory.keep_logits:
        raise ValueError(
            f"trainer: {type(term).__name__} replays stored logits, and this {type(trainer.memory).__name__} keeps "
            "none; pass memory=ReservoirMemory(n, logits=True)"
        )


def check_weighting(weighting: Remembers, strategy: Strategy) -> None:
    """Refuse what is no weighting, or one whose ``needs`` does not go with what it has, or with the strategy.

    Raises:
        TypeError: for something else, such as a name or a class.
        ValueError: saying which does not go together.
    """
    if isinstance(weighting, type) or not hasattr(weighting, "needs"):
        raise TypeError(f"trainer: expected a weighting, such as pcl.MGDA(), got {weighting!r}")
    if weighting.needs not in get_args(Needs):
        known = " or ".join(map(repr, get_args(Needs)))
        raise ValueError(f"weighting: expected needs = {known}, got {weighting.needs!r}")
    if (weighting.needs == "gradients") != isinstance(weighting, GradientWeighting):
        raise ValueError(
            f"weighting: needs = 'gradients' and a method direction(found, tasks) go together; "
            f"{type(weighting).__name__} has one without the other"
        )
    if weighting.needs == "gradients" and strategy == "lowmem":
        raise ValueError(
            f"trainer: strategy 'lowmem' never holds the task gradients, on which {type(weighting).__name__} works; "
            "take 'auto', 'segment' or 'loop'"
        )
