from pcl_kernels.combine_update.op import combine_adamw_, combine_sgd_

__all__ = ["combine_adamw_", "combine_sgd_"]
