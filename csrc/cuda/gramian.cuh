// What the small problems share on a warp: a batch of Gramians, their exact scaling, the evidence.
//
// Nothing is raised, because the host never waits: a problem with bad input of any kind gets a row of NaN and the
// status not_finite.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstring>

#include "../qp_info.hpp"
#include "warp.cuh"

namespace PCL_WARP_NAMESPACE {

constexpr int largest_fast = 64;  // tableaus up to this size are in fast memory

struct Gramians {
    const void* data;  // [batch, k, k]
    bool is_float;     // float32 instead of float64
    long batch;
    int k;

    PCL_DEVICE double at(long entry) const {
        return is_float ? double(static_cast<const float*>(data)[entry]) : static_cast<const double*>(data)[entry];
    }
    PCL_DEVICE double eps() const { return is_float ? double(FLT_EPSILON) : DBL_EPSILON; }
};

// 2^n, also where it is subnormal, zero or infinite.
PCL_DEVICE double pow2(int n) {
    if (n < -1022 || n > 1023) return ldexp(1.0, n);
    const long long bits = (long long)(n + 1023) << 52;
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

// C = DGD of problem n with D the powers of two that bring the diagonal into [1, 4); zero rows stay zero. Only the
// symmetric part of G counts. e[i] is the exponent of D_ii; d is room for k doubles. Solved, or why it cannot be.
PCL_DEVICE Status scale_gramian(const Gramians& in, long n, double* C, int* e, double* d) {
    const int k = in.k;
    const long G = n * k * k;
    for (int i = lane(); i < k; i += LANES) {
        const double g = in.at(G + i * k + i);
        e[i] = g > 0 && g < INFINITY ? -(ilogb(g) >> 1) : 0;
        d[i] = pow2(e[i]);
    }
    sync();
    double wild = 0, negative = 0;
    for (int i = 0; i < k; ++i)
        for (int j = lane(); j < k; j += LANES) {
            const double low = i < j ? d[i] : d[j], high = i < j ? d[j] : d[i];
            const double c = 0.5 * (in.at(G + i * k + j) * high * low + in.at(G + j * k + i) * high * low);
            C[i * k + j] = c;
            wild += c - c != 0;
            negative += i == j && c < 0;
        }
    sync();
    if (sum(wild) != 0) return Status::not_finite;
    return sum(negative) != 0 ? Status::negative_diagonal : Status::solved;
}

// Σ_j C_ij x_j; C is symmetric, so that neighbouring lanes read neighbouring columns.
PCL_DEVICE double row_times(const double* C, int k, int i, const double* x) {
    double total = 0;
    for (int j = 0; j < k; ++j) total += C[j * k + i] * x[j];
    return total;
}

// A warp's memory, handed out from the front.
struct Room {
    double* next;

    PCL_DEVICE double* doubles(long count) {
        double* const taken = next;
        next += count;
        return taken;
    }
    PCL_DEVICE int* ints(long count) { return reinterpret_cast<int*>(doubles((count + 1) / 2)); }
};

// Status, gap and active set of problem n, whose answer x [k] is.
PCL_DEVICE void write_info(const QpInfo& info, long n, int k, const double* x, double gap, int pivots, Status status) {
    sync();
    if (!info.gap) return;
    for (int i = lane(); i < k; i += LANES) info.active[n * k + i] = x[i] > 0;
    if (lane() == 0) info.gap[n] = gap, info.pivots[n] = pivots, info.status[n] = int(status);
    sync();
}

PCL_DEVICE void fill(double* x, int k, double value) {
    for (int i = lane(); i < k; i += LANES) x[i] = value;
    sync();
}

// A row of NaN, and the status as Python knows it.
PCL_DEVICE void refuse(const QpInfo& info, long n, int k, double* x, Status status) {
    fill(x, k, NAN);
    write_info(info, n, k, x, NAN, 0, status == Status::unbounded ? Status::no_solution : Status::not_finite);
}

}  // namespace PCL_WARP_NAMESPACE
