"""What cannot work beside a network that grows, or has nothing to do there."""

from typing import TYPE_CHECKING

from pcl.losses.base import FollowsPath, LooksAhead, Penalty, Replays
from pcl.losses.lwf import LwF
from pcl.losses.sigmoid_distillation import SigmoidDistillation
from pcl.memory.base import MeetsModel
from pcl.memory.before_update import BeforeUpdate
from pcl.memory.class_memory import ClassMemory
from pcl.memory.gss import GSSGreedy
from pcl.memory.retrieval import MIR
from pcl.training.bgd import BGD
from pcl.weighting.moco import MoCo

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

_BY_PARAMETER = (Penalty, LooksAhead, FollowsPath)  # they remember something of every parameter, in its shape
_HOLDING = (*_BY_PARAMETER, LwF, SigmoidDistillation)


def check_growing(trainer: "Trainer") -> None:
    """Refuse what does not go with a :class:`pcl.GrowingModel`. What finished tasks use does not change there, so that
    nothing need hold it, and their samples have no gradient.

    Raises:
        ValueError: naming it.
    """
    for term in trainer.loss_terms:
        if isinstance(term, _HOLDING):
            _refuse(type(term).__name__, "finished tasks cannot change, so that it has nothing to hold")
        if isinstance(term, Replays) and term.own_draw:
            _refuse(type(term).__name__, "of its two draws from the memory one may hold fewer samples of running tasks")
    if trainer.inference is not None:
        _refuse("inference from the memory", "every finished task is told its classes by a network of its own")
    if isinstance(trainer.memory, (MeetsModel, GSSGreedy)):
        _refuse(type(trainer.memory).__name__, "it asks the backbone about samples without saying whose they are")
    if trainer.memory_tasks == "each":
        _refuse("memory_tasks='each'", "stored samples of finished tasks have no gradient there and constrain no step")
    if isinstance(trainer.memory, ClassMemory):
        _refuse("ClassMemory", "it stores samples as tasks end, and those of finished tasks have no gradient there")
    if isinstance(trainer.retrieval, MIR) and trainer.retrieval.finished_only:
        _refuse("MIR of finished tasks", "their samples have no gradient there")
    if isinstance(trainer.edit, BeforeUpdate):
        _refuse("an edit before the update", "it may change samples of finished tasks, which have no gradient there")
    if isinstance(trainer.weighting, MoCo):
        _refuse("MoCo", "it averages gradients over steps in which the network had other widths")


def check_growing_optimizer(trainer: "Trainer") -> None:
    """Likewise for the optimizer.

    Raises:
        ValueError: for BGD.
    """
    if isinstance(trainer.optimizer, BGD):
        _refuse("BGD", "it draws every parameter anew and knows a deviation of each, in the shape that it had")


def _refuse(what: str, why: str) -> None:
    raise ValueError(f"trainer: {what} does not go with a GrowingModel: {why}; leave one of them out")
