from pcl_kernels.cone_qp.op import cone_qp

__all__ = ["cone_qp"]
