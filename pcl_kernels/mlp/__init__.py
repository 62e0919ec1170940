from pcl_kernels.mlp.compiled import MLPGradients
from pcl_kernels.mlp.op import MLPLosses, mlp, mlp_backward, mlp_descend, mlp_losses
from pcl_kernels.mlp.rows import mlp_row_losses, mlp_row_slopes
from pcl_kernels.mlp.softmax import SoftmaxLosses, softmax_losses

__all__ = [
    "MLPGradients",
    "MLPLosses",
    "SoftmaxLosses",
    "mlp",
    "mlp_backward",
    "mlp_descend",
    "mlp_losses",
    "mlp_row_losses",
    "mlp_row_slopes",
    "softmax_losses",
]
