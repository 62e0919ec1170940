from pcl_kernels.gramian.op import gramian

__all__ = ["gramian"]
