// Products of small matrices for a perceptron's backward pass, every sum in the order of its terms.
//
// Tiles of C stay in registers while the depth goes by. A product takes some rows of A and some of its columns: those of
// neurons that a ReLU has let through for some sample. What is left out would add zeros: no value is another for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "longhorn_lanes.hpp"

namespace pcl::PCL_ISA {

using Size = std::int64_t;
using Places = std::vector<Size>;

constexpr Size kAhead = 20;                                  // products of a tile for which C is on its way
constexpr int kTall = 6, kWide = kRegisters == 32 ? 4 : 2;  // rows and vectors of a tile

// a b + c, rounded once in every place it stands: left to the compiler, some places would round twice.
inline Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return bits<Floats>(_mm512_fmadd_ps(bits<__m512>(a), bits<__m512>(b), bits<__m512>(c)));
#elif defined(__AVX2__)
    return bits<Floats>(_mm256_fmadd_ps(bits<__m256>(a), bits<__m256>(b), bits<__m256>(c)));
#else
    return a * b + c;
#endif
}

// 0 where gate <= 0; NaN is no such place.
inline Floats gated(Floats x, Floats gate) { return gate <= 0.0f ? Floats{} : x; }

inline Places all(Size count) {
    Places found(count);
    std::iota(found.begin(), found.end(), 0);
    return found;
}

// C = A B, or 0 where gate <= 0, or base - rate A B, in some rows, over some of the depth; A with steps of its own, the
// others row-major with rows of `columns`. Other rows of C stay as they are. C may be the base.
struct Product {
    const Places &rows, &depth;
    Size columns;
    const float* a;
    Size a_row, a_depth;
    const float *b, *gate;
    float* c;
    const float* base = nullptr;
    float rate = 0;
};

// A vector of a tile; in tiles of one vector its first `width` lanes.
template <int wide>
inline Floats part(const float* from, int width) {
    return wide > 1 ? load_lanes(from) : load_part(from, width);
}

template <int tall, int wide>
inline void tile(const Product& p, Size row, Size column, int width) {
    Floats sum[tall][wide] = {};
    const float *a[tall], *const b = p.b + column;
    Size at[tall];
    for (int m = 0; m < tall; ++m) {
        a[m] = p.a + p.rows[row + m] * p.a_row;
        at[m] = p.rows[row + m] * p.columns + column;
    }
    const Size depth = p.depth.size(), soon = depth > kAhead ? depth - kAhead : 0;
    for (Size k = 0; k < depth; ++k) {
        if (k == soon && p.base)
            for (int m = 0; m < tall; ++m)
                for (int v = 0; v < wide; ++v) __builtin_prefetch(p.base + at[m] + v * kFloats);
        const Size from = p.depth[k];
        Floats x[wide];
#pragma GCC unroll 4
        for (int v = 0; v < wide; ++v) x[v] = part<wide>(b + from * p.columns + v * kFloats, width);
#pragma GCC unroll 6
        for (int m = 0; m < tall; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < wide; ++v) sum[m][v] = multiply_add(splat(a[m][from * p.a_depth]), x[v], sum[m][v]);
    }
#pragma GCC unroll 6
    for (int m = 0; m < tall; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < wide; ++v) {
            const Size to = at[m] + v * kFloats;
            Floats z = sum[m][v];
            if (p.gate) z = gated(z, part<wide>(p.gate + to, width));
            if (p.base) z = multiply_add(z, splat(-p.rate), part<wide>(p.base + to, width));
            wide > 1 ? store_lanes(p.c + to, z) : store_part(p.c + to, z, width);
        }
}

template <int wide>
inline void column_of_tiles(const Product& p, Size column, int width) {
    for (Size row = 0, rows = p.rows.size(); row < rows;) {
        const Size left = rows - row, tiles = (left + kTall - 1) / kTall, tall = (left + tiles - 1) / tiles;
        switch (tall) {  // as even as can be
            case 6: tile<6, wide>(p, row, column, width); break;
            case 5: tile<5, wide>(p, row, column, width); break;
            case 4: tile<4, wide>(p, row, column, width); break;
            case 3: tile<3, wide>(p, row, column, width); break;
            case 2: tile<2, wide>(p, row, column, width); break;
            default: tile<1, wide>(p, row, column, width);
        }
        row += tall;
    }
}

constexpr Size kPanel = kWide * kFloats;

inline void multiply(const Product& p, Size panel) {  // a panel of C's columns
    const Size first = panel * kPanel, end = std::min(p.columns, first + kPanel);
    if (end - first == kPanel) return column_of_tiles<kWide>(p, first, kFloats);
    for (Size c = first; c < end; c += kFloats)
        column_of_tiles<1>(p, c, static_cast<int>(std::min<Size>(kFloats, end - c)));
}

inline void multiply(const Product& p, int threads) {
    const Size panels = (p.columns + kPanel - 1) / kPanel;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Size i = 0; i < panels; ++i) multiply(p, i);
}

}  // namespace pcl::PCL_ISA
