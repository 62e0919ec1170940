"""Parallel Continual Learning for PyTorch: many task streams, one model.

This file is the table of contents: every public name, and nothing else.
"""

from pcl import cuts
from pcl.data.batches import Batches
from pcl.data.windows import Windows
from pcl.gradients.result import TaskGradients
from pcl.gradients.task_gradients import task_gradients
from pcl.gradients.workspace import Workspace
from pcl.inference.from_scratch import FromScratch
from pcl.inference.nearest_mean import NearestMean
from pcl.losses.base import LossTerm, Penalty, Samples, SampleTerm
from pcl.losses.der import DER
from pcl.losses.ewc import EWC, OnlineEWC
from pcl.losses.hal import HAL
from pcl.losses.lwf import LwF
from pcl.losses.mas import MAS
from pcl.losses.si import SI
from pcl.losses.sigmoid_distillation import SigmoidDistillation
from pcl.memory.balanced_reservoir import BalancedReservoir
from pcl.memory.base import Memory, MemoryBatch, Seen
from pcl.memory.before_update import BeforeUpdate
from pcl.memory.class_memory import ClassMemory
from pcl.memory.generative import GenerativeMemory
from pcl.memory.gmed import GMEDEdit
from pcl.memory.gradient_edit import GradientEdit
from pcl.memory.greedy_balanced import GreedyBalanced
from pcl.memory.gss import GSSGreedy
from pcl.memory.herding import HerdingMemory
from pcl.memory.random_edit import RandomEdit
from pcl.memory.reservoir import ReservoirMemory
from pcl.memory.retrieval import MIR, Balanced, Retrieval
from pcl.memory.shared_memory import SharedMemory
from pcl.metrics import average_accuracy, forgetting
from pcl.models.augment import Augment
from pcl.models.backbones import MLP, Normalize, ResNet18
from pcl.models.continual import ContinualModel
from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly, Growth
from pcl.models.growth.graph import WidthGraph
from pcl.models.growth.growing import GrowingModel
from pcl.models.growth.residual_layer import ResidualLayer
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
from pcl.streams.task_free import TaskFree
from pcl.streams.timeline import Timeline
from pcl.training.bgd import BGD
from pcl.training.checkpoint import load_checkpoint, save_checkpoint
from pcl.training.diagnostics import Diagnostics
from pcl.training.growth import Grow, GrowWhen
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
from pcl.weighting.scale_invariant import ScaleInvariant
from pcl.weighting.sdmgrad import SDMGrad
from pcl.weighting.trimmed_mean import TrimmedMean
from pcl.weighting.uncertainty import Uncertainty

__version__ = "0.1.0"

__all__ = [
    "AGEM",
    "BGD",
    "DER",
    "DWA",
    "EMGD",
    "EWC",
    "FAMO",
    "GEM",
    "HAL",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "LONGHORN_SIZES",
    "MAS",
    "MEGAI",
    "MEGAII",
    "MEMORY",
    "MGDA",
    "MIR",
    "MLP",
    "RLW",
    "SI",
    "VISION_SIZES",
    "AlignedMTL",
    "AmortisedMGDA",
    "Augment",
    "Balanced",
    "BalancedReservoir",
    "Batches",
    "BeforeUpdate",
    "BidirectionalBlock",
    "Budget",
    "CAGrad",
    "CAGradFast",
    "ClassMemory",
    "ConFIG",
    "ContinualModel",
    "CosineHead",
    "Diagnostics",
    "DualProj",
    "FairGrad",
    "Firefly",
    "Fixed",
    "FromScratch",
    "GMEDEdit",
    "GSSGreedy",
    "GenerativeMemory",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GradientEdit",
    "GradientWeighting",
    "GreedyBalanced",
    "Grow",
    "GrowWhen",
    "GrowingModel",
    "Growth",
    "Halves",
    "HerdingMemory",
    "Krum",
    "LonghornBackbone",
    "LonghornBlock",
    "LonghornConfig",
    "LonghornLM",
    "LossTerm",
    "LwF",
    "MaxDO",
    "Mean",
    "Memory",
    "MemoryBatch",
    "MoCo",
    "NashMTL",
    "NearestMean",
    "Normalize",
    "OnlineEWC",
    "PCGrad",
    "Penalty",
    "RandomEdit",
    "ResNet18",
    "ReservoirMemory",
    "ResidualLayer",
    "ResidualStack",
    "Retrieval",
    "SDMGrad",
    "SampleTerm",
    "Samples",
    "ScaleInvariant",
    "Scenario",
    "Seen",
    "SharedMemory",
    "SigmoidDistillation",
    "StepResult",
    "Stream",
    "Sum",
    "TaskFree",
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
    "WidthGraph",
    "Windows",
    "Workspace",
    "average_accuracy",
    "cuts",
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
