// Matrices of floats turned over, in blocks as wide as a vector.
#pragma once

#include <algorithm>

#include "longhorn_lanes.hpp"

namespace pcl::PCL_ISA {

// to[column * to_step + row] = from[row * from_step + column]
inline void turn(const float* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, float* to,
                 std::int64_t to_step) {
    constexpr int W = kScanLanes<float>;
    for (std::int64_t r = 0; r < rows; r += W)
        for (std::int64_t c = 0; c < columns; c += W) {
            if (r + W <= rows && c + W <= columns) {
                Scan<float> v[W];
                for (int i = 0; i < W; ++i) v[i] = load_lanes(from + (r + i) * from_step + c);
                transpose<float>(v);
                for (int i = 0; i < W; ++i) store_lanes(to + (c + i) * to_step + r, v[i]);
                continue;
            }
            for (std::int64_t i = c; i < std::min(columns, c + W); ++i)
                for (std::int64_t n = r; n < std::min(rows, r + W); ++n) to[i * to_step + n] = from[n * from_step + i];
        }
}

}  // namespace pcl::PCL_ISA
