// min 1/2 vᵀGv + vᵀb over v >= 0, one problem on one warp; see csrc/cone_qp.cpp.
#pragma once

#include "gramian.cuh"
#include "qp_warp.cuh"

namespace PCL_WARP_NAMESPACE {

struct ConeBatch {
    Gramians in;
    const double* b;  // [k] per problem, b_stride apart (0: the same for all)
    long b_stride;
    double* v;  // [batch, k]
    QpInfo info;
};

// Doubles per warp in fast memory and in global memory.
struct ConeMemory {
    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? reals(k) : 0) + 5 * k; }
    static constexpr PCL_BOTH long global(long k) { return k * k + 2 * reals(k); }
};

// pcl_kernels.cone_qp has the formula; w = Cx - q here. Zero gradients, which have d_i = 0, do not count.
PCL_DEVICE double cone_gap(const double* C, const double* q, const double* x, const double* d, int k) {
    double slack = 0, violation = 0, longest = 0;
    for (int i = lane(); i < k; i += LANES) {
        if (d[i] == 0) continue;
        const double norm = sqrt(C[i * k + i]), w = row_times(C, k, i, x) - q[i];
        slack += x[i] * fmax(w, 0.0);
        violation += fmax(-w, 0.0) / norm;
        longest = fmax(longest, fmax(x[i] * norm, fabs(q[i]) / norm));
    }
    return sum(slack) + 2 * max(longest) * sum(violation);
}

// How far x is from the optimality conditions, rounding included; NaN where x is not finite. See csrc/cone_qp.cpp.
PCL_DEVICE double cone_error(const double* C, const double* q, const double* x, int k, double eps) {
    double worst = 0, length = 0;
    for (int i = lane(); i < k; i += LANES) {
        const double w = row_times(C, k, i, x) - q[i];
        worst = fmax(worst, x[i] > 0 ? fabs(w) : -w);
        length += x[i];
    }
    worst = max(worst);
    length = sum(length);
    return length - length == 0 ? fmax(worst, k * eps * length) : length - length;
}

// Problem n of the batch; `fast` and `global` as many doubles as ConeMemory says, of this warp alone.
PCL_DEVICE void cone_qp(const ConeBatch& all, long n, double* fast, double* global) {
    const int k = all.in.k;
    const double* b = all.b + n * all.b_stride;
    double* const v = all.v + n * k;
    Room near{fast}, far{global};
    double *const q = near.doubles(k), *const x = near.doubles(k), *const d = near.doubles(k);
    int *const e = near.ints(k), *const free = near.ints(k);
    double* const C = far.doubles(k * k);
    DoubleDouble* const exact_memory = reinterpret_cast<DoubleDouble*>(far.doubles(2 * reals(k)));
    double* const memory = k <= largest_fast ? near.next : reinterpret_cast<double*>(exact_memory);

    Status status = scale_gramian(all.in, n, C, e, d);
    double wild = 0, endless = 0, largest = -5000;
    for (int i = lane(); i < k; i += LANES) {
        const double c = C[i * k + i];
        wild += b[i] - b[i] != 0;
        endless += c == 0 && b[i] < 0;
        if (c > 0 && b[i] != 0) largest = fmax(largest, double(ilogb(b[i]) + e[i]));
    }
    wild = sum(wild);
    endless = sum(endless);
    const int E = int(max(largest));
    if (wild != 0) status = Status::not_finite;
    else if (endless != 0 && !refused(status)) status = Status::unbounded;
    if (refused(status)) return refuse(all.info, n, k, v, status);
    if (E == -5000) {
        fill(v, k, 0.0);
        return write_info(all.info, n, k, v, 0.0, 0, Status::solved);
    }
    for (int i = lane(); i < k; i += LANES) {
        const bool zero = C[i * k + i] == 0;
        q[i] = zero ? -1.0 : -b[i] * pow2(e[i] - E);
        if (zero) C[i * k + i] = 1.0, d[i] = 0.0;  // and q = -1: a variable that stays where it is
    }
    sync();

    const double eps = all.in.eps();
    int pivots = 0;
    bool solved = solve_in_doubles(Problem{C, q, k, false, eps, 0.5 * eps}, memory, free, x, pivots);
    if (!solved && !all.in.is_float) {
        const Problem exact{C, q, k, false, eps, 1e-19};
        solved = solve_in_double_doubles(exact, 1e-20, exact_memory, free, x, 0.0, pivots);
    }
    // Dependent gradients: csrc/cone_qp.cpp says why a ridge takes over where x is not the minimiser.
    sync();
    const double off = cone_error(C, q, x, k, eps);
    if (!(off < 4096 * k * eps)) {
        const double ridge = 64 * k * eps;
        for (int i = lane(); i < k; i += LANES) v[i] = x[i], C[i * k + i] += ridge;
        sync();
        int more = 0;
        const bool bounded = solve_in_doubles(Problem{C, q, k, false, eps, 0.5 * eps}, memory, free, x, more);
        sync();
        for (int i = lane(); i < k; i += LANES) C[i * k + i] -= ridge;
        sync();
        double length = 0;
        for (int i = lane(); i < k; i += LANES) length += x[i];
        length = sum(length);
        const double rest = cone_error(C, q, x, k, eps);
        const bool better = rest < off || off != off;
        if (better)
            solved = bounded, pivots = more;
        else
            for (int i = lane(); i < k; i += LANES) x[i] = v[i];
        sync();
        if (!((better ? rest : off) < sqrt(eps))) {
            if (!(ridge * length < sqrt(eps))) return refuse(all.info, n, k, v, Status::unbounded);
            solved = false;
        }
    }
    for (int i = lane(); i < k; i += LANES) v[i] = x[i] * pow2(e[i]) * pow2(E);
    const double gap = all.info.gap ? cone_gap(C, q, x, d, k) * pow2(E) * pow2(E) : 0.0;
    write_info(all.info, n, k, v, gap, pivots, solved ? Status::solved : Status::inexact);
}

}  // namespace PCL_WARP_NAMESPACE
