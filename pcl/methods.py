"""The named methods: compositions along the axes of the library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pcl.weighting.base import Weighting
from pcl.weighting.emgd import EMGD
from pcl.weighting.fixed import Mean, Sum
from pcl.weighting.mgda import MGDA

Scale = Literal["paper", "unit"]


@dataclass(frozen=True)
class WeightingSpec:
    """A weighting that has a name.

    Attributes:
        make: builds it; the argument is the scale, which only EMGD heeds.
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
class Method:
    """A weighting, with rehearsal, with or without memory editing."""

    weighting: str
    edit: bool


METHODS: dict[str, Method] = {
    name + ("+me" if edit else ""): Method(name, edit) for name in WEIGHTINGS for edit in (False, True)
}
"""Every weighting alone and with gradient-guided memory editing ("+me")."""
