"""Dark experience replay."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl.losses.base import Samples, Unobserving, check_strength
from pcl.models.continual import ContinualModel
from pcl_kernels import logit_distance

Unseen = Literal["least", "ignored"]


class DER(Unobserving):
    """DER and DER++ (Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020, Eq. 5 and 6).

    The loss of the memory is

        alpha mean_b |z_b - z*_b|^2 / C_b + beta mean_b' CE(z_b', y_b'),

    where z are the logits of stored samples now and z* those that were stored with them: what the model said of a
    sample in the step that trained on it, before its update. With beta = 0 this is DER, which never looks at stored
    labels; else it is DER++, whose samples b and b' are two independent draws: retrieval and edits concern b', b is
    drawn at random. Added to the loss of the stream with weight 1, as :class:`pcl.Sum` does it, it is the published
    loss.

    The papers' networks have all outputs from the start, and so C_b is their number. Where classes arrive, z has more
    columns than z* had. With ``unseen="ignored"`` only the C_b columns that existed when a sample was stored are
    compared; nothing then keeps old samples out of new classes, and DER forgets like fine-tuning. With
    ``unseen="least"`` a sample's target in new columns is its least stored logit: a class that had not been seen is no
    likelier than the least likely of those that had, and C_b counts all columns. In the task setting the columns are
    those of the sample's own head, which never grows.

    It needs a memory that keeps logits: ``pcl.ReservoirMemory(n, logits=True)``.

    Args:
        alpha: factor of the distance to the stored logits.
        beta: factor of the cross-entropy with the stored labels.
        unseen: what becomes of columns that did not exist when a sample was stored.

    Raises:
        ValueError: for alpha <= 0, beta < 0 or an unknown name.
    """

    capturable = True
    needs_logits = True
    of_logits = True

    def __init__(self, alpha: float = 0.5, beta: float = 0.0, *, unseen: Unseen = "least") -> None:
        check_strength("DER", alpha)
        if not 0 <= beta < float("inf"):
            raise ValueError(f"DER: expected a finite beta of at least 0, got {beta}")
        if unseen not in get_args(Unseen):
            raise ValueError(f"DER: expected unseen 'least' or 'ignored', got {unseen!r}")
        self.alpha = alpha
        self.unseen: Unseen = unseen
        self.cross_entropy = beta
        self.own_draw = beta > 0

    def check_model(self, model: ContinualModel) -> None:
        """Refuse one that carries its state from batch to batch; see :class:`pcl.losses.base.ChecksModel`."""
        if model.carry is not None:
            raise ValueError(
                "DER: stored logits were given with the state that the model carries, and a stored sample is replayed "
                "without it; leave out DER or `carry`"
            )

    def losses(self, samples: Samples) -> Tensor | None:
        """alpha |z - z*|^2 / C of every sample of the memory, ``(B,)``; None for those of streams."""
        if samples.recalled is None or samples.recalled.logits is None:
            return None
        now, then = samples.logits, samples.recalled.logits
        then = F.pad(then, (0, now.shape[1] - then.shape[1]), value=torch.nan)
        known = ~then.isnan()
        if self._takes_least(samples):
            least = torch.where(known, then, torch.inf).amin(dim=1, keepdim=True)
            return self.alpha * (now - torch.where(known, then, least)).square().sum(dim=1) / now.shape[1]
        apart = torch.where(known, now - then, 0.0).square().sum(dim=1)
        return self.alpha * apart / known.sum(dim=1).clamp(min=1)

    def slopes(self, samples: Samples) -> tuple[Tensor, Tensor] | None:
        """The mean of :meth:`losses`, and its derivative with respect to the logits ``(B, columns)``; see
        :class:`pcl.losses.base.Slopes`."""
        if samples.recalled is None or samples.recalled.logits is None:
            return None
        ignored = not self._takes_least(samples)
        return logit_distance(samples.logits, samples.recalled.logits, self.alpha, ignored=ignored)

    def _takes_least(self, samples: Samples) -> bool:
        """Whether columns that a stored sample did not have are compared too."""
        return self.unseen == "least" and samples.model.setting == "class"

    def task_ended(self, model: ContinualModel, task: str) -> None:
        """Nothing depends on it."""

    def settings(self) -> dict[str, Any]:
        """Those given."""
        return {"alpha": self.alpha, "beta": self.cross_entropy, "unseen": self.unseen}

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is remembered is the memory's."""
        return {}

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Nothing to take over."""
