// min λᵀGλ subject to Σ λ_iσ_i = 1, λ >= 0, one problem on one warp; see csrc/simplex_qp.cpp for the reduction.
//
// Nothing is raised, because the host never waits: a problem with bad input of any kind gets a row of NaN and the
// status not_finite.
#pragma once

#include <cstring>

#include "../simplex_qp.hpp"
#include "qp_warp.cuh"

namespace pcl::warp {

// One batch; null where something is absent.
struct SimplexBatch {
    const void* gram;     // [batch, k, k]
    bool is_float;        // float32 Gramians instead of float64
    const double* sigma;  // [k] per problem, sigma_stride apart (0: the same for all)
    long sigma_stride;
    double* lambda;  // [batch, k]
    SimplexInfo info;
    long batch;
    int k;
};

// Doubles per warp in fast memory and in global memory.
struct SimplexMemory {
    static constexpr int largest_fast = 64;  // tableaus up to this size are fast

    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? reals(k) : 0) + 4 * k; }
    static constexpr PCL_BOTH long global(long k) { return k * k + 2 * reals(k); }
};

// 2^n, also where it is subnormal, zero or infinite.
PCL_DEVICE double pow2(int n) {
    if (n < -1022 || n > 1023) return ldexp(1.0, n);
    const long long bits = (long long)(n + 1023) << 52;
    double d;
    memcpy(&d, &bits, 8);
    return d;
}

PCL_DEVICE double entry(const SimplexBatch& all, long at) {
    return all.is_float ? double(static_cast<const float*>(all.gram)[at]) : static_cast<const double*>(all.gram)[at];
}

// ad - bc with one rounding (Kahan), so that two nearly parallel gradients lose nothing.
PCL_DEVICE double difference_of_products(double a, double d, double b, double c) {
    const double bc = b * c;
    return fma(a, d, -bc) - fma(b, c, -bc);
}

PCL_DEVICE void answer(const SimplexBatch& all, long b, SimplexStatus status, double gap, int pivots) {
    const SimplexInfo& info = all.info;
    if (!info.gap) return;
    for (int i = lane(); i < all.k; i += LANES) info.active[b * all.k + i] = all.lambda[b * all.k + i] > 0;
    if (lane() == 0) info.gap[b] = gap, info.pivots[b] = pivots, info.status[b] = int(status);
}

PCL_DEVICE void refuse(const SimplexBatch& all, long b) {
    for (int i = lane(); i < all.k; i += LANES) all.lambda[b * all.k + i] = NAN;
    answer(all, b, SimplexStatus::not_finite, NAN, 0);
}

// C = DGD with D the powers of two that bring the diagonal into [1, 4); zero rows stay zero. Only the symmetric part
// of G counts. e[i] is the exponent of D_ii. False where an entry is not finite or a diagonal entry is negative.
PCL_DEVICE bool scale_gramian(const SimplexBatch& all, long b, double* C, int* e) {
    const int k = all.k;
    const long G = b * k * k;
    for (int i = lane(); i < k; i += LANES) {
        const double g = entry(all, G + i * k + i);
        e[i] = g > 0 && g < INFINITY ? -(ilogb(g) >> 1) : 0;
    }
    sync();
    double bad = 0;
    for (int at = lane(); at < k * k; at += LANES) {
        const int i = at / k, j = at % k, low = i < j ? i : j, high = i < j ? j : i;
        const double dl = pow2(e[low]), dh = pow2(e[high]);
        const double c = 0.5 * (entry(all, G + high * k + low) * dh * dl + entry(all, G + low * k + high) * dh * dl);
        C[at] = c;
        bad += (c - c != 0) + (i == j && c < 0);
    }
    sync();
    return sum(bad) == 0;
}

