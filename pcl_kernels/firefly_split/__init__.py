from pcl_kernels.firefly_split.forward import firefly_split_forward
from pcl_kernels.firefly_split.op import firefly_split

__all__ = ["firefly_split", "firefly_split_forward"]
