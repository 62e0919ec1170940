#pragma once

#include <cstdint>

namespace pcl {

// The values of pcl_kernels.Status and, beyond it, of bad input.
enum class SimplexStatus { solved = 0, inexact = 1, not_finite = 2, negative_diagonal = 3, bad_sigma = 4 };

// Where the evidence goes, per problem; all null where nobody asked.
struct SimplexInfo {
    double* gap;
    bool* active;
    std::int32_t *pivots, *status;

    void write(long b, int k, const double* lambda, double gap_, int pivots_, SimplexStatus status_) const {
        if (!gap) return;
        gap[b] = gap_;
        pivots[b] = pivots_;
        status[b] = std::int32_t(status_);
        for (int i = 0; i < k; ++i) active[b * k + i] = lambda[i] > 0;
    }
};

}  // namespace pcl
