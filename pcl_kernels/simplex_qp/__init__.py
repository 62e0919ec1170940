from pcl_kernels.simplex_qp.op import QPInfo, Status, simplex_qp

__all__ = ["QPInfo", "Status", "simplex_qp"]
