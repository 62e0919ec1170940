from pcl_kernels.combine.op import combine

__all__ = ["combine"]
