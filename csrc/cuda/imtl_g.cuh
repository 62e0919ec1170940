// The α, Σα = 1, for which Σ α_i g_i has the same projection on every unit gradient (IMTL-G); one problem on one warp,
// which on the processor has one lane (csrc/imtl_g.cpp). With N = diag(‖g_i‖) and the cosines C = N⁻¹GN⁻¹ it
// is N⁻¹C⁺1 over its sum.
#pragma once

#include "gramian.cuh"
#include "linear.cuh"

namespace PCL_WARP_NAMESPACE {

struct ImtlBatch {
    Gramians in;
    double* alpha;  // [batch, k]
    SystemInfo info;
};

// Doubles per warp in fast memory and in global memory.
struct ImtlMemory {
    static constexpr PCL_BOTH long fast(long k) { return (k <= largest_fast ? k * k : 0) + 7 * k; }
    static constexpr PCL_BOTH long global(long k) { return 2 * k * k + PseudoInverse::doubles(k); }
};

PCL_DEVICE Status answer(const ImtlBatch& all, long n, double residual, Status status) {
    const int k = all.in.k;
    if (refused(status) || status == Status::no_solution) fill(all.alpha + n * k, k, NAN);
    sync();
    if (lane() == 0 && all.info.residual) {
        all.info.residual[n] = residual;
        all.info.status[n] = int(status == Status::negative_diagonal ? Status::not_finite : status);
    }
    return status;
}

// Problem n of the batch; `fast` and `global` as many doubles as ImtlMemory says, of this warp alone.
PCL_DEVICE Status imtl_g(const ImtlBatch& all, long n, double* fast, double* global) {
    const int k = all.in.k;
    double* const alpha = all.alpha + n * k;
    Room near{fast}, far{global};
    double *const y = near.doubles(k), *const norm = near.doubles(k), *const one = near.doubles(k);
    double* const scratch = near.doubles(k);
    int *const e = near.ints(k), *const ints = near.ints(2 * k);
    double* const C = far.doubles(k * k);
    double* const T = k <= largest_fast ? near.next : far.doubles(k * k);

    const Status status = scale_gramian(all.in, n, C, e, y);
    if (refused(status)) return answer(all, n, NAN, status);
    double nonzero = 0, largest = -5000;
    for (int i = lane(); i < k; i += LANES) {
        norm[i] = sqrt(C[i * k + i]);
        one[i] = norm[i] > 0;
        nonzero += one[i];
        if (one[i] > 0) largest = fmax(largest, double(e[i]));
    }
    nonzero = sum(nonzero);
    const int E = int(max(largest));  // of the shortest gradient, which has the largest weight
    if (nonzero == 0) {  // no gradient, no projection: any α will do
        fill(all.alpha + n * k, k, 1.0 / k);
        return answer(all, n, 0.0, Status::solved);
    }
    sync();
    for (int i = 0; i < k; ++i)
        for (int j = lane(); j < k; j += LANES) {
            const double both = one[i] * one[j];
            C[i * k + j] = T[i * k + j] = i == j ? both : both > 0 ? C[i * k + j] / (norm[i] * norm[j]) : 0.0;
        }
    sync();

    const double noise = 4 * k * all.in.eps();  // what the rounding of the input makes of an eigenvalue 0
    PseudoInverse inverse(T, k, noise, far.next, ints);
    inverse.solve(C, one, y, scratch);

    // y = C⁺1 vanishes where 1 is orthogonal to the range of C, and Σα may for gradients at angles above 90°
    double total = 0, size = 0, length = 0;
    for (int i = lane(); i < k; i += LANES) {
        const double a = one[i] > 0 ? y[i] / norm[i] * pow2(e[i] - E) : 0.0;
        alpha[i] = a;
        total += a;
        size += fabs(a);
        length = fmax(length, fabs(y[i]));
    }
    total = sum(total);
    size = sum(size);
    if (!(max(length) > noise) || !(fabs(total) > noise * size)) return answer(all, n, NAN, Status::no_solution);
    for (int i = lane(); i < k; i += LANES) alpha[i] /= total;

    // The projections are Cy up to a factor.
    double mean = 0, off = 0, terms = 0;
    for (int i = lane(); i < k; i += LANES) {
        scratch[i] = row_times(C, k, i, y);
        mean += scratch[i];
    }
    mean = sum(mean) / nonzero;
    for (int i = lane(); i < k; i += LANES) {
        if (one[i] == 0) continue;
        double magnitude = 0;
        for (int j = 0; j < k; ++j) magnitude += fabs(C[j * k + i] * y[j]);
        off = fmax(off, fabs(scratch[i] - mean));
        terms = fmax(terms, magnitude);
    }
    const double residual = max(off) / max(terms);
    return answer(all, n, residual, residual <= noise ? Status::solved : Status::inexact);
}

}  // namespace PCL_WARP_NAMESPACE
