// Settings of the fused optimizer steps, with the meaning of torch.optim.SGD and torch.optim.AdamW.
#pragma once

#include <cstdint>

namespace pcl {

struct Sgd {
    double lr, momentum, dampening, weight_decay;
    bool nesterov;
    bool first_step;  // momentum buffers start as the gradient and are not read
};

struct Adam {
    std::int64_t step;  // 1 for the first
    double lr, beta1, beta2, eps, weight_decay;
    bool decoupled;  // weight decay of AdamW, else of Adam
};

}  // namespace pcl
