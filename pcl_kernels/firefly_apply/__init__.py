from pcl_kernels.firefly_apply.op import firefly_apply

__all__ = ["firefly_apply"]
