from pcl_kernels.logit_distance.op import logit_distance

__all__ = ["logit_distance"]
