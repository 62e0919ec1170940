// A Linear layer whose neurons are split, as the kernel reads it.
#pragma once

#include "firefly.hpp"

namespace pcl {

// Row-major floats: x (samples, in), W and Δ (out, in), their biases (out,) or null.
struct FireflyLinear {
    Size samples, in, out;
    const float *x, *weight, *delta, *bias, *delta_bias;
};

}  // namespace pcl
