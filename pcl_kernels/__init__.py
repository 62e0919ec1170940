"""The compiled multi-gradient core: exact small problems over task gradients, at the speed of the hardware.

Every function takes and returns PyTorch tensors; every op has a plain float64 PyTorch twin in its folder's
`reference.py`. `python -m pcl_kernels.info` says what is built.
"""

from pcl_kernels._results import QPInfo, Status, SystemInfo
from pcl_kernels.cagrad_dual import cagrad_dual
from pcl_kernels.combine import combine
from pcl_kernels.combine_update import combine_adamw_, combine_sgd_
from pcl_kernels.cone_qp import cone_qp
from pcl_kernels.elastic_factors import elastic_factors
from pcl_kernels.firefly_apply import firefly_apply
from pcl_kernels.firefly_score import firefly_score
from pcl_kernels.firefly_select import firefly_select
from pcl_kernels.firefly_split import firefly_split, firefly_split_forward
from pcl_kernels.ghost_gramian import ghost_gramian
from pcl_kernels.gradvac import gradvac
from pcl_kernels.gramian import GramianAccumulator, gramian
from pcl_kernels.imtl_g import imtl_g
from pcl_kernels.logit_distance import LogitDistance, logit_distance
from pcl_kernels.longhorn_scan import longhorn_scan, longhorn_step
from pcl_kernels.maxdo import maxdo
from pcl_kernels.memory_edit import channel_affine, channel_sums, sample_conv, sample_conv_transpose
from pcl_kernels.mlp import (
    MLPGradients,
    MLPLosses,
    SoftmaxLosses,
    mlp,
    mlp_backward,
    mlp_descend,
    mlp_losses,
    mlp_row_losses,
    mlp_row_slopes,
    softmax_losses,
)
from pcl_kernels.nash_mtl import nash_mtl
from pcl_kernels.pcgrad import pcgrad, random_orders
from pcl_kernels.semidefinite_solve import semidefinite_solve
from pcl_kernels.simplex_qp import simplex_qp

__all__ = [
    "GramianAccumulator",
    "LogitDistance",
    "MLPGradients",
    "MLPLosses",
    "QPInfo",
    "SoftmaxLosses",
    "Status",
    "SystemInfo",
    "cagrad_dual",
    "channel_affine",
    "channel_sums",
    "combine",
    "combine_adamw_",
    "combine_sgd_",
    "cone_qp",
    "elastic_factors",
    "firefly_apply",
    "firefly_score",
    "firefly_select",
    "firefly_split",
    "firefly_split_forward",
    "ghost_gramian",
    "gradvac",
    "gramian",
    "imtl_g",
    "logit_distance",
    "longhorn_scan",
    "longhorn_step",
    "maxdo",
    "mlp",
    "mlp_backward",
    "mlp_descend",
    "mlp_losses",
    "mlp_row_losses",
    "mlp_row_slopes",
    "nash_mtl",
    "pcgrad",
    "random_orders",
    "sample_conv",
    "sample_conv_transpose",
    "semidefinite_solve",
    "simplex_qp",
    "softmax_losses",
]
