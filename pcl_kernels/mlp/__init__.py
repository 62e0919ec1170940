from pcl_kernels.mlp.compiled import MLPGradients
from pcl_kernels.mlp.op import MLPLosses, mlp, mlp_backward, mlp_descend, mlp_losses

__all__ = ["MLPGradients", "MLPLosses", "mlp", "mlp_backward", "mlp_descend", "mlp_losses"]
