// min λᵀGλ subject to Σ λ_iσ_i = 1, λ >= 0, one problem on one warp; see csrc/simplex_qp.cpp for the reduction.
#pragma once

#include "gramian.cuh"
#include "qp_warp.cuh"

namespace PCL_WARP_NAMESPACE {

// One batch; null where something is absent.
struct SimplexBatch {
    Gramians in;
    const double* sigma;  // [k] per problem, sigma_stride apart (0: the same for all)
    long sigma_stride;
    double* lambda;  // [batch, k]
    QpInfo info;
};

// Doubles per warp in fast memory and in global memory.
struct SimplexMemory {
    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? reals(k) : 0) + 6 * k; }
    static constexpr PCL_BOTH long global(long k) { return k * k + 2 * reals(k); }
};

// ad - bc with one rounding (Kahan), so that two nearly parallel gradients lose nothing.
PCL_DEVICE double difference_of_products(double a, double d, double b, double c) {
    const double bc = b * c;
    return fma(a, d, -bc) - fma(b, c, -bc);
}

// Zero gradients reach the objective zero: they share the weight.
PCL_DEVICE bool zero_gradients(const SimplexBatch& all, long n, const double* C, const double* sigma) {
    const int k = all.in.k;
    double* const lambda = all.lambda + n * k;
    double zeros = 0;
    for (int i = lane(); i < k; i += LANES) zeros += C[i * k + i] == 0;
    zeros = sum(zeros);
    if (zeros == 0) return false;
    for (int i = lane(); i < k; i += LANES)
        lambda[i] = C[i * k + i] == 0 ? 1.0 / (zeros * (sigma ? sigma[i] : 1.0)) : 0.0;
    write_info(all.info, n, k, lambda, 0.0, 0, Status::solved);
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

// Feasible points of min xᵀCx / (sᵀx)², the best of which stays in x.
struct Candidates {
    const double *C, *s;
    const int k;
    double* x;
    double noise = 0;  // of C; an objective is not known better than noise·(Σx_i/sᵀx)²
    DoubleDouble best = INFINITY;

    // True where `other` is as good as any before it.
    PCL_DEVICE bool offer(const double* other) {
        DoubleDouble f = 0.0, t = 0.0, length = 0.0;
        for (int j = lane(); j < k; j += LANES) {
            DoubleDouble Cx = 0.0;
            for (int i = 0; i < k; ++i) Cx = Cx + two_product(C[i * k + j], other[i]);
            f = f + Cx * DoubleDouble(other[j]);
            t = t + two_product(s[j], other[j]);
            length = length + DoubleDouble(other[j]);
        }
        t = sum(t);
        length = sum(length);
        f = (sum(f) + DoubleDouble(noise) * length * length) / (t * t);
        const bool as_good = f.hi <= best.hi + 1e-15;  // false where it is NaN
        if (f < best) {
            best = f;
            for (int j = lane(); j < k; j += LANES) x[j] = other[j];
        }
        sync();
        return as_good;
    }

    PCL_DEVICE void offer_best_single(double* other) {
        int single = 0;
        for (int i = 1; i < k; ++i)
            if (s[i] * s[i] * C[single * k + single] > s[single] * s[single] * C[i * k + i]) single = i;
        for (int j = lane(); j < k; j += LANES) other[j] = j == single;
        sync();
        offer(other);
    }

    // The optimality conditions, or an objective of zero, up to the rounding of C.
    PCL_DEVICE bool optimal() const {
        double f = 0, t = 0, length = 0, bad = 0;
        for (int j = lane(); j < k; j += LANES) {
            f += x[j] * row_times(C, k, j, x);
            t += s[j] * x[j];
            length += x[j];
        }
        f = sum(f);
        t = sum(t);
        length = sum(length);
        const double rounding = 64 * DBL_EPSILON * length * length;
        if (f <= rounding) return f >= -rounding;  // below that, C is not positive semidefinite
        for (int j = lane(); j < k; j += LANES) {
            const double w = row_times(C, k, j, x) - f / t * s[j], allowed = 256 * DBL_EPSILON * fmax(t, length);
            bad += w < -allowed || (x[j] > 0 && w > allowed);
        }
        return sum(bad) == 0;
    }

    PCL_DEVICE bool is_zero() const { return best.hi >= 0 && best.hi <= 1e-19; }
};

// A second look, better than the x that comes in or equal to it; csrc/qp_exact.cpp has the reasons. False where the
// result is not certified. `other` and `incoming` are room for k doubles each.
PCL_DEVICE bool simplex_exactly(const double* C, const double* s, int k, DoubleDouble* memory, int* free, double* x,
                                double* other, double* incoming, int& pivots) {
    for (int j = lane(); j < k; j += LANES) incoming[j] = x[j];
    sync();
    Candidates candidates{C, s, k, x};
    candidates.offer_best_single(other);
    candidates.offer(incoming);
    bool solved = false;
    // with s, with s = 1, which alone sees that gradients cancel where s is of very different sizes, and with ridges
    // of the size of C's rounding
    for (int look = 0; look < 5; ++look) {
        double ridge = 1e-20, tolerance = look ? 1e-30 : 1e-19;
        if (look >= 2) ridge = tolerance = 4 * DBL_EPSILON * (look == 2 ? 1 : look == 3 ? 16 : 256);
        if (look == 2) {
            candidates.noise = 4 * DBL_EPSILON;
            candidates.best = INFINITY;
            candidates.offer(x);
            candidates.offer(incoming);
            candidates.offer_best_single(other);
        }
        const Problem in{C, look == 1 ? nullptr : s, k, true, DBL_EPSILON, tolerance};
        const bool done = solve_in_double_doubles(in, ridge, memory, free, other, look == 1 ? 1e-12 : 0.0, pivots);
        const bool as_good = candidates.offer(other);
        if (look == 0) solved = done && as_good;
        if (look < 2 && candidates.is_zero()) return true;
        if (look == 1 && solved) return true;
    }
    return candidates.optimal();
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
        const double Cx = row_times(C, k, j, x);
        f += x[j] * Cx;
        if (Cx / s[j] < least) least = Cx / s[j], at = j;
    }
    argmin(least, at);
    return fmax(0.0, 2 * (sum(f) / t - least) / t);
}

