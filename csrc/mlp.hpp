// A chain of Linear layers with a ReLU behind each, or behind all but the last, as its kernels read it; float32,
// row-major.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace pcl {

using Size = std::int64_t;

struct MlpLayers {
    Size rows;
    std::vector<Size> widths;             // of x, then of every layer
    std::vector<float*> weights, biases;  // (width, width before), (width,) or null
    bool relu_last;

    int last() const { return static_cast<int>(weights.size()) - 1; }
    bool relu(int layer) const { return relu_last || layer < last(); }
};

// Where gradients go, or with a rate parameters that have gone down along them; what is not wanted is null.
struct MlpGradients {
    std::vector<float*> delta;  // of every layer with a ReLU d / d (W_l h_{l-1} + b_l), (rows, width of layer l)
    std::vector<float*> weights, biases;
    float* x;
    std::optional<float> rate;
};

}  // namespace pcl
