from pcl_kernels.nash_mtl.op import nash_mtl

__all__ = ["nash_mtl"]