// Zero gradients reach the objective zero: they share the weight.
PCL_DEVICE bool zero_gradients(const SimplexBatch& all, long b, const double* C, const double* sigma) {
    const int k = all.k;
    double zeros = 0;
    for (int i = lane(); i < k; i += LANES) zeros += C[i * k + i] == 0;
    zeros = sum(zeros);
    if (zeros == 0) return false;
    for (int i = lane(); i < k; i += LANES)
        all.lambda[b * k + i] = C[i * k + i] == 0 ? 1.0 / (zeros * (sigma ? sigma[i] : 1.0)) : 0.0;
    sync();
    answer(all, b, SimplexStatus::solved, 0.0, 0);
    return true;
}

// Eq. 20-23 of EMGD with general σ: inside, both multipliers vanish; else the better single task. False where
// |cos| > 1 by more than rounding.
PCL_DEVICE bool two(const double* C, const double* s, double* x, double eps) {
    const double x0 = difference_of_products(s[0], C[3], s[1], C[1]);
    const double x1 = difference_of_products(s[1], C[0], s[0], C[1]);
    const bool first = C[0] * s[1] * s[1] <= C[3] * s[0] * s[0];
    const bool inside = x0 > 0 && x1 > 0;
    if (lane() == 0) {
        x[0] = inside ? x0 : double(first);
        x[1] = inside ? x1 : double(!first);
    }
    sync();
    return C[1] * C[1] <= C[0] * C[3] * (1 + 8 * eps);
}

// x from the solver in double precision; `memory` as for a Solver<double>.
PCL_DEVICE bool solve_in_doubles(const Problem& in, double* memory, int* free, double* x, int& pivots) {
    Solver<double> s(in, 4 * in.eps, memory, free);
    const bool solved = solve(s);
    for (int j = lane(); j < in.k; j += LANES) x[j] = free[j] ? fmax(s.v[j], 0.0) : 0.0;
    sync();
    pivots += s.sweeps;
    return solved;
}

// The same in double-double; `memory` as for a Solver<DoubleDouble>. What is below `least` of the largest element
// counts as zero.
PCL_DEVICE bool solve_in_double_doubles(const Problem& in, DoubleDouble* memory, int* free, double* x, double least,
                                        int& pivots) {
    Solver<DoubleDouble> s(in, 1e-20, memory, free);  // a ridge far below the rounding of C
    const bool solved = solve(s);
    double largest = 0;
    for (int j = lane(); j < in.k; j += LANES) largest = fmax(largest, free[j] ? s.v[j].hi : 0.0);
    largest = max(largest);
    for (int j = lane(); j < in.k; j += LANES) {
        const double value = free[j] ? fmax(s.v[j].hi, 0.0) : 0.0;
        x[j] = value < least * largest ? 0.0 : value;
    }
    sync();
    pivots += s.sweeps;
    return solved;
}

// xᵀCx / (sᵀx)²
PCL_DEVICE DoubleDouble objective(const double* C, const double* s, const double* x, int k) {
    DoubleDouble f = 0.0, t = 0.0;
    for (int j = lane(); j < k; j += LANES) {
        DoubleDouble Cx = 0.0;
        for (int i = 0; i < k; ++i) Cx = Cx + two_product(C[i * k + j], x[i]);
        f = f + Cx * DoubleDouble(x[j]);
        t = t + two_product(s[j], x[j]);
    }
    f = sum(f);
    t = sum(t);
    return f / (t * t);
}

// A second look, better than the x that comes in or equal to it; see csrc/qp_exact.cpp. False where the result is not
// certified.
PCL_DEVICE bool simplex_exactly(const double* C, const double* s, int k, DoubleDouble* memory, int* free, double* x,
                                double* other, int& pivots) {
    const double tolerance = 1e-19, zero = 1e-30;  // an objective that stands for 0
    DoubleDouble best = objective(C, s, x, k);
    bool solved = false;
    // Where the gradients cancel, they do so whatever s is; with s of very different sizes only s = 1 can see it.
    // What is left of the others by rounding would weigh in with its s, so it goes.
    for (int look = 0; look < 2; ++look) {
        const Problem in{C, look ? nullptr : s, k, true, DBL_EPSILON, look ? zero : tolerance};
        const bool done = solve_in_double_doubles(in, memory, free, other, look ? 1e-12 : 0.0, pivots);
        const DoubleDouble f = objective(C, s, other, k);
        const bool better = f < best;  // false for NaN
        if (better) {
            best = f;
            for (int j = lane(); j < k; j += LANES) x[j] = other[j];
            sync();
        }
        if (!look) solved = done;
        if (look && better && best.hi <= tolerance) solved = true;
        if (!(tolerance < best.hi)) break;
    }
    return solved && best.hi >= -1e-15;  // below that, C is not positive semidefinite
}

