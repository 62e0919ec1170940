// The sizes of a two-dimensional convolution over a batch.
#pragma once

#include <cstdint>

namespace pcl {

struct ConvShape {
    std::int64_t samples, in, height, width, out;
    std::int64_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
    std::int64_t step_y, step_x;  // dilation
    std::int64_t out_height, out_width;
};

}  // namespace pcl
