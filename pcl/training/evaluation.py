"""Accuracy, logits and features on held-out data, and how well calibrated they are."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pcl.data.batches import as_float
from pcl.data.rows import Images
from pcl.inference.base import Predict
from pcl.metrics import expected_calibration_error, logit_bias
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode


@torch.no_grad()
def accuracy(
    model: ContinualModel, task: str, x: Images, y: Tensor, *, batch_size: int = 128, predict: Predict | None = None
) -> float:
    """Fraction of samples whose most likely class is right; the model runs in evaluation mode.

    Args:
        x: ``(n, ...)``, or :class:`pcl.data.rows.Rows` of a larger tensor; uint8 images are scaled to [0, 1].
        y: ``(n,)`` class numbers.
        batch_size: samples at a time. Larger batches are slower on a CPU where samples are long: their activations
            leave the caches.
        predict: tells the classes, in place of the model's heads.

    Raises:
        ValueError: if there are no samples.
    """
    if len(y) == 0:
        raise ValueError(f"accuracy of task {task!r}: expected at least one test sample, got none")
    device = next(model.parameters()).device
    predict = model.predict if predict is None else predict
    with evaluation_mode(model):
        hits = [
            (predict(as_float(part).to(device), task) == labels.to(device)).sum()
            for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
        ]
    return float(torch.stack(hits).sum()) / len(y)


def features(model: ContinualModel, x: Images, *, batch_size: int = 128, task: str | None = None) -> Tensor:
    """What the backbone makes of samples, ``(n, features)`` on the CPU; arguments as of :func:`accuracy`.

    Args:
        task: whose samples these are, for a model that has to know.
    """
    names = () if task is None else (task,)
    return _by_parts(model, lambda part: model.encode(model.rows(part, names)), x, batch_size)


def logits(model: ContinualModel, task: str, x: Images, *, batch_size: int = 128) -> Tensor:
    """Logits ``(n, len(model.columns(task)))`` on the CPU; arguments as of :func:`accuracy`."""
    return _by_parts(model, lambda part: model(part, task), x, batch_size)


def calibration(model: ContinualModel, tests: Mapping[str, tuple[Images, Tensor]]) -> dict[str, float]:
    """How well the growing classifier is calibrated on the test data of all tasks together.

    ``"ECE"``, see :func:`pcl.metrics.expected_calibration_error`; and how far it favours its newest classes, those that
    came with the last task, see :func:`pcl.metrics.logit_bias`, unless that task brought none, or all.

    Args:
        model: in the class setting.
        tests: test data of its tasks, at least of one.
    """
    last = model.tasks[-1]
    found = torch.cat([logits(model, task, x) for task, (x, _) in tests.items()])
    columns = torch.cat([model.column_of(y.cpu(), task) for task, (_, y) in tests.items()])
    before = {c for task in model.tasks[:-1] for c in model.task_classes[task]}
    new = torch.tensor([c not in before for c in model.columns(last)])
    of_new = new[columns]
    bias = logit_bias(found, columns, new) if bool(of_new.any()) and not bool(of_new.all()) else {}
    return {"ECE": expected_calibration_error(found, columns), **bias}


@torch.no_grad()
def _by_parts(model: ContinualModel, apply: Callable[[Tensor], Tensor], x: Images, batch_size: int) -> Tensor:
    device = next(model.parameters()).device
    with evaluation_mode(model):
        return torch.cat([apply(as_float(part).to(device)).cpu() for part in x.split(batch_size)])
