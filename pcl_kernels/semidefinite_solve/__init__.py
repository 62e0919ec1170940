from pcl_kernels.semidefinite_solve.op import semidefinite_solve

__all__ = ["semidefinite_solve"]
