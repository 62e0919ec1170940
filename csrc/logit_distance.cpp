// How far logits are from those that were stored, and the derivative:
//
//     loss = factor / B Σ_b |z_b - z*_b|² / C_b,    ∂loss/∂z_b = 2 factor / (B C_b) (z_b - z*_b).
//
// Columns that are NaN in z*, or that it does not have, are compared with the least known z* of the row, or not at all;
// C_b is the number of those that are compared.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "isa.hpp"
#include "longhorn_lanes.hpp"

namespace pcl {
using Size = std::int64_t;
}

namespace pcl::PCL_ISA {

struct Known {
    Size count;   // of the stored logits that are not NaN
    float least;  // of these
};

inline Known known_of(Size columns, const float* then) {
    using Counts = decltype(Floats{} == Floats{});
    Floats least = splat(std::numeric_limits<float>::infinity());
    Counts counts = {};
    Size c = 0;
    for (; c + kFloats <= columns; c += kFloats) {
        const Floats x = load_lanes(then + c);
        counts -= x == x;
        least = x < least ? x : least;
    }
    Known found{0, std::numeric_limits<float>::infinity()};
    for (int lane = 0; lane < kFloats; ++lane) {
        found.count += counts[lane];
        found.least = std::min(found.least, least[lane]);
    }
    for (; c < columns; ++c) {
        found.count += then[c] == then[c];
        found.least = then[c] < found.least ? then[c] : found.least;
    }
    return found;
}

// |x|² in double, in one order
inline double square(Size columns, const float* x) {
    constexpr int kSums = 4;
    Vec sums[kSums] = {};
    Size c = 0;
    for (; c + kSums * kWidth <= columns; c += kSums * kWidth)
        for (int i = 0; i < kSums; ++i) {
            const Vec here = widen_vec(x + c + i * kWidth);
            sums[i] += here * here;
        }
    const Vec together = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double sum = 0;
    for (int lane = 0; lane < kWidth; ++lane) sum += together[lane];
    for (; c < columns; ++c) sum += static_cast<double>(x[c]) * x[c];
    return sum;
}

// now (rows, columns), then (rows, stored <= columns), slopes (rows, columns)
void logit_distance(Size rows, Size columns, Size stored, const float* now, const float* then, double factor,
                    bool ignored, float* loss, float* slopes) {
    double total = 0;
    for (Size b = 0; b < rows; ++b, now += columns, then += stored, slopes += columns) {
        const Known known = known_of(stored, then);
        const bool all = known.count == columns;
        for (Size c = 0; c < stored; ++c) slopes[c] = now[c] - then[c];
        for (Size c = 0; c < columns && !all; ++c)
            if (c >= stored || then[c] != then[c]) slopes[c] = ignored ? 0.0f : now[c] - known.least;
        const Size compared = ignored ? std::max<Size>(known.count, 1) : columns;
        const double share = factor / static_cast<double>(compared * rows);
        total += share * square(columns, slopes);
        for (Size c = 0; c < columns; ++c) slopes[c] *= static_cast<float>(2 * share);
    }
    *loss = rows ? static_cast<float>(total) : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(void logit_distance(Size rows, Size columns, Size stored, const float* now, const float* then,
                                  double factor, bool ignored, float* loss, float* slopes);)

namespace pcl {

void register_logit_distance(nanobind::module_& m) {
    m.def("logit_distance", [](Size rows, Size columns, Size stored, std::uintptr_t now, std::uintptr_t then,
                               double factor, bool ignored, std::uintptr_t loss, std::uintptr_t slopes) {
        nanobind::gil_scoped_release release;
        PCL_BEST(logit_distance)(rows, columns, stored, reinterpret_cast<const float*>(now),
                                 reinterpret_cast<const float*>(then), factor, ignored, reinterpret_cast<float*>(loss),
                                 reinterpret_cast<float*>(slopes));
    });
}

}  // namespace pcl
#endif
