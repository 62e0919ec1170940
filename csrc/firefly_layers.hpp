// Layers whose neurons are split, as the kernels of whole layers read them; float32.
#pragma once

#include "firefly.hpp"

namespace pcl {

struct FireflyWeights {
    const float *weight, *delta, *bias, *delta_bias;  // W and Δ (out, in...), b and β (out,) or null
    bool channels_last;                               // W and Δ (out, 3, 3, in) in memory, else row-major
};

struct FireflyLinear {
    Size samples, in, out;
};

// A 3 x 3 convolution of stride 1.
struct FireflyConv {
    Size samples, in, height, width, out, pad_y, pad_x;
    bool channels_last;  // x, y and the pre-activations

    Size out_height() const { return height + 2 * pad_y - 2; }
    Size out_width() const { return width + 2 * pad_x - 2; }
};

}  // namespace pcl
