from pcl_kernels.gramian.accumulator import GramianAccumulator
from pcl_kernels.gramian.op import gramian

__all__ = ["GramianAccumulator", "gramian"]
