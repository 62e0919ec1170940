from pcl_kernels.ghost_gramian.op import ghost_gramian

__all__ = ["ghost_gramian"]
