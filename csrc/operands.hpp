// What a call works on: the gradients of k tasks, and tensors to write, one per parameter.
#pragma once

#include <optional>

#include "gradients.hpp"
#include "torch_tensor.hpp"

namespace pcl {

using Addresses = std::vector<std::uintptr_t>;

struct Operands {
    Gradients gradients;
    std::vector<Addresses> written;  // for each list of tensors to write: address of every parameter's
    bool listed;                     // the gradients came as lists of per-parameter tensors

    // Threads for a kernel that reads all this: one for small work, which would only wait for the others.
    int threads(int most) const {
        const auto lists = static_cast<std::int64_t>(gradients.tasks + written.size());
        return lists * gradients.columns() >= 1 << 17 ? most : 1;
    }
};

// k weights from a float32 or float64 CPU tensor or from floats; nothing where they are something else.
std::optional<std::vector<double>> read_weights(const Given& weights, int tasks);

}  // namespace pcl
