from pcl_kernels.imtl_g.op import imtl_g

__all__ = ["imtl_g"]
