// Products of rows of W and of Δ with panels of samples, in registers.
#pragma once

#include "firefly_lanes.hpp"

namespace pcl::PCL_ISA {

constexpr int kHalf = kRegisters == 32 ? 6 : 3, kBoth = 2 * kHalf;  // neurons together; their rows of W, then of Δ
constexpr int kVectors = 2, kGroup = kVectors * kFloats;            // of a panel; kBoth * kVectors accumulators

// Rows of W and of Δ, `step` numbers apart.
struct Rows {
    const float *weight, *delta;
    Size step;
};

// to[row][vector] = Σ over inputs of row[input] panel[input][vector] for kHalf rows of W, then as many of Δ, and `vectors`
// vectors of a panel. The rows behind are fetched meanwhile.
template <int vectors>
inline void multiply(Size inputs, Rows rows, const float* panel, Floats (*to)[kVectors]) {
    Floats sum[kBoth][vectors] = {};
    const float *next = rows.weight + kHalf * rows.step, *next_delta = rows.delta + kHalf * rows.step;
    for (Size i = 0; i < inputs; ++i, ++rows.weight, ++rows.delta, panel += kGroup) {
        __builtin_prefetch(next + i * kHalf, 0, 2);
        __builtin_prefetch(next_delta + i * kHalf, 0, 2);
        Floats x[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) x[v] = load_lanes(panel + v * kFloats);
#pragma GCC unroll 6
        for (int r = 0; r < kHalf; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[r][v] += rows.weight[r * rows.step] * x[v];
#pragma GCC unroll 6
        for (int r = 0; r < kHalf; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[kHalf + r][v] += rows.delta[r * rows.step] * x[v];
    }
#pragma GCC unroll 12
    for (int r = 0; r < kBoth; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) to[r][v] = sum[r][v];
}

}  // namespace pcl::PCL_ISA