// Problem n of the batch; `fast` and `global` as many doubles as SimplexMemory says, of this warp alone.
PCL_DEVICE void simplex_qp(const SimplexBatch& all, long n, double* fast, double* global) {
    const int k = all.in.k;
    const double* sigma = all.sigma ? all.sigma + n * all.sigma_stride : nullptr;
    double* const lambda = all.lambda + n * k;
    Room near{fast}, far{global};
    double *const s = near.doubles(k), *const x = near.doubles(k), *const other = near.doubles(k);
    double* const incoming = near.doubles(k);
    int *const e = near.ints(k), *const free = near.ints(k);
    double* const C = far.doubles(k * k);
    DoubleDouble* const exact_memory = reinterpret_cast<DoubleDouble*>(far.doubles(2 * reals(k)));
    double* const memory = k <= largest_fast ? near.next : reinterpret_cast<double*>(exact_memory);

    double bad = 0;
    for (int i = lane(); i < k; i += LANES) bad += sigma && !(sigma[i] >= DBL_MIN && sigma[i] < INFINITY);
    const Status status = sum(bad) != 0 ? Status::bad_sigma : scale_gramian(all.in, n, C, e, other);
    if (refused(status)) return refuse(all.info, n, k, lambda, status);
    if (zero_gradients(all, n, C, sigma)) return;

    int E = -5000;
    for (int i = 0; i < k; ++i) {
        const int ei = e[i] + (sigma ? ilogb(sigma[i]) : 0);
        E = ei > E ? ei : E;
    }
    for (int i = lane(); i < k; i += LANES) s[i] = (sigma ? sigma[i] : 1.0) * pow2(e[i] - E);
    sync();

    const double eps = all.in.eps();
    bool solved = true;
    int pivots = 0;
    if (k == 1) {
        fill(x, 1, 1.0);
    } else if (k == 2) {
        solved = two(C, s, x, eps);
    } else {
        const Problem in{C, s, k, true, eps, 0.5 * eps};
        solved = solve_in_doubles(in, memory, free, x, pivots);
        // A float32 Gramian has not the digits that a second look would bring out.
        if (!solved && !all.in.is_float)
            solved = simplex_exactly(C, s, k, exact_memory, free, x, other, incoming, pivots);
    }

    const double t = total(s, x, k);
    for (int i = lane(); i < k; i += LANES) lambda[i] = x[i] / t * pow2(e[i] - E);
    const double gap = all.info.gap ? duality_gap(C, s, x, t, k) * pow2(-E) * pow2(-E) : 0.0;
    write_info(all.info, n, k, lambda, gap, pivots, solved ? Status::solved : Status::inexact);
}

}  // namespace PCL_WARP_NAMESPACE