// sᵀx, compensated: the last digit of Σ λσ = 1 is at stake. Every lane adds all of it, in the same order.
PCL_DEVICE double total(const double* s, const double* x, int k) {
    double t = 0, low = 0;
    for (int i = 0; i < k; ++i) {
        const DoubleDouble p = two_product(x[i], s[i]), next = two_sum(t, p.hi);
        low += next.lo + p.lo;
        t = next.hi;
    }
    return t + low;
}

// 2(λᵀGλ - min_i (Gλ)_i/σ_i) of the scaled problem.
PCL_DEVICE double duality_gap(const double* C, const double* s, const double* x, double t, int k) {
    double f = 0, least = INFINITY;
    int at = k;
    for (int j = lane(); j < k; j += LANES) {
        double Cx = 0;
        for (int i = 0; i < k; ++i) Cx += C[i * k + j] * x[i];
        f += x[j] * Cx;
        if (Cx / s[j] < least) least = Cx / s[j], at = j;
    }
    argmin(least, at);
    return fmax(0.0, 2 * (sum(f) / t - least) / t);
}

// Problem b of the batch; `fast` and `global` as many doubles as SimplexMemory says, of this warp alone.
PCL_DEVICE void simplex_qp(const SimplexBatch& all, long b, double* fast, double* global) {
    const int k = all.k;
    const double* sigma = all.sigma ? all.sigma + b * all.sigma_stride : nullptr;
    double* const s = fast;
    double* const x = s + k;
    double* const other = x + k;
    int* const e = reinterpret_cast<int*>(other + k);
    int* const free = e + k;
    double* const C = global;
    DoubleDouble* const exact_memory = reinterpret_cast<DoubleDouble*>(C + k * k);
    double* const memory = k <= SimplexMemory::largest_fast ? other + 2 * k : C + k * k;

    double bad = 0;
    for (int i = lane(); i < k; i += LANES) bad += sigma && !(sigma[i] >= DBL_MIN && sigma[i] < INFINITY);
    if (sum(bad) != 0 || !scale_gramian(all, b, C, e)) return refuse(all, b);
    if (zero_gradients(all, b, C, sigma)) return;

    int E = -5000;
    for (int i = 0; i < k; ++i) {
        const int ei = e[i] + (sigma ? ilogb(sigma[i]) : 0);
        E = ei > E ? ei : E;
    }
    for (int i = lane(); i < k; i += LANES) s[i] = (sigma ? sigma[i] : 1.0) * pow2(e[i] - E);
    sync();

    const double eps = all.is_float ? double(FLT_EPSILON) : DBL_EPSILON;
    bool solved = true;
    int pivots = 0;
    if (k == 1) {
        if (lane() == 0) x[0] = 1.0;
        sync();
    } else if (k == 2) {
        solved = two(C, s, x, eps);
    } else {
        const Problem in{C, s, k, true, eps, 0.5 * eps};
        solved = solve_in_doubles(in, memory, free, x, pivots);
        // A float32 Gramian has not the digits that a second look would bring out.
        if (!solved && !all.is_float) solved = simplex_exactly(C, s, k, exact_memory, free, x, other, pivots);
    }

    const double t = total(s, x, k);
    for (int i = lane(); i < k; i += LANES) all.lambda[b * k + i] = x[i] / t * pow2(e[i] - E);
    sync();
    if (all.info.gap) {
        const double gap = duality_gap(C, s, x, t, k) * pow2(-E) * pow2(-E);
        answer(all, b, solved ? SimplexStatus::solved : SimplexStatus::inexact, gap, pivots);
    }
    sync();
}

}  // namespace pcl::warp
