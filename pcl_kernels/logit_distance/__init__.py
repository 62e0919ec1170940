from pcl_kernels.logit_distance.op import LogitDistance, logit_distance

__all__ = ["LogitDistance", "logit_distance"]
