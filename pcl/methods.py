"""The named methods: compositions along the axes of the library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pcl.weighting.base import Weighting
from pcl.weighting.dwa import DWA
from pcl.weighting.emgd import EMGD
from pcl.weighting.famo import FAMO
from pcl.weighting.fixed import Mean, Sum
from pcl.weighting.mgda import MGDA
from pcl.weighting.rlw import RLW
from pcl.weighting.uncertainty import Uncertainty

Scale = Literal["paper", "unit"]


@dataclass(frozen=True)
class WeightingOptions:
    """Settings of a run that some weightings heed.

    Attributes:
        scale, temperature: of EMGD.
        seed: of those that draw.
    """

    scale: Scale = "paper"
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class WeightingSpec:
    """A weighting that has a name.

    Attributes:
        make: builds it.
        source: where it comes from.
    """

    make: Callable[[WeightingOptions], Weighting]
    source: str


WEIGHTINGS: dict[str, WeightingSpec] = {
    "sum": WeightingSpec(lambda options: Sum(), "gradient of the summed losses"),
    "mean": WeightingSpec(lambda options: Mean(), "AvgGrad; arXiv 2401.01054, Eq. 2"),
    "rlw": WeightingSpec(lambda options: RLW("normal", seed=options.seed), "arXiv 2111.10603, normal draws"),
    "rlw-dirichlet": WeightingSpec(lambda options: RLW("dirichlet", seed=options.seed), "arXiv 2111.10603"),
    "dwa": WeightingSpec(lambda options: DWA(), "arXiv 1803.10704, Eq. 7"),
    "uncertainty": WeightingSpec(lambda options: Uncertainty(), "arXiv 1705.07115, Eq. 10"),
    "famo": WeightingSpec(lambda options: FAMO(), "Liu et al., NeurIPS 2023"),
    "mgda": WeightingSpec(lambda options: MGDA(), "Désidéri 2012; arXiv 2401.01054, Eq. 5"),
    "emgd-gmc": WeightingSpec(
        lambda options: EMGD("gmc", scale=options.scale, temperature=options.temperature),
        "arXiv 2401.01054, Eq. 8 and 9",
    ),
    "emgd-gs": WeightingSpec(
        lambda options: EMGD("gs", scale=options.scale, temperature=options.temperature),
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
