// The candidates of a growing network, and what may be taken of them.
#pragma once

#include <cstdint>

namespace pcl {

struct Candidates {
    const double* gain;         // [count]
    const std::int64_t* cost;   // [count], or null: all are free
    const std::int64_t* layer;  // [count], negative where none is needed; or null
    std::int64_t count;
    std::int64_t neurons, layers, budget, least;
};

}  // namespace pcl
