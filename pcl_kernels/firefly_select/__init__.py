from pcl_kernels.firefly_select.op import firefly_select

__all__ = ["firefly_select"]
