// Small symmetric positive (semi)definite systems on a warp. Matrices are [k, k] by rows; lanes own columns.
#pragma once

#include "warp.cuh"

namespace PCL_WARP_NAMESPACE {

// Solves Ax = u for a positive definite A by elimination (LDLᵀ); x takes the place of u, the factors that of A. Returns
// uᵀA⁻¹u, or NaN where A is not positive definite.
PCL_DEVICE double solve_definite(double* A, int k, double* u) {
    double form = 0;
    for (int p = 0; p < k; ++p) {
        const double* const Ap = A + p * k;
        const double pivot = Ap[p], up = u[p];
        if (!(pivot > 0)) return NAN;
        form += up / pivot * up;
        for (int i = p + 1; i < k; ++i) {
            const double factor = Ap[i] / pivot;
            for (int j = i + lane(); j < k; j += LANES) A[i * k + j] -= factor * Ap[j];
        }
        for (int j = p + 1 + lane(); j < k; j += LANES) u[j] -= Ap[j] / pivot * up;
        sync();
    }
    for (int p = k - 1; p >= 0; --p) {
        const double up = u[p] / A[p * k + p];
        sync();
        for (int i = lane(); i <= p; i += LANES) u[i] = i == p ? up : u[i] - A[i * k + p] * up;
        sync();
    }
    return form;
}

// The pseudoinverse of a positive semidefinite C, applied to vectors.
//
// Pivots on the largest diagonal entry turn C into the tableau that csrc/qp_core.hpp describes, until no more than
// `cutoff` times the largest diagonal entry is left of any other: S are the rows that make out the range of C,
// N those that are combinations F = C_SS⁻¹C_SN of them. Then, with Z = [1 F] and M = ZZᵀ,
//
//     C⁺ = Zᵀ M⁻¹ C_SS⁻¹ M⁻¹ Z,
//
// in which only C_SS⁻¹, which is -T_SS, suffers from the condition of C.
struct PseudoInverse {
    const int k;
    double *const T, *const M, *const u, *const x;  // [k, k], [k, k], [k], [k]; T comes in as C
    int *const free, *const s;                      // [k] 1 on S; [k] the members of S
    int rank = 0;

    static constexpr PCL_BOTH long doubles(long k) { return k * k + 2 * k; }

    // `memory` is room for doubles(k), `ints` for 2k.
    PCL_DEVICE PseudoInverse(double* C, int k, double cutoff, double* memory, int* ints)
        : k(k), T(C), M(memory), u(M + k * k), x(u + k), free(ints), s(ints + k) {
        for (int j = lane(); j < k; j += LANES) free[j] = 0;
        sync();
        double least = 0;
        for (int p; (p = next(least)) < k; ++rank) {
            if (rank == 0) least = cutoff * T[p * k + p];
            sweep(p);
        }
        int n = 0;
        for (int i = 0; i < k; ++i)
            if (free[i]) {
                if (lane() == 0) s[n] = i;
                ++n;
            }
        sync();
    }

    // out = C⁺b, twice refined with the C that was. `scratch` is room for k doubles; out may not be b.
    PCL_DEVICE void solve(const double* C, const double* b, double* out, double* scratch) {
        times(b, out);
        for (int round = 0; round < 2; ++round) {
            for (int j = lane(); j < k; j += LANES) {
                double r = b[j];
                for (int i = 0; i < k; ++i) r -= C[i * k + j] * out[i];
                scratch[j] = r;
            }
            sync();
            times(scratch, scratch);
            for (int j = lane(); j < k; j += LANES) out[j] += scratch[j];
            sync();
        }
    }

  private:
    // The largest diagonal entry off S above `least`; k where there is none.
    PCL_DEVICE int next(double least) const {
        double smallest = INFINITY;
        int p = k;
        for (int j = lane(); j < k; j += LANES)
            if (!free[j] && T[j * k + j] > least && -T[j * k + j] < smallest) smallest = -T[j * k + j], p = j;
        argmin(smallest, p);
        return p;
    }

    PCL_DEVICE void sweep(int p) {
        double* const Tp = T + p * k;
        const double inverse = 1.0 / Tp[p];
        for (int i = 0; i < k; ++i) {
            if (i == p) continue;
            const double factor = Tp[i] * inverse;
            for (int j = lane(); j < k; j += LANES)
                T[i * k + j] = j == p ? factor : T[i * k + j] - factor * Tp[j];
        }
        sync();
        for (int j = lane(); j < k; j += LANES) {
            Tp[j] = j == p ? -inverse : Tp[j] * inverse;
            if (j == p) free[p] = 1;
        }
        sync();
    }

    // out = C⁺b for b in any memory all lanes see; out may be b.
    PCL_DEVICE void times(const double* b, double* out) {
        for (int m = lane(); m < rank; m += LANES) {
            double sum = b[s[m]];
            for (int j = 0; j < k && rank < k; ++j)
                if (!free[j]) sum += T[j * k + s[m]] * b[j];
            u[m] = sum;
        }
        sync();
        solve_with_M();
        for (int m = lane(); m < rank; m += LANES) {
            double sum = 0;
            for (int l = 0; l < rank; ++l) sum -= T[s[l] * k + s[m]] * u[l];
            x[m] = sum;
        }
        sync();
        for (int m = lane(); m < rank; m += LANES) u[m] = x[m];
        sync();
        solve_with_M();
        for (int m = lane(); m < rank; m += LANES) out[s[m]] = u[m];
        for (int j = lane(); j < k; j += LANES) {
            if (free[j]) continue;
            double sum = 0;
            for (int m = 0; m < rank; ++m) sum += T[s[m] * k + j] * u[m];
            out[j] = sum;
        }
        sync();
    }

    // u = M⁻¹u; M is 1 where S is everything.
    PCL_DEVICE void solve_with_M() {
        if (rank == k) return;
        for (int m = 0; m < rank; ++m)
            for (int l = lane(); l < rank; l += LANES) {
                double sum = l == m;
                for (int j = 0; j < k; ++j)
                    if (!free[j]) sum += T[j * k + s[m]] * T[j * k + s[l]];
                M[m * rank + l] = sum;
            }
        sync();
        solve_definite(M, rank, u);
    }
};

}  // namespace PCL_WARP_NAMESPACE
