// The active set solvers of csrc/qp_core.hpp and csrc/qp_exact.cpp on one warp:
//
//     min 1/2 xᵀAx - qᵀx over x >= 0,   A = C or C + qqᵀ,
//
// in double precision, and in twice that where double precision cannot vouch for the answer. The algorithm, its
// tableau and its tests are explained there and are the same here. What differs is the layout: lane l owns columns
// l, l + LANES, ... of the tableau and those elements of every vector.
#pragma once

#include <cfloat>
#include <cmath>

#include "warp.cuh"

namespace pcl::warp {

struct Problem {
    const double* C;  // [k, k], symmetric, diagonal in [1, 4)
    const double* q;  // [k]
    int k;
    bool rank1;  // A = C + qqᵀ instead of A = C
    double eps;  // relative precision of the entries of C
};

PCL_DEVICE double product(double a, double b, double) { return a * b; }
PCL_DEVICE DoubleDouble product(double a, double b, DoubleDouble) { return two_product(a, b); }
PCL_DEVICE double leading(double a) { return a; }
PCL_DEVICE double leading(DoubleDouble a) { return a.hi; }

// How many Reals a Solver<Real> of k variables keeps in memory.
constexpr PCL_BOTH long reals(long k) { return k * k + 3 * k; }

template <class Real>
struct Solver {
    const Problem& in;
    Real *const T, *const v, *const rho, *const step;  // [k, k], [k], [k], [k]
    int* const free;                                   // [k] 1 on S, 0 on N
    const double ridge;
    double norm1 = 0, trace = 0;
    int sweeps = 0;

    PCL_DEVICE Solver(const Problem& problem, double ridge, Real* memory, int* free)
        : in(problem), T(memory), v(T + problem.k * problem.k), rho(v + problem.k), step(rho + problem.k), free(free),
          ridge(ridge) {
        for (int at = lane(); at < in.k * in.k; at += LANES) {
            const int i = at / in.k, j = at % in.k;
            Real a = in.C[at];
            if (in.rank1) a = a + product(in.q[i], in.q[j], Real());
            T[at] = i == j ? a + Real(ridge) : a;
        }
        for (int j = lane(); j < in.k; j += LANES) {
            v[j] = -in.q[j];
            free[j] = 0;
        }
        sync();
    }

    // Variable p changes between S and N: one principal pivot, O(k²).
    PCL_DEVICE void sweep(int p) {
        ++sweeps;
        const int k = in.k;
        const bool joins = !free[p];
        Real* const Tp = T + p * k;
        const Real inv = Real(1.0) / Tp[p];
        sync();
        for (int j = lane(); j < k; j += LANES) {
            const Real factor = (j == p ? Real(joins ? -1.0 : 1.0) : Tp[j]) * inv;
            for (int i = 0; i < k; ++i)
                if (i != p) T[i * k + j] = (j == p ? Real(0.0) : T[i * k + j]) - Tp[i] * factor;
        }
        sync();
        for (int j = lane(); j < k; j += LANES) {
            const Real factor = (j == p ? Real(joins ? -1.0 : 1.0) : Tp[j]) * inv;
            Tp[j] = joins ? factor : -factor;
            if (j == p) free[j] = joins;
        }
        sync();
    }

    // Pivot until `weight(v_i, T_ii)`, which says how much entering variable i matters, is zero on all of N; false
    // where the count of pivots says that rounding leads in circles.
    template <class Weight>
    PCL_DEVICE bool pivot(int limit, Weight weight) {
        const int k = in.k;
        for (limit += sweeps; sweeps < limit;) {
            Real w = INFINITY;
            int r = k;
            for (int j = lane(); j < k; j += LANES)
                if (!free[j] && v[j] < w && weight(v[j], T[j * k + j])) w = v[j], r = j;
            argmin(w, r);
            if (r == k) return true;
            Real xr = 0.0;
            for (bool inside = false; !inside && sweeps < limit;) {
                const Real* Tr = T + r * k;
                Real theta = INFINITY;
                int leaving = k;
                for (int j = lane(); j < k; j += LANES)
                    if (free[j] && Real(0.0) < Tr[j]) {
                        const Real reach = v[j] / Tr[j];
                        if (leaving == k || reach < theta) theta = reach, leaving = j;
                    }
                argmin(theta, leaving);
                Real d = Tr[r];
                const Real vr = v[r];
                sync();
                if (leading(d) < 0.25 * ridge && leaving == k) {
                    d = ridge;
                    if (lane() == 0) T[r * k + r] = d;
                    sync();
                }
                if (leading(d) >= 0.25 * ridge) {
                    const Real full = -vr / d;
                    inside = leaving == k || !(theta < full);
                    if (inside) theta = full;
                }
                xr = xr + theta;
                for (int j = lane(); j < k; j += LANES) {
                    const Real moved = theta * Tr[j];
                    v[j] = free[j] ? v[j] - moved : v[j] + moved;
                    if (j == (inside ? r : leaving)) v[j] = inside ? xr : Real(0.0);
                }
                sync();
                sweep(inside ? r : leaving);
            }
        }
        return false;
    }

