// d = Σ_i w_i g_i block by block: the part that combine and the fused updates share.
#pragma once

#include "gradients.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

constexpr std::int64_t kBlock = 512;  // columns whose sums stay in the first-level cache as doubles

constexpr int kRows = 8;                 // gradients read side by side
constexpr std::int64_t kStrip = 64;      // columns between two fetches of what the next block will read

// sum[c] (+)= w[0] row[0][c] + w[1] row[1][c] + ..., in this order.
template <class T, int Rows, bool First>
void add_rows(const T* const* row, const double* w, std::int64_t n, double* __restrict sum) {
    for (std::int64_t start = 0; start < n; start += kStrip) {
        for (int r = 0; r < Rows; ++r)
            for (std::size_t byte = 0; byte < kStrip * sizeof(T); byte += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(row[r] + start + kBlock) + byte);
        const std::int64_t end = std::min(n, start + kStrip);
        for (std::int64_t c = start; c < end; ++c) {
            double s = First ? w[0] * widen(row[0][c]) : sum[c];
#pragma GCC unroll 8
            for (int r = First ? 1 : 0; r < Rows; ++r) s += w[r] * widen(row[r][c]);
            sum[c] = s;
        }
    }
}

template <class T, int Rows = kRows>
void add_rows(const T* const* row, const double* w, int rows, bool first, std::int64_t n, double* sum) {
    if constexpr (Rows > 1) {
        if (rows < Rows) return add_rows<T, Rows - 1>(row, w, rows, first, n, sum);
    }
    first ? add_rows<T, Rows, true>(row, w, n, sum) : add_rows<T, Rows, false>(row, w, n, sum);
}

// sum[0 .. piece.size) = Σ_i w_i g_i over one piece of at most kBlock columns.
template <class T>
void combine_piece(const Gradients& g, const double* weights, const Piece& piece, double* sum) {
    const T* row[kRows];
    double w[kRows];
    int rows = 0;
    bool first = true;
    for (int i = 0; i < g.tasks; ++i) {
        const std::uintptr_t address = g.address[piece.parameter * g.tasks + i];
        if (address) {
            row[rows] = reinterpret_cast<const T*>(address) + piece.offset;
            w[rows++] = weights[i];
        }
        if (rows == kRows || (rows && i + 1 == g.tasks)) {
            add_rows<T>(row, w, rows, first, piece.size, sum);
            rows = 0;
            first = false;
        }
    }
    if (first) std::fill_n(sum, piece.size, 0.0);
}

// Calls visit(piece, sum) for every block of every parameter; sum is the combined gradient there, as doubles.
template <class Visit>
void for_each_combined_block(const Gradients& g, const double* weights, int threads, Visit&& visit) {
    constexpr std::int64_t chunk = 16 * kBlock;
    const std::int64_t chunks = (g.columns() + chunk - 1) / chunk;
    threads = static_cast<int>(std::min<std::int64_t>(threads, chunks));
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t c = 0; c < chunks; ++c) {
        alignas(64) double sum[kBlock];
        const std::int64_t end = std::min(g.columns(), (c + 1) * chunk);
        for (std::int64_t lo = c * chunk; lo < end; lo += kBlock) {
            Piece piece;
            for (Pieces pieces(g, lo, std::min(end, lo + kBlock)); pieces.next(piece);)
                with_type(g.dtype[piece.parameter], [&](auto* type) {
                    using T = std::remove_pointer_t<decltype(type)>;
                    combine_piece<T>(g, weights, piece, sum);
                    visit(piece, type, sum);
                });
        }
    }
}

}  // namespace pcl::PCL_ISA
