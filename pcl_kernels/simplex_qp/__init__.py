from pcl_kernels.simplex_qp.op import simplex_qp

__all__ = ["simplex_qp"]
