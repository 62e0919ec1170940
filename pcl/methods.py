"""The named methods: compositions along the axes of the library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pcl.losses.base import LossTerm
from pcl.losses.der import DER
from pcl.losses.ewc import EWC, OnlineEWC
from pcl.losses.hal import HAL
from pcl.losses.lwf import LwF
from pcl.losses.mas import MAS
from pcl.losses.si import SI
from pcl.losses.sigmoid_distillation import SigmoidDistillation
from pcl.memory.before_update import When
from pcl.memory.edit import Edit
from pcl.memory.gmed import GMEDEdit
from pcl.memory.gradient_edit import GradientEdit
from pcl.memory.random_edit import RandomEdit
from pcl.named_memories import MemoryName
from pcl.training.step_data import MemoryTasks
from pcl.weighting.aligned_mtl import AlignedMTL
from pcl.weighting.amortised import AmortisedMGDA
from pcl.weighting.base import GradientWeighting, Weighting
from pcl.weighting.cagrad import CAGrad
from pcl.weighting.cagrad_fast import CAGradFast
from pcl.weighting.config import ConFIG
from pcl.weighting.dual_cone import DualProj, UPGrad
from pcl.weighting.dwa import DWA
from pcl.weighting.emgd import EMGD
from pcl.weighting.fairgrad import FairGrad
from pcl.weighting.famo import FAMO
from pcl.weighting.fixed import Mean, Sum
from pcl.weighting.gem import AGEM, GEM
from pcl.weighting.graddrop import GradDrop
from pcl.weighting.gradnorm import GradNorm
from pcl.weighting.gradvac import GradVac
from pcl.weighting.halves import Halves
from pcl.weighting.imtl import IMTL, IMTLG, IMTLL
from pcl.weighting.krum import Krum
from pcl.weighting.maxdo import MaxDO
from pcl.weighting.mega import MEGAI, MEGAII
from pcl.weighting.mgda import MGDA
from pcl.weighting.moco import MoCo
from pcl.weighting.nash_mtl import NashMTL
from pcl.weighting.pcgrad import PCGrad
from pcl.weighting.rlw import RLW
from pcl.weighting.scale import Scale
from pcl.weighting.scale_invariant import ScaleInvariant
from pcl.weighting.sdmgrad import SDMGrad
from pcl.weighting.trimmed_mean import TrimmedMean
from pcl.weighting.uncertainty import Uncertainty


@dataclass(frozen=True)
class WeightingOptions:
    """Settings of a run that some weightings heed.

    Attributes:
        scale: of EMGD, CAGrad, Nash-MTL, FairGrad, PCGrad and GradVac.
        temperature: of EMGD, but for the variants of its published code, which have their own.
        seed: of those that draw.
        lower: least weight of a task in EMGD, 0 as in the paper, or 1 / (k + 1) as in its published code.
    """

    scale: Scale = "paper"
    temperature: float = 1.0
    seed: int = 0
    lower: Literal["paper", "code"] = "paper"


@dataclass(frozen=True)
class WeightingSpec:
    """A weighting that has a name.

    Attributes:
        make: builds it.
        source: where it comes from.
        memory_tasks: what the memory is to it where a run does not say; see :class:`pcl.Trainer`.
    """

    make: Callable[[WeightingOptions], Weighting | GradientWeighting]
    source: str
    memory_tasks: MemoryTasks = "one"


WEIGHTINGS: dict[str, WeightingSpec] = {
    "sum": WeightingSpec(lambda options: Sum(), "gradient of the summed losses"),
    "mean": WeightingSpec(lambda options: Mean(), "AvgGrad; arXiv 2401.01054, Eq. 2"),
    "rlw": WeightingSpec(lambda options: RLW("normal", seed=options.seed), "arXiv 2111.10603, normal draws"),
    "rlw-dirichlet": WeightingSpec(lambda options: RLW("dirichlet", seed=options.seed), "arXiv 2111.10603"),
    "dwa": WeightingSpec(lambda options: DWA(), "arXiv 1803.10704, Eq. 7"),
    "uncertainty": WeightingSpec(lambda options: Uncertainty(), "arXiv 1705.07115, Eq. 10"),
    "imtl-l": WeightingSpec(lambda options: IMTLL(), "Liu et al., ICLR 2021, loss balance"),
    "scale-invariant": WeightingSpec(lambda options: ScaleInvariant(), "sum of log losses"),
    "famo": WeightingSpec(lambda options: FAMO(), "Liu et al., NeurIPS 2023"),
    "famo-next-step": WeightingSpec(
        lambda options: FAMO(second_loss="next step"), "FAMO without the second forward pass"
    ),
    "amortised-mgda": WeightingSpec(lambda options: AmortisedMGDA(), "Bo Liu's dissertation, 2025, Sec. 4.6"),
    "gradnorm": WeightingSpec(lambda options: GradNorm(), "arXiv 1711.02257, Eq. 1 and 2"),
    "mgda": WeightingSpec(lambda options: MGDA(), "Désidéri 2012; arXiv 2401.01054, Eq. 5"),
    "mgda-l2": WeightingSpec(lambda options: MGDA("l2"), "Sener and Koltun 2018, released code"),
    "mgda-loss": WeightingSpec(lambda options: MGDA("loss"), "Sener and Koltun 2018, released code"),
    "mgda-loss-plus": WeightingSpec(lambda options: MGDA("loss+"), "Sener and Koltun 2018, released code"),
    "cagrad": WeightingSpec(lambda options: CAGrad(scale=options.scale), "arXiv 2110.14048, Alg. 1, c = 0.5"),
    "cagrad-fast": WeightingSpec(
        lambda options: CAGradFast(seed=options.seed), "arXiv 2110.14048, Practical Speedup, 4 tasks"
    ),
    "imtl-g": WeightingSpec(lambda options: IMTLG(), "Liu et al., ICLR 2021, Eq. 6"),
    "imtl": WeightingSpec(lambda options: IMTL(), "Liu et al., ICLR 2021, both balances"),
    "config": WeightingSpec(lambda options: ConFIG(), "arXiv 2408.11104, Eq. 2"),
    "nash-mtl": WeightingSpec(lambda options: NashMTL(scale=options.scale), "arXiv 2202.01017, Claim 3.1"),
    "fairgrad": WeightingSpec(lambda options: FairGrad(scale=options.scale), "arXiv 2402.15638, Sec. 4, alpha = 2"),
    "maxdo": WeightingSpec(lambda options: MaxDO(), "our reading of Lyu et al., ICCV 2023"),
    "sdmgrad": WeightingSpec(lambda options: SDMGrad(), "arXiv 2305.18409, lambda = 0.3, exact"),
    "upgrad": WeightingSpec(lambda options: UPGrad(), "arXiv 2406.16232, Eq. 5"),
    "dualproj": WeightingSpec(lambda options: DualProj(), "Lopez-Paz and Ranzato 2017, Eq. 11"),
    "aligned-mtl": WeightingSpec(lambda options: AlignedMTL(), "arXiv 2305.19000, Alg. 1"),
    "graddrop": WeightingSpec(lambda options: GradDrop(seed=options.seed), "arXiv 2010.06808, Alg. 1, of parameters"),
    "trimmed-mean": WeightingSpec(lambda options: TrimmedMean(), "arXiv 1803.01498, Def. 2, b = 1"),
    "moco": WeightingSpec(lambda options: MoCo(), "arXiv 2210.12624, Alg. 1"),
    "krum": WeightingSpec(lambda options: Krum(), "Blanchard et al., NeurIPS 2017, f = 1"),
    "pcgrad": WeightingSpec(lambda options: PCGrad(scale=options.scale, seed=options.seed), "arXiv 2001.06782, Alg. 1"),
    "gradvac": WeightingSpec(
        lambda options: GradVac(scale=options.scale, seed=options.seed), "arXiv 2010.05874, Alg. 1"
    ),
    "emgd-gmc": WeightingSpec(
        lambda options: EMGD("gmc", variant=options.lower, scale=options.scale, temperature=options.temperature),
        "arXiv 2401.01054, Eq. 8 and 9",
    ),
    "emgd-gs": WeightingSpec(
        lambda options: EMGD("gs", variant=options.lower, scale=options.scale, temperature=options.temperature),
        "arXiv 2401.01054, Eq. 8 and 10",
    ),
    "emgd-gmc-code": WeightingSpec(
        lambda options: EMGD("gmc", variant="code", scale=options.scale), "the published code of arXiv 2401.01054"
    ),
    "emgd-gs-code": WeightingSpec(
        lambda options: EMGD("gs", variant="code", scale=options.scale), "the published code of arXiv 2401.01054"
    ),
    "halves": WeightingSpec(
        lambda options: Halves(), "arXiv 2401.01054, Sec. VI-C, serial baselines: tasks and memory half and half"
    ),
    "gem": WeightingSpec(lambda options: GEM(), "arXiv 1706.08840, Eq. 11", memory_tasks="each"),
    "a-gem": WeightingSpec(lambda options: AGEM(), "arXiv 1812.00420, Eq. 11"),
    "mega-i": WeightingSpec(lambda options: MEGAI(), "arXiv 1909.11763, losses decide"),
    "mega-ii": WeightingSpec(lambda options: MEGAII(), "arXiv 1909.11763, an angle between the gradients"),
}


@dataclass(frozen=True)
class EditSpec:
    """An edit that has a name.

    Attributes:
        make: builds it from alpha, beta, the learning rate and the seed of the run, each heeding what concerns it.
        summary: one line for people.
        source: where it comes from.
        when: whether it acts before or after the update of a step where a run does not say, as published.
        alpha: its step size where a run does not say; None for that of the scenario.
    """

    make: Callable[[float, float, float, int], Edit]
    summary: str
    source: str
    when: When = "before"
    alpha: float | None = None


GMED_ALPHA = 0.5
"""Of GMED on Split MNIST (Table 1): 5 on the mean loss of a batch of 10. It is the best for random edits there too
(studies/gmed_table.py)."""

EDITS: dict[str, EditSpec] = {
    "me": EditSpec(
        lambda alpha, beta, lr, seed: GradientEdit(alpha),
        "gradient-guided",
        "arXiv 2401.01054, Eq. 12 and 13",
        when="after",
    ),
    "gmed": EditSpec(
        lambda alpha, beta, lr, seed: GMEDEdit(alpha, beta=beta, lr=lr),
        "towards forgetting",
        "GMED, Alg. 1",
        alpha=GMED_ALPHA,
    ),
    "hindsight": EditSpec(
        lambda alpha, beta, lr, seed: GMEDEdit(alpha, beta=beta, lr=lr, lookahead="memory"),
        "towards forgetting, seen from the memory",
        "GMED, Sec. 5, Hindsight Edit",
        alpha=GMED_ALPHA,
    ),
    "random": EditSpec(
        lambda alpha, beta, lr, seed: RandomEdit(alpha, seed=seed),
        "at random",
        "GMED, Sec. 5, Random Edit",
        alpha=GMED_ALPHA,
    ),
}


@dataclass(frozen=True)
class LossTermSpec:
    """A loss term that has a name.

    Attributes:
        make: builds it from its strength and the seed of the run.
        strength: where a run does not say. With those of the penalties less is forgotten on one task after the other of
            the digits (tests/training/test_forgetting.py); elsewhere, and for the others, it is a first guess.
        source: where it comes from.
        memory: the one that it needs, if it does.
    """

    make: Callable[[float, int], LossTerm]
    strength: float
    source: str
    memory: MemoryName | None = None


LOSS_TERMS: dict[str, LossTermSpec] = {
    "ewc": LossTermSpec(lambda strength, seed: EWC(strength, seed=seed), 100.0, "Kirkpatrick et al. 2017, Eq. 3"),
    "online-ewc": LossTermSpec(
        lambda strength, seed: OnlineEWC(strength, seed=seed), 100.0, "Schwarz et al. 2018, decay 0.95"
    ),
    "si": LossTermSpec(lambda strength, seed: SI(strength), 10.0, "Zenke et al. 2017, Eq. 3-5"),
    "mas": LossTermSpec(lambda strength, seed: MAS(strength, seed=seed), 0.1, "Aljundi et al. 2018"),
    "lwf": LossTermSpec(lambda strength, seed: LwF(strength), 1.0, "Li and Hoiem 2016, temperature 2"),
    "sigmoid-distillation": LossTermSpec(
        lambda strength, seed: SigmoidDistillation(strength), 1.0, "iCaRL, Alg. 3; as there with --head sigmoid"
    ),
    "der": LossTermSpec(
        lambda strength, seed: DER(strength), 2.0, "Buzzega et al. 2020, Eq. 5", memory="reservoir-logits"
    ),
    "der++": LossTermSpec(
        lambda strength, seed: DER(strength, beta=0.5),
        0.25,
        "Buzzega et al. 2020, Eq. 6, beta = 0.5",
        memory="reservoir-logits",
    ),
    "hal": LossTermSpec(
        lambda strength, seed: HAL(strength, seed=seed), 0.1, "Chaudhry et al. 2021; gamma 0.1, beta 0.5, rate 0.1"
    ),
}


ARCHITECTURES: dict[str, tuple[str, str]] = {
    "none": ("one network that all tasks share, as it is", "Lyu et al., arXiv 2401.01054, Sec. III-A"),
    "task | plateau | every:N": (
        "one network that grows, a mask per task; what finished tasks use is locked",
        "Firefly: Bo Liu's dissertation, 2025, Ch. 5 and Alg. 6",
    ),
}
"""What networks hold the tasks, by the values of ``--grow``: what it is, and its source."""


@dataclass(frozen=True)
class Method:
    """A composition that has a name.

    Attributes:
        weighting: of :data:`WEIGHTINGS`.
        edit: of :data:`EDITS`, or None.
        loss_term: of :data:`LOSS_TERMS`, or None.
        settings: others of :class:`pcl.config.RunConfig`, such as memory and retrieval, where a run does not say.
        source: where it comes from, for whole published methods.
        added: what its name has behind that of the method it is made from: "", "+me", "+ewc", "+me+ewc", ...
    """

    weighting: str
    edit: str | None = None
    loss_term: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    added: str = ""

    @property
    def spelt_out(self) -> str:
        """The arguments of ``pcl train`` that make the same."""
        name = "+".join(part for part in (self.weighting, self.edit, self.loss_term) if part)
        return " ".join([f"--method {name}", *(f"--{key} {value}" for key, value in self.settings.items())])


NAMED: dict[str, Method] = {
    "mdmtr": Method("mean", settings={"head": "cosine"}, source="Lyu et al., AAAI 2021"),
    "er": Method("sum", settings={"memory": "reservoir"}, source="Chaudhry et al. 2019, arXiv 1902.10486"),
    "mir": Method(
        "sum", settings={"memory": "reservoir", "retrieval": "mir"}, source="Aljundi et al. 2019, arXiv 1908.04742"
    ),
    "gss": Method("sum", settings={"memory": "gss"}, source="Aljundi et al. 2019, arXiv 1903.08671, greedy"),
    "der": Method(
        "sum", loss_term="der", settings={"memory": "reservoir-logits"}, source="Buzzega et al. 2020, arXiv 2004.07211"
    ),
    "der++": Method(
        "sum",
        loss_term="der++",
        settings={"memory": "reservoir-logits"},
        source="Buzzega et al. 2020, arXiv 2004.07211",
    ),
    "hal": Method("sum", loss_term="hal", settings={"memory": "ring"}, source="Chaudhry et al. 2021, arXiv 2002.08165"),
    "icarl": Method(
        "sum",
        loss_term="sigmoid-distillation",
        settings={"memory": "herding", "head": "sigmoid", "inference": "nearest-mean"},
        source="Rebuffi et al. 2017, arXiv 1611.07725",
    ),
    "gdumb": Method(
        "sum", settings={"memory": "greedy-balanced", "inference": "from-scratch"}, source="Prabhu et al., ECCV 2020"
    ),
    "bgd": Method("sum", settings={"memory": "none", "optimizer": "bgd"}, source="Zeno et al. 2018, arXiv 1803.10123"),
    "generative-replay": Method("sum", settings={"memory": "generative"}, source="Shin et al. 2017, with a VAE"),
    "fine-tuning": Method("sum", settings={"memory": "none"}, source="the lower bound: no rehearsal"),
}
"""Published methods that are more than a weighting: "er+gmed" and "mir+gmed" follow from them."""

_ALONE = {**{name: Method(name) for name in WEIGHTINGS}, **NAMED}


def _composed(name: str, alone: Method, edit: str | None, term: str | None) -> tuple[str, Method]:
    added = "".join(f"+{part}" for part in (edit, term) if part)
    settings = alone.settings
    if term and LOSS_TERMS[term].memory:
        settings = {**settings, "memory": LOSS_TERMS[term].memory}
    return name + added, replace(
        alone, edit=edit, loss_term=term or alone.loss_term, settings=settings, added=added,
    )  # fmt: skip


def _go_together(alone: Method, edit: str | None, term: str | None) -> bool:
    memory = alone.settings.get("memory")
    if term is not None and alone.loss_term is not None:
        return False
    if term is not None and LOSS_TERMS[term].memory and memory not in (None, "reservoir"):
        return False  # the name stands for another memory than the term needs
    if (memory in ("none", "generative") and edit is not None) or (memory == "generative" and term == "hal"):
        return False  # nothing is stored
    return not (term == "si" and alone.settings.get("optimizer") == "bgd")  # no update is along a gradient


METHODS: dict[str, Method] = dict(
    _composed(name, alone, edit, term)
    for term in (None, *LOSS_TERMS)
    for name, alone in _ALONE.items()
    for edit in (None, *EDITS)
    if _go_together(alone, edit, term)
)
"""Every weighting, and everything in :data:`NAMED`, alone, with every edit, with every loss term (but for those that
have one), and with both, where they go together: "emgd-gmc", "emgd-gmc+me", "emgd-gmc+ewc", "emgd-gmc+me+ewc",
"er+gmed", ..."""
