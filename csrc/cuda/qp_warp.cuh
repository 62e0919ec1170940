// The active set solvers of csrc/qp_core.hpp and csrc/qp_exact.cpp on one warp,
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

namespace PCL_WARP_NAMESPACE {

struct Problem {
    const double* C;  // [k, k], symmetric, diagonal in [1, 4)
    const double* q_;  // [k], null for ones
    int k;
    bool rank1;        // A = C + qqᵀ instead of A = C
    double eps;        // relative precision of the entries of C
    double tolerance;  // of the objective, whose best single task is about 1

    PCL_DEVICE double q(int i) const { return q_ ? q_[i] : 1.0; }
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
    double t = 0, norm1 = 0, trace = 0, largest_residual = 0;
    int sweeps = 0;

    PCL_DEVICE Solver(const Problem& problem, double ridge, Real* memory, int* free)
        : in(problem), T(memory), v(T + problem.k * problem.k), rho(v + problem.k), step(rho + problem.k), free(free),
          ridge(ridge) {
        for (int at = lane(); at < in.k * in.k; at += LANES) {
            const int i = at / in.k, j = at % in.k;
            Real a = in.C[at];
            if (in.rank1) a = a + product(in.q(i), in.q(j), Real());
            T[at] = i == j ? a + Real(ridge) : a;
        }
        for (int j = lane(); j < in.k; j += LANES) {
            v[j] = -in.q(j);
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

    // The variable of S that reaches zero first when r grows (k: none), and how far r may grow until then.
    PCL_DEVICE int first_to_leave(int r, Real& way) const {
        const Real* Tr = T + r * in.k;
        int leaving = in.k;
        way = INFINITY;
        for (int j = lane(); j < in.k; j += LANES)
            if (free[j] && Real(0.0) < Tr[j]) {
                const Real reach = v[j] / Tr[j];
                if (leaving == in.k || reach < way) way = reach, leaving = j;
            }
        argmin(way, leaving);
        return leaving;
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
                Real theta;
                const int leaving = first_to_leave(r, theta);
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
                if (!inside && leaving == k) return false;  // NaN: the tableau has broken down
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
        Real tv = 0.0, nx = 0.0, tr = 0.0;
        for (int j = lane(); j < k; j += LANES)
            if (free[j]) {
                tv = tv + v[j] * Real(in.q(j));
                nx = nx + v[j];
                tr = tr - T[j * k + j];
            }
        norm1 = leading(sum(nx));
        trace = leading(sum(tr));
        tv = in.rank1 ? sum(tv) : Real(0.0);
        t = leading(tv);
        double largest = 0;
        for (int j = lane(); j < k; j += LANES) {
            Real r = Real(in.q(j)) * (Real(1.0) - tv);
            for (int i = 0; i < k; ++i)
                if (free[i]) r = r - v[i] * Real(in.C[i * k + j]);
            rho[j] = r;
            if (free[j]) largest = fmax(largest, fabs(leading(r)));
        }
        sync();
        largest_residual = max(largest);
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

// What qp_core.hpp explains under the same name.
PCL_DEVICE bool gain_in_doubt(const Solver<double>& s, double scale) {
    const Problem& in = s.in;
    const double noise = DBL_EPSILON * scale;
    if (!in.rank1 || in.eps > DBL_EPSILON || 1.0 - s.t <= DBL_EPSILON) return false;
    for (int i = 0; i < in.k; ++i) {
        double way;
        if (!s.free[i] && s.v[i] < noise) {
            s.first_to_leave(i, way);
            const double loss = fmin(s.v[i], 0.0) - noise;
            if (-loss * fmin(way, 1.0 / in.q(i)) > 5 * noise) return true;
        }
        const double inverse = s.free[i] ? -s.T[i * in.k + i] : 0.0;
        if (inverse * s.ridge > 1e-3) {
            double qn = 0;
            for (int j = lane(); j < in.k; j += LANES) qn += s.free[j] ? in.q(j) * s.T[i * in.k + j] : 0.0;
            qn = sum(qn);
            s.first_to_leave(i, way);
            if (fmin(way, 1.0 / fabs(qn)) * inverse > 5) return true;
        }
    }
    return false;
}

// Variables that corrections pushed below zero leave S. True where one was below by more than rounding.
PCL_DEVICE bool drop_negative(Solver<double>& s, double tol_w) {
    bool again = false;
    for (int i = 0; i < s.in.k; ++i) {
        const double x = s.v[i];
        if (!s.free[i] || x >= 0) continue;
        again = again || x < -tol_w;
        s.set(i, 0.0);
        s.sweep(i);
    }
    return again;
}

// Leaves x in v on S, the multipliers in v on N. True where it is the minimiser; false where double precision cannot
// vouch for it.
PCL_DEVICE bool solve(Solver<double>& s) {
    const Problem& in = s.in;
    double tol_w = 2 * in.eps;
    const auto pivot = [&] { return s.pivot(6 * in.k + 20, [&](double w, double) { return w < -tol_w; }); };
    bool stationary = pivot();
    for (int round = 0; round < 12 && stationary; ++round) {
        stationary = false;
        double scale = 1;
        for (int n = 0; n < 6 && !stationary; ++n) {
            const double fall = s.residual();
            scale = fmax(1.0, s.norm1);
            stationary = n > 0 && fabs(fall) <= in.tolerance && s.largest_residual <= 8 * in.eps * scale;
            if (!stationary) s.apply();
        }
        // What rounding in the residual itself could hide, from the objective and from the multipliers.
        const double unseen = DBL_EPSILON * scale;
        if (!(unseen * unseen * s.trace <= 16 * in.tolerance && unseen <= 256 * in.eps)) return false;
        tol_w = 2 * in.eps * scale;
        if (drop_negative(s, tol_w)) continue;
        bool optimal = true;
        for (int i = 0; i < in.k; ++i)
            if (!s.free[i]) {
                s.set(i, -s.rho[i]);
                optimal = optimal && !(s.v[i] < -tol_w);
            }
        if (optimal) return stationary && !gain_in_doubt(s, scale) && !(s.t - 1.0 > 64 * in.eps * scale * scale);
        stationary = pivot();
    }
    return false;
}

// The same in double-double arithmetic; false where no minimiser was reached.
PCL_DEVICE bool solve(Solver<DoubleDouble>& s) {
    const Problem& in = s.in;
    // a multiplier below zero matters by what entering would gain, w²/2T_ii
    const auto matters = [&](DoubleDouble w, DoubleDouble d) {
        return w.hi < 0 && w.hi * w.hi > in.tolerance * fmax(d.hi, s.ridge);
    };
    for (int round = 0; round < 20; ++round) {
        if (!s.pivot(20 * in.k + 50, matters)) return false;
        bool again = true;
        for (int n = 0; n < 200 && again; ++n) {
            const double fall = s.residual();
            if (fall < -1e-9) return false;  // an indefinite C: the objective falls for ever
            again = fall > in.tolerance;
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
PCL_DEVICE bool solve_in_double_doubles(const Problem& in, double ridge, DoubleDouble* memory, int* free, double* x,
                                        double least, int& pivots) {
    Solver<DoubleDouble> s(in, ridge, memory, free);
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

}  // namespace PCL_WARP_NAMESPACE
