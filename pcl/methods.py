"""The named methods: compositions along the axes of the library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pcl.memory.edit import Edit
from pcl.memory.gmed import GMEDEdit
from pcl.memory.gradient_edit import GradientEdit
from pcl.memory.random_edit import RandomEdit
from pcl.weighting.base import Weighting
from pcl.weighting.emgd import EMGD
from pcl.weighting.fixed import Mean, Sum
from pcl.weighting.mgda import MGDA

Scale = Literal["paper", "unit"]


@dataclass(frozen=True)
class WeightingSpec:
    """A weighting that has a name.

    Attributes:
        make: builds it from scale and temperature, which only EMGD heeds.
        source: where it comes from.
    """

    make: Callable[[Scale, float], Weighting]
    source: str


WEIGHTINGS: dict[str, WeightingSpec] = {
    "sum": WeightingSpec(lambda scale, temperature: Sum(), "gradient of the summed losses"),
    "mean": WeightingSpec(lambda scale, temperature: Mean(), "AvgGrad; arXiv 2401.01054, Eq. 2"),
    "mgda": WeightingSpec(lambda scale, temperature: MGDA(), "Désidéri 2012; arXiv 2401.01054, Eq. 5"),
    "emgd-gmc": WeightingSpec(
        lambda scale, temperature: EMGD("gmc", scale=scale, temperature=temperature),
        "arXiv 2401.01054, Eq. 8 and 9",
    ),
    "emgd-gs": WeightingSpec(
        lambda scale, temperature: EMGD("gs", scale=scale, temperature=temperature),
        "arXiv 2401.01054, Eq. 8 and 10",
    ),
}


@dataclass(frozen=True)
class EditSpec:
    """An edit that has a name.

    Attributes:
        make: builds it from alpha, beta, the learning rate and the seed of the run, each heeding what concerns it.
        summary: one line for people.
        source: where it comes from.
    """

    make: Callable[[float, float, float, int], Edit]
    summary: str
    source: str


EDITS: dict[str, EditSpec] = {
    "me": EditSpec(
        lambda alpha, beta, lr, seed: GradientEdit(alpha), "gradient-guided", "arXiv 2401.01054, Eq. 12 and 13"
    ),
    "gmed": EditSpec(
        lambda alpha, beta, lr, seed: GMEDEdit(alpha, beta=beta, lr=lr), "towards forgetting", "GMED, Eq. 3-6"
    ),
    "hindsight": EditSpec(
        lambda alpha, beta, lr, seed: GMEDEdit(alpha, beta=beta, lr=lr, lookahead="memory"),
        "towards forgetting, seen from the memory",
        "GMED, Sec. 5, Hindsight Edit",
    ),
    "random": EditSpec(
        lambda alpha, beta, lr, seed: RandomEdit(alpha, seed=seed), "at random", "GMED, Sec. 5, Random Edit"
    ),
}


@dataclass(frozen=True)
class Method:
    """A weighting, with rehearsal, and a memory edit of :data:`EDITS` or None."""

    weighting: str
    edit: str | None


METHODS: dict[str, Method] = {
    name if edit is None else f"{name}+{edit}": Method(name, edit) for name in WEIGHTINGS for edit in (None, *EDITS)
}
"""Every weighting alone and with every edit: "emgd-gmc", "emgd-gmc+me", "emgd-gmc+gmed", ..."""
