"""The compiled multi-gradient core: exact small problems over task gradients, at the speed of the hardware.

Every function takes and returns PyTorch tensors; every op has a plain float64 PyTorch twin in its folder's
`reference.py`. `python -m pcl_kernels.info` says what is built.
"""

from pcl_kernels.combine import combine
from pcl_kernels.combine_update import combine_adamw_, combine_sgd_
from pcl_kernels.cone_qp import cone_qp
from pcl_kernels.gramian import GramianAccumulator, gramian
from pcl_kernels.simplex_qp import QPInfo, Status, simplex_qp

__all__ = [
    "GramianAccumulator",
    "QPInfo",
    "Status",
    "combine",
    "combine_adamw_",
    "combine_sgd_",
    "cone_qp",
    "gramian",
    "simplex_qp",
]