    // rho = q(1 - t) - Cx from the data, t = qᵀx (t stands for 0 where A = C); x is v on S. step = A_SS⁻¹ rho on S.
    // Returns rho·step, twice what the objective can still fall on S.
    PCL_DEVICE double residual() {
        const int k = in.k;
        Real t = 0.0, nx = 0.0, tr = 0.0;
        for (int j = lane(); j < k; j += LANES)
            if (free[j]) {
                t = t + v[j] * Real(in.q[j]);
                nx = nx + v[j];
                tr = tr - T[j * k + j];
            }
        norm1 = leading(sum(nx));
        trace = leading(sum(tr));
        const Real rest = in.rank1 ? Real(1.0) - sum(t) : Real(1.0);
        for (int j = lane(); j < k; j += LANES) {
            Real r = Real(in.q[j]) * rest;
            for (int i = 0; i < k; ++i)
                if (free[i]) r = r - v[i] * Real(in.C[i * k + j]);
            rho[j] = r;
        }
        sync();
        Real fall = 0.0;
        for (int j = lane(); j < k; j += LANES) {
            Real s = 0.0;
            for (int i = 0; i < k; ++i)
                if (free[i]) s = s - rho[i] * T[i * k + j];
            step[j] = s;
            if (free[j]) fall = fall + s * rho[j];
        }
        return leading(sum(fall));
    }

    PCL_DEVICE void apply() {
        for (int j = lane(); j < in.k; j += LANES)
            if (free[j]) v[j] = v[j] + step[j];
        sync();
    }

    PCL_DEVICE void set(int i, Real a) {
        sync();
        if (lane() == 0) v[i] = a;
        sync();
    }
};

// Leaves x in v on S, the multipliers in v on N; false where the answer cannot be vouched for.
PCL_DEVICE bool solve(Solver<double>& s) {
    const Problem& in = s.in;
    const double tolerance = 0.5 * in.eps;
    double tol_w = 2 * in.eps;
    for (int round = 0; round < 8; ++round) {
        if (!s.pivot(6 * in.k + 20, [&](double w, double) { return w < -tol_w; })) return false;
        bool small = false;
        for (int n = 0; n < 6 && !small; ++n) {
            const double fall = s.residual();
            small = n > 0 && fabs(fall) <= tolerance;
            if (!small) s.apply();
        }
        // what rounding in the residual itself could hide
        const double size = fmax(1.0, s.norm1), unseen = DBL_EPSILON * size;
        if (!small || !(in.k * unseen * unseen * s.trace <= tolerance)) return false;
        tol_w = 2 * in.eps * size;
        bool done = true;
        for (int i = 0; i < in.k; ++i) {
            const bool is_free = s.free[i];
            const double x = is_free ? s.v[i] : -s.rho[i];
            if (is_free && x >= 0) continue;
            done = done && x >= -tol_w;
            s.set(i, is_free ? 0.0 : x);
            if (is_free) s.sweep(i);
        }
        if (done) return true;
    }
    return false;
}

// The same in double-double arithmetic; false where no minimiser was reached.
PCL_DEVICE bool solve(Solver<DoubleDouble>& s) {
    const Problem& in = s.in;
    const double tolerance = 1e-19;  // of the objective; the best single task is about 1
    // a multiplier below zero matters by what entering would gain, w²/2T_ii
    const auto matters = [&](DoubleDouble w, DoubleDouble d) {
        return w.hi < 0 && w.hi * w.hi > tolerance * fmax(d.hi, s.ridge);
    };
    for (int round = 0; round < 20; ++round) {
        if (!s.pivot(20 * in.k + 50, matters)) return false;
        bool again = true;
        for (int n = 0; n < 200 && again; ++n) {
            again = s.residual() > tolerance;
            if (again) s.apply();
            for (int i = 0; i < in.k; ++i) {
                if (!s.free[i] || !(s.v[i].hi < 0)) continue;
                s.sweep(i);
                s.set(i, 0.0);
                again = true;
            }
        }
        if (again) return false;
        for (int i = 0; i < in.k; ++i)
            if (!s.free[i]) s.set(i, -s.rho[i]);
        bool done = true;
        for (int i = 0; i < in.k; ++i) done = done && (s.free[i] || !matters(s.v[i], s.T[i * in.k + i]));
        if (done) return true;
    }
    return false;
}

// The careful second attempt: x [k] from `memory` for a Solver<DoubleDouble>.
PCL_DEVICE bool solve_exactly(const Problem& in, DoubleDouble* memory, int* free, double* x, int& pivots) {
    Solver<DoubleDouble> s(in, DBL_EPSILON / 2, memory, free);
    const bool solved = solve(s);
    for (int j = lane(); j < in.k; j += LANES) x[j] = free[j] ? fmax(s.v[j].hi, 0.0) : 0.0;
    sync();
    pivots += s.sweeps;
    return solved;
}

// x [k] from `memory` for a Solver<double>, or from `exact_memory` for a Solver<DoubleDouble>.
PCL_DEVICE bool minimise(const Problem& in, double* memory, DoubleDouble* exact_memory, int* free, double* x,
                         int& pivots) {
    Solver<double> s(in, 4 * in.eps, memory, free);
    const bool solved = solve(s);
    for (int j = lane(); j < in.k; j += LANES) x[j] = free[j] ? s.v[j] : 0.0;
    sync();
    pivots = s.sweeps;
    // More digits than the input has would be spent on its rounding.
    if (solved || in.eps > DBL_EPSILON) return solved;
    return solve_exactly(in, exact_memory, free, x, pivots);
}

}  // namespace pcl::warp
