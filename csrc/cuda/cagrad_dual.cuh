// min_w wᵀb + c‖g₀‖√(wᵀGw) over the simplex, one problem on one warp; see csrc/cagrad_dual.cpp for the method.
#pragma once

#include "gramian.cuh"
#include "qp_warp.cuh"

namespace PCL_WARP_NAMESPACE {

struct CagradBatch {
    Gramians in;
    double c;
    const double* preference;  // [k] per problem, preference_stride apart (0: the same for all); null for 1/k
    long preference_stride;
    double* w;  // [batch, k]
    QpInfo info;
};

// Doubles per warp in fast memory and in global memory.
struct CagradMemory {
    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? reals(k) : 0) + 9 * k; }
    static constexpr PCL_BOTH long global(long k) { return k * k + reals(k); }
};

// The vectors of one problem; x_i stands for w_i/one_i, b is in the same units.
struct Cagrad {
    const double* C;
    const int k;
    const double eps;
    double *const b, *const one, *const q, *const x, *const y, *const w;
    int *const free, *const before;
    double* const tableau;
    double r = 0;
    int pivots = 0;

    // Σ and xᵀCx and xᵀb of any such x.
    struct Sums {
        double one = 0, quad = 0, b = 0, length = 0;
    };

    PCL_DEVICE Sums sums(const double* x) const {
        Sums s;
        for (int i = lane(); i < k; i += LANES) {
            s.one += x[i] * one[i];
            s.quad += x[i] * row_times(C, k, i, x);
            s.b += x[i] * b[i];
            s.length += x[i];
        }
        return {sum(s.one), sum(s.quad), sum(s.b), sum(s.length)};
    }

    PCL_DEVICE void keep(const double* x, double total) {
        for (int i = lane(); i < k; i += LANES) w[i] = x[i] * one[i] / total;
        sync();
    }

    PCL_DEVICE void keep_single(int best) {
        for (int i = lane(); i < k; i += LANES) w[i] = i == best;
        sync();
    }

    // The lowest of value(i), and the first i that has it.
    template <class Value>
    PCL_DEVICE int lowest(Value value, double& least) const {
        int at = k;
        least = INFINITY;
        for (int i = lane(); i < k; i += LANES) {
            const double v = value(i);
            if (v < least) least = v, at = i;
        }
        argmin(least, at);
        return at;
    }

    // The combination of least norm into w, and its value. Where it vanishes up to rounding, the cone problem is
    // unbounded for ν > 0, so that 0 bounds ν from above.
    PCL_DEVICE double least_norm() {
        double largest = 0, none;
        for (int i = lane(); i < k; i += LANES) largest = fmax(largest, one[i]);
        largest = max(largest);
        const int zero = lowest([&](int i) { return C[i * k + i] == 0 ? double(i) : INFINITY; }, none);
        for (int i = lane(); i < k; i += LANES) {
            q[i] = one[i] / largest;
            x[i] = i == zero;
        }
        sync();
        if (zero == k) solve_in_doubles(Problem{C, q, k, true, eps, 0.5 * eps}, tableau, free, x, pivots);
        const Sums s = sums(x);
        keep(x, s.one);
        if (s.quad <= 64 * eps * s.length * s.length) return 0.0;
        return (s.b + r * sqrt(s.quad)) / s.one;
    }

    // y with C_SS y = 1 on S, once refined; returns Σ y. Uses the tableau that the solver has left.
    PCL_DEVICE double direction() {
        fill(y, k, 0.0);
        for (int pass = 0; pass < 2; ++pass) {
            for (int i = lane(); i < k; i += LANES) q[i] = free[i] ? one[i] - row_times(C, k, i, y) : 0.0;
            sync();
            for (int i = lane(); i < k; i += LANES) {
                if (!free[i]) continue;
                double step = 0;
                for (int j = 0; j < k; ++j)
                    if (free[j]) step -= tableau[j * k + i] * q[j];
                y[i] += step;
            }
            sync();
        }
        return sums(y).one;
    }

    // ν by its quadratics; true where it was found and the solver vouches for the last cone problem.
    PCL_DEVICE bool search(double least, double low, double high, double size) {
        double nu = high;
        bool solved = false, exact = true;
        for (int i = lane(); i < k; i += LANES) before[i] = 2;
        sync();
        for (int round = 0; round < 100 && !solved; ++round) {
            double scale = 0;
            for (int i = lane(); i < k; i += LANES) scale = fmax(scale, fabs(nu * one[i] - b[i]));
            scale = max(scale);
            for (int i = lane(); i < k; i += LANES) q[i] = (nu * one[i] - b[i]) / scale;
            sync();
            exact = solve_in_doubles(Problem{C, q, k, false, eps, 0.5 * eps}, tableau, free, x, pivots);
            for (int i = lane(); i < k; i += LANES) x[i] *= scale;
            sync();
            const Sums z = sums(x);
            double changed = 0;
            for (int i = lane(); i < k; i += LANES) {
                changed += before[i] != free[i];
                before[i] = free[i];
            }
            const bool same = sum(changed) == 0 && z.one > 0;
            const double sum_y = direction();
            // the root of quad + 2δ Σz + δ² Σy = r², in the form without cancellation
            const double missing = r * r - z.quad;
            (missing > 0 ? low : high) = nu;
            const double root = sqrt(fmax(0.0, z.one * z.one + sum_y * missing));
            double next = nu + missing / (z.one + root);
            if (!(next > low && next < high)) next = same ? fmin(fmax(next, low), high) : 0.5 * (low + high);
            const double moved = fabs(next - nu);
            solved = same && (moved <= 8 * eps * fabs(nu) || fabs(missing) <= 16 * eps * r * r);
            solved = solved || high - low <= 4 * eps * size;
            const double value = (z.b + r * sqrt(fmax(0.0, z.quad))) / z.one;
            // csrc/cagrad_dual.cpp has the reason
            const bool last = solved && exact && z.quad > 64 * eps * z.length * z.length;
            if (z.one > 0 && value <= least + (last ? 0x1p-49 * size : 0.0)) {
                least = fmin(least, value);
                keep(x, z.one);
            }
            nu = next;
        }
        return solved && exact;
    }

