from pcl_kernels.firefly_score.op import firefly_score

__all__ = ["firefly_score"]
