// The Gramian of the gradients δᵀ a of a linear layer, over k blocks of rows that follow one another, from products of
// rows, so that no gradient is ever formed:
//
//     G_ij = Σ_{b in block i} Σ_{c in block j} (a_b · a_c + bias) (δ_b · δ_c),    bias 1 or 0.
//
// Everything is added up in double, every product of two rows in one order, whatever the number of threads.
#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "ghost_gramian.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

constexpr int kTile = kRegisters == 32 ? 4 : 2;  // rows by rows, whose sums stay in registers
constexpr Size kColumns = 1024;                  // at once: those of a hundred rows stay in the second-level cache

template <class T>
inline void tile(Size columns, const T* const* x, const T* const* y, double (*to)[kTile]) {
    Vec sum[kTile][kTile] = {};
    Size i = 0;
    for (; i + kWidth <= columns; i += kWidth) {
        Vec b[kTile];
        for (int c = 0; c < kTile; ++c) b[c] = widen_vec(y[c] + i);
        for (int r = 0; r < kTile; ++r) {
            const Vec a = widen_vec(x[r] + i);
            for (int c = 0; c < kTile; ++c) sum[r][c] += a * b[c];
        }
    }
    for (int r = 0; r < kTile; ++r)
        for (int c = 0; c < kTile; ++c) {
            for (Size j = i; j < columns; ++j) to[r][c] += widen(x[r][j]) * widen(y[c][j]);
            for (int lane = 0; lane < kWidth; ++lane) to[r][c] += sum[r][c][lane];
        }
}

// products[b * rows + c] = x_b · x_c for b <= c; rows of x are `step` elements apart
template <class T>
void products_of_rows(Size rows, Size columns, const T* x, Size step, double* products, int threads) {
    const Size tiles = (rows + kTile - 1) / kTile;
    std::fill_n(products, rows * rows, 0.0);
    for (Size first = 0; first < columns; first += kColumns) {
        const Size here = std::min(kColumns, columns - first);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
        for (Size t = 0; t < tiles; ++t)
            for (Size u = t; u < tiles; ++u) {
                const T *of_t[kTile], *of_u[kTile];
                for (int r = 0; r < kTile; ++r) {  // a row behind the last is the last once more
                    of_t[r] = x + std::min(t * kTile + r, rows - 1) * step + first;
                    of_u[r] = x + std::min(u * kTile + r, rows - 1) * step + first;
                }
                double found[kTile][kTile] = {};
                tile(here, of_t, of_u, found);
                for (Size b = t * kTile; b < std::min(rows, (t + 1) * kTile); ++b)
                    for (Size c = std::max(b, u * kTile); c < std::min(rows, (u + 1) * kTile); ++c)
                        products[b * rows + c] += found[b - t * kTile][c - u * kTile];
            }
    }
}

void ghost_gramian(const std::vector<Size>& blocks, const RowsOf& a, const RowsOf& delta, double bias, double* gram,
                   int threads) {
    const Size k = static_cast<Size>(blocks.size());
    std::vector<Size> block_of;
    for (Size i = 0; i < k; ++i) block_of.insert(block_of.end(), blocks[i], i);
    const Size rows = static_cast<Size>(block_of.size());
    std::vector<double> of_a(rows * rows), of_delta(rows * rows);
    for (const auto& [of, to] : {std::pair{&a, of_a.data()}, std::pair{&delta, of_delta.data()}})
        with_type(of->dtype, [&, of = of, to = to](auto* null) {
            products_of_rows(rows, of->columns, static_cast<decltype(null)>(const_cast<void*>(of->at)), of->step, to,
                             threads);
        });
    std::fill_n(gram, k * k, 0.0);
    for (Size b = 0; b < rows; ++b)
        for (Size c = b; c < rows; ++c) {
            const double product = (of_a[b * rows + c] + bias) * of_delta[b * rows + c];
            const Size i = block_of[b], j = block_of[c];
            gram[i * k + j] += i == j && b != c ? 2 * product : product;
        }
    for (Size i = 0; i < k; ++i)
        for (Size j = 0; j < i; ++j) gram[i * k + j] = gram[j * k + i];
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

PCL_EVERY_ISA(void ghost_gramian(const std::vector<Size>& blocks, const RowsOf& a, const RowsOf& delta, double bias,
                                 double* gram, int threads);)

namespace pcl {
namespace {

using Rows = std::tuple<std::uintptr_t, int, Size, Size>;  // address, dtype, columns, step

RowsOf rows_of(const Rows& rows) {
    const auto& [at, dtype, columns, step] = rows;
    return {reinterpret_cast<const void*>(at), dtype, columns, step};
}

}  // namespace

void register_ghost_gramian(nanobind::module_& m) {
    m.def("ghost_gramian", [](const std::vector<Size>& blocks, const Rows& a, const Rows& delta, double bias,
                              std::uintptr_t gram, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(ghost_gramian)(blocks, rows_of(a), rows_of(delta), bias, reinterpret_cast<double*>(gram), threads);
    });
}

}  // namespace pcl
#endif
