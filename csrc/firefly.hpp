// What the Firefly kernels are told of their operands.
#pragma once

#include <cstdint>

namespace pcl {

using Size = std::int64_t;

// Numbers of m channels in `outer` blocks, which lie `step` numbers apart: a block is a row with one number for every
// channel, or planes, `positions` numbers of the first channel, then of the second.
struct FireflyTensor {
    std::uintptr_t at;
    Size step;
};

struct Firefly {
    Size outer, channels, positions;
    bool rows;  // positions is 1
    int dtype, activation;
    const double *epsilon, *scale, *shift, *mirror;  // (m,); 1, 0 and -1 where absent
    FireflyTensor a, d;
    int threads;
};

}  // namespace pcl
