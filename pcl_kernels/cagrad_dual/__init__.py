from pcl_kernels.cagrad_dual.op import cagrad_dual

__all__ = ["cagrad_dual"]