    // csrc/cagrad_dual.cpp has the reasons. q takes w in the units of x.
    PCL_DEVICE double duality_gap() {
        for (int i = lane(); i < k; i += LANES) q[i] = w[i] / one[i];
        sync();
        const Sums s = sums(q), z = sums(x);
        const bool vanishes = s.quad <= 64 * eps * s.length * s.length;
        const double norm = vanishes ? 0.0 : sqrt(s.quad), shrink = r / fmax(r, sqrt(fmax(0.0, z.quad)));
        double bound, other;
        lowest([&](int i) { return (b[i] + (vanishes ? 0.0 : r / norm * row_times(C, k, i, q))) / one[i]; }, bound);
        lowest([&](int i) { return (b[i] + shrink * row_times(C, k, i, x)) / one[i]; }, other);
        return fmax(0.0, s.b + r * norm - fmax(bound, other));
    }
};

// Problem n of the batch; `fast` and `global` as many doubles as CagradMemory says, of this warp alone.
PCL_DEVICE void cagrad_dual(const CagradBatch& all, long n, double* fast, double* global) {
    const int k = all.in.k;
    Room near{fast}, far{global};
    double *const b = near.doubles(k), *const one = near.doubles(k), *const q = near.doubles(k);
    double *const x = near.doubles(k), *const y = near.doubles(k);
    int *const e = near.ints(k), *const free = near.ints(k), *const before = near.ints(k);
    double* const C = far.doubles(k * k);
    double* const tableau = k <= largest_fast ? near.next : far.next;
    double* const w = all.w + n * k;
    Cagrad p{C, k, all.in.eps(), b, one, q, x, y, w, free, before, tableau};

    const double* const preference = all.preference ? all.preference + n * all.preference_stride : nullptr;
    double bad = 0;
    for (int i = lane(); i < k; i += LANES) bad += preference && !(preference[i] >= DBL_MIN && preference[i] < INFINITY);
    const Status status = sum(bad) != 0 ? Status::bad_sigma : scale_gramian(all.in, n, C, e, q);
    if (refused(status)) return refuse(all.info, n, k, w, status);
    // One common power of two makes the longest gradient about 1.
    double shortest = 5000;
    for (int i = lane(); i < k; i += LANES)
        if (C[i * k + i] > 0) shortest = fmin(shortest, double(e[i]));
    const int E = -int(max(-shortest));
    if (E == 5000) {  // every gradient is zero
        fill(w, k, 1.0 / k);
        return write_info(all.info, n, k, w, 0.0, 0, Status::solved);
    }
    for (int i = lane(); i < k; i += LANES) {
        one[i] = C[i * k + i] > 0 ? pow2(e[i] - E) : 1.0;  // 1 in the units of x; at least 1
        q[i] = C[i * k + i] > 0 ? pow2(E - e[i]) * (preference ? preference[i] : 1.0 / k) : 0.0;
    }
    sync();
    double mean_b = 0;
    for (int i = lane(); i < k; i += LANES) {
        b[i] = row_times(C, k, i, q);
        mean_b += b[i] / one[i] * (preference ? preference[i] : 1.0 / k);
    }
    mean_b = sum(mean_b);
    p.r = all.c * sqrt(fmax(0.0, mean_b));
    sync();

    double low, high;
    const int first = p.lowest([&](int i) { return b[i] / one[i]; }, low);
    if (p.r == 0) {  // linear: all weight on the lowest b, the first of equals
        p.keep_single(first);
        return write_info(all.info, n, k, w, 0.0, 0, Status::solved);
    }
    const int single = p.lowest([&](int i) { return (b[i] + p.r * sqrt(C[i * k + i])) / one[i]; }, high);
    const double size = fmax(fabs(low), fabs(high));
    double least = p.least_norm();
    if (high < least) {  // the best single task
        p.keep_single(single);
        least = high;
    }
    const bool solved = p.search(least, low, least, size);
    const double gap = all.info.gap ? p.duality_gap() * pow2(-E) * pow2(-E) : 0.0;
    write_info(all.info, n, k, w, gap, p.pivots, solved ? Status::solved : Status::inexact);
}

}  // namespace PCL_WARP_NAMESPACE
