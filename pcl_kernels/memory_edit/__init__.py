from pcl_kernels.memory_edit.op import channel_affine, channel_sums, sample_conv, sample_conv_transpose

__all__ = ["channel_affine", "channel_sums", "sample_conv", "sample_conv_transpose"]
