// The α > 0 with Gα = 1/α (Nash-MTL), the minimiser of 1/2 αᵀGα - Σ log α_i; one problem on one warp, which on the
// processor has one lane (csrc/nash_mtl.cpp).
//
// Scaled to about unit diagonal the problem keeps its form. The function is self-concordant, so Newton with the step
// 1/(1 + λ), λ its decrement, converges from anywhere, and quadratically once λ < 1/4. At a stationary point (zero in
// the convex hull of the gradients) it has no minimum and α runs away.
#pragma once

#include "gramian.cuh"
#include "linear.cuh"

namespace PCL_WARP_NAMESPACE {

struct NashBatch {
    Gramians in;
    double* alpha;  // [batch, k]
    SystemInfo info;
};

// Doubles per warp in fast memory and in global memory.
struct NashMemory {
    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? k * k : 0) + 3 * k; }
    static constexpr PCL_BOTH long global(long k) { return 2 * k * k; }
};

// The Newton step in relative terms, (XCX + 1)u = 1 - XCx with X = diag(x), where the matrix has eigenvalues of at
// least 1. Takes x by t·Xu further and returns the decrement; NaN where C is not positive semidefinite.
PCL_DEVICE double newton_step(const double* C, int k, double* A, double* x, double* u) {
    for (int i = lane(); i < k; i += LANES) u[i] = 1.0 - x[i] * row_times(C, k, i, x);
    for (int i = 0; i < k; ++i)
        for (int j = lane(); j < k; j += LANES) A[i * k + j] = x[i] * C[i * k + j] * x[j] + (i == j);
    sync();
    const double decrement = sqrt(solve_definite(A, k, u));
    const double t = decrement < 0.25 ? 1.0 : 1.0 / (1.0 + decrement);
    for (int i = lane(); i < k; i += LANES) x[i] += t * x[i] * u[i];
    sync();
    return decrement;
}

PCL_DEVICE Status newton(const double* C, int k, double eps, double* A, double* x, double* u) {
    fill(x, k, 1.0 / sqrt(double(k)));
    // xᵀCx = k at the solution, so an x this long cancels to within the rounding of C
    const double runaway = sqrt(k / (64 * eps));
    double before = INFINITY;
    for (int n = 0; n < 500; ++n) {
        const double decrement = newton_step(C, k, A, x, u);
        double longest = 0;
        for (int i = lane(); i < k; i += LANES) longest = fmax(longest, x[i]);
        if (!(decrement >= 0) || max(longest) > runaway) return Status::no_solution;
        if (decrement < 1e-9) return Status::solved;  // the step just taken has squared it
        // from below 1/4 a full step leaves less than (λ/(1 - λ))² < λ/2; only rounding keeps it from that
        if (before < 0.25 && decrement > 0.5 * before) return Status::solved;
        before = decrement;
    }
    return Status::no_solution;
}

PCL_DEVICE Status answer(const NashBatch& all, long n, double residual, Status status) {
    sync();
    if (lane() == 0 && all.info.residual) {
        all.info.residual[n] = residual;
        all.info.status[n] = int(status == Status::negative_diagonal ? Status::not_finite : status);
    }
    return status;
}

// Problem n of the batch; `fast` and `global` as many doubles as NashMemory says, of this warp alone.
PCL_DEVICE Status nash_mtl(const NashBatch& all, long n, double* fast, double* global) {
    const int k = all.in.k;
    double* const alpha = all.alpha + n * k;
    Room near{fast}, far{global};
    double *const x = near.doubles(k), *const u = near.doubles(k);
    int* const e = near.ints(k);
    double *const C = far.doubles(k * k), *const A = k <= largest_fast ? near.next : far.next;

    Status status = scale_gramian(all.in, n, C, e, u);
    if (!refused(status)) status = newton(C, k, all.in.eps(), A, x, u);
    if (status != Status::solved) {
        fill(alpha, k, NAN);
        return answer(all, n, NAN, status);
    }
    double residual = 0;
    for (int i = lane(); i < k; i += LANES) {
        alpha[i] = x[i] * pow2(e[i]);
        residual = fmax(residual, fabs(x[i] * row_times(C, k, i, x) - 1.0));
    }
    return answer(all, n, max(residual), status);
}

}  // namespace PCL_WARP_NAMESPACE
