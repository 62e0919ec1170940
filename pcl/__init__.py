"""Parallel Continual Learning for PyTorch: many task streams, one model.

This file is the table of contents: every public name, and nothing else.
"""

from pcl.data.batches import Batches
from pcl.gradients.result import TaskGradients
from pcl.gradients.task_gradients import task_gradients
from pcl.gradients.workspace import Workspace
from pcl.memory.class_memory import ClassMemory, MemoryBatch
from pcl.memory.gmed import GMEDEdit
from pcl.memory.gradient_edit import GradientEdit
from pcl.memory.random_edit import RandomEdit
from pcl.metrics import average_accuracy, forgetting
from pcl.models.backbones import MLP, Normalize, ResNet18
from pcl.models.continual import ContinualModel
from pcl.models.heads import CosineHead
from pcl.models.longhorn.backbone import LonghornBackbone
from pcl.models.longhorn.bidirectional import BidirectionalBlock
from pcl.models.longhorn.block import LonghornBlock, longhorn_stack
from pcl.models.longhorn.config import LONGHORN_SIZES, LonghornConfig
from pcl.models.longhorn.language_model import LonghornLM
from pcl.models.longhorn.state import detach_state
from pcl.models.longhorn.vision import VISION_SIZES, VisionConfig, VisionLonghorn
from pcl.models.residual import ResidualStack
from pcl.streams.label_sets import draw_label_sets
from pcl.streams.sampling import TaskSampling
from pcl.streams.scenario import Scenario
from pcl.streams.stream import MEMORY, Stream, is_memory, memory_of
from pcl.streams.timeline import Timeline
from pcl.training.checkpoint import load_checkpoint, save_checkpoint
from pcl.training.diagnostics import Diagnostics
from pcl.training.step_result import StepResult
from pcl.training.trainer import Trainer
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
from pcl.weighting.fixed import Fixed, Mean, Sum
from pcl.weighting.gem import AGEM, GEM
from pcl.weighting.graddrop import GradDrop
from pcl.weighting.gradnorm import GradNorm
from pcl.weighting.gradvac import GradVac
from pcl.weighting.imtl import IMTL, IMTLG, IMTLL
from pcl.weighting.krum import Krum
from pcl.weighting.maxdo import MaxDO
from pcl.weighting.mega import MEGAI, MEGAII
from pcl.weighting.mgda import MGDA
from pcl.weighting.moco import MoCo
from pcl.weighting.nash_mtl import NashMTL
from pcl.weighting.pcgrad import PCGrad
from pcl.weighting.rlw import RLW
from pcl.weighting.scale_invariant import ScaleInvariant
from pcl.weighting.sdmgrad import SDMGrad
from pcl.weighting.trimmed_mean import TrimmedMean
from pcl.weighting.uncertainty import Uncertainty

__version__ = "0.1.0"

__all__ = [
    "AGEM",
    "DWA",
    "EMGD",
    "FAMO",
    "GEM",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "LONGHORN_SIZES",
    "MEGAI",
    "MEGAII",
    "MEMORY",
    "MGDA",
    "MLP",
    "RLW",
    "VISION_SIZES",
    "AlignedMTL",
    "AmortisedMGDA",
    "Batches",
    "BidirectionalBlock",
    "CAGrad",
    "CAGradFast",
    "ClassMemory",
    "ConFIG",
    "ContinualModel",
    "CosineHead",
    "Diagnostics",
    "DualProj",
    "FairGrad",
    "Fixed",
    "GMEDEdit",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientEdit",
    "GradientWeighting",
    "Krum",
    "LonghornBackbone",
    "LonghornBlock",
    "LonghornConfig",
    "LonghornLM",
    "MaxDO",
    "Mean",
    "MemoryBatch",
    "MoCo",
    "NashMTL",
    "Normalize",
    "PCGrad",
    "RandomEdit",
    "ResNet18",
    "ResidualStack",
    "SDMGrad",
    "ScaleInvariant",
    "Scenario",
    "StepResult",
    "Stream",
    "Sum",
    "TaskGradients",
    "TaskSampling",
    "Timeline",
    "Trainer",
    "TrimmedMean",
    "UPGrad",
    "Uncertainty",
    "VisionConfig",
    "VisionLonghorn",
    "Weighting",
    "Workspace",
    "average_accuracy",
    "detach_state",
    "draw_label_sets",
    "forgetting",
    "is_memory",
    "load_checkpoint",
    "longhorn_stack",
    "memory_of",
    "save_checkpoint",
    "task_gradients",
]
