// G = J Jᵀ for k task gradients that lie anywhere in memory, in one pass over their bytes.
//
// Columns are cut into chunks, chunks into blocks. The block's k rows are widened to doubles and packed into
// panels of kTile rows that stay in cache; register tiles then multiply panel by panel, the lower half only.
// Every pair (i, j) sums in eight lanes over its chunk; the chunks' sums are added up pairwise. Products of
// float32, float16 and bfloat16 are exact in double, and no chain of additions is long. The cut depends on k and m
// alone, so the result has the same bits for any number of threads and on every instruction set with FMA.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "gradients.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {
namespace {

constexpr int kTile = kRegisters == 32 ? 5 : 3;  // kTile² sums and two operands' rows in registers

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<double[], Free>;

Buffer allocate(std::int64_t doubles) {
    return Buffer(static_cast<double*>(std::aligned_alloc(64, (doubles * 8 + 63) / 64 * 64)));
}

// sums[i][j][lane] += Σ_group a[group][i][lane] b[group][j][lane]; where Diagonal, b is a and j <= i.
template <int Rows, int Columns, bool Diagonal>
void multiply(const double* a, const double* b, std::int64_t groups, double* sums) {
    for (int part = 0; part < kLanes; part += kWidth) {
        Vec sum[Rows][Columns];
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < Columns; ++j)
                if (!Diagonal || j <= i)
                    sum[i][j] = *reinterpret_cast<const Vec*>(sums + (i * Columns + j) * kLanes + part);
        const double *pa = a + part, *pb = b + part;
        for (std::int64_t group = 0; group < groups; ++group, pa += Rows * kLanes, pb += Columns * kLanes) {
            Vec x[Rows];
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i) x[i] = *reinterpret_cast<const Vec*>(pa + i * kLanes);
#pragma GCC unroll 8
            for (int j = 0; j < Columns; ++j) {
                const Vec y = Diagonal ? x[j < Rows ? j : 0] : *reinterpret_cast<const Vec*>(pb + j * kLanes);
#pragma GCC unroll 8
                for (int i = 0; i < Rows; ++i)
                    if (!Diagonal || j <= i) sum[i][j] += x[i] * y;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < Columns; ++j)
                if (!Diagonal || j <= i)
                    *reinterpret_cast<Vec*>(sums + (i * Columns + j) * kLanes + part) = sum[i][j];
    }
}

using Multiply = void (*)(const double*, const double*, std::int64_t, double*);

// The tile for the last panel's `rows`, 1 .. kTile, against a full panel or against itself.
template <int Rows = kTile>
Multiply tile(int rows, bool diagonal) {
    if constexpr (Rows > 1) {
        if (rows < Rows) return tile<Rows - 1>(rows, diagonal);
    }
    return diagonal ? &multiply<Rows, Rows, true> : &multiply<Rows, kTile, false>;
}

// The k x k lower half as a list of tiles, and where each keeps its sums.
struct Tile {
    int i, j;    // first row, first column
    int rows, columns;
    std::int64_t at;  // first of its rows * columns sums
    Multiply multiply;
};

std::vector<Tile> tiles_of(int k) {
    std::vector<Tile> tiles;
    std::int64_t at = 0;
    for (int i = 0; i < k; i += kTile)
        for (int j = 0; j <= i; j += kTile) {
            const int rows = std::min(kTile, k - i), columns = i == j ? rows : kTile;
            tiles.push_back({i, j, rows, columns, at, tile(rows, i == j)});
            at += rows * columns;
        }
    return tiles;
}

// n elements of one row into lanes: element c goes to to[c / 8 * stride + c % 8], counted from column `at`.
template <class T>
void pack(const T* from, std::int64_t n, double* to, std::int64_t at, std::int64_t stride) {
    std::int64_t c = 0;
    auto place = [&](std::int64_t column) { return to + column / kLanes * stride + column % kLanes; };
    for (; c < n && (at + c) % kLanes; ++c) *place(at + c) = from ? widen(from[c]) : 0.0;
    double* group = place(at + c);
    if (from)
        for (; c + kLanes <= n; c += kLanes, group += stride) widen_lanes(from + c, group);
    else
        for (; c + kLanes <= n; c += kLanes, group += stride) std::memset(group, 0, kLanes * sizeof(double));
    for (; c < n; ++c) *place(at + c) = from ? widen(from[c]) : 0.0;
}

// One block's rows as doubles, in panels of kTile rows.
class Block {
public:
    Block(const Gradients& g, std::int64_t capacity)
        : g_(g), capacity_(capacity), data_(allocate(capacity * g.tasks)) {}

    // Packs columns [lo, hi) and returns the number of groups of eight, the last filled up with zeros.
    std::int64_t fill(std::int64_t lo, std::int64_t hi) {
        const std::int64_t groups = (hi - lo + kLanes - 1) / kLanes;
        Piece piece;
        for (Pieces pieces(g_, lo, hi); pieces.next(piece);)
            for (int i = 0; i < g_.tasks; ++i) {
                const std::uintptr_t address = g_.address[piece.parameter * g_.tasks + i];
                with_type(g_.dtype[piece.parameter], [&](auto* type) {
                    using T = std::remove_pointer_t<decltype(type)>;
                    const T* from = address ? reinterpret_cast<const T*>(address) + piece.offset : nullptr;
                    pack(from, piece.size, row(i), piece.at, stride(i));
                });
            }
        if (const std::int64_t rest = groups * kLanes - (hi - lo))
            for (int i = 0; i < g_.tasks; ++i)
                pack<double>(nullptr, rest, row(i), hi - lo, stride(i));
        return groups;
    }

    const double* panel(int i) const { return data_.get() + i * capacity_; }

private:
    std::int64_t stride(int i) const { return std::min(kTile, g_.tasks - i / kTile * kTile) * kLanes; }
    double* row(int i) const { return data_.get() + i / kTile * kTile * capacity_ + i % kTile * kLanes; }

    const Gradients& g_;
    std::int64_t capacity_;  // columns
    Buffer data_;
};

double sum_lanes(const double* x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

}  // namespace

// gram: k x k doubles, written.
void gramian(const Gradients& g, double* gram, int threads) {
    const int k = g.tasks;
    const std::int64_t m = g.columns();
    const std::vector<Tile> tiles = tiles_of(k);
    const std::int64_t sums = tiles.back().at + tiles.back().rows * tiles.back().columns;

    // Chunks of 8192 columns, longer ones where the chunks' sums would fill more than 32 MB.
    const std::int64_t most = std::clamp<std::int64_t>((std::int64_t{1} << 22) / sums, 8, 2048);
    const std::int64_t chunk = std::max<std::int64_t>(8192, (m / most + kLanes) / kLanes * kLanes);
    const std::int64_t chunks = std::max<std::int64_t>(1, (m + chunk - 1) / chunk);
    const std::int64_t block = std::min((m + kLanes - 1) / kLanes * kLanes, k <= 24 ? 256L : 512L);

    std::vector<double> partial(chunks * sums);
    threads = static_cast<int>(std::min<std::int64_t>(threads, chunks));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Block rows(g, block);
        const Buffer lanes = allocate(sums * kLanes);
#pragma omp for schedule(dynamic)
        for (std::int64_t c = 0; c < chunks; ++c) {
            std::memset(lanes.get(), 0, sums * kLanes * sizeof(double));
            const std::int64_t end = std::min(m, (c + 1) * chunk);
            for (std::int64_t lo = c * chunk; lo < end; lo += block) {
                const std::int64_t groups = rows.fill(lo, std::min(end, lo + block));
                for (const Tile& t : tiles)
                    t.multiply(rows.panel(t.i), rows.panel(t.j), groups, lanes.get() + t.at * kLanes);
            }
            for (std::int64_t e = 0; e < sums; ++e) partial[c * sums + e] = sum_lanes(lanes.get() + e * kLanes);
        }
    }
    for (std::int64_t step = 1; step < chunks; step *= 2)
        for (std::int64_t c = 0; c + step < chunks; c += 2 * step)
            for (std::int64_t e = 0; e < sums; ++e) partial[c * sums + e] += partial[(c + step) * sums + e];

    for (const Tile& t : tiles)
        for (int i = 0; i < t.rows; ++i)
            for (int j = 0; j < (t.i == t.j ? i + 1 : t.columns); ++j) {
                const double sum = partial[t.at + i * t.columns + j];
                gram[(t.i + i) * k + t.j + j] = gram[(t.j + j) * k + t.i + i] = sum;
            }
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

PCL_EVERY_ISA(void gramian(const Gradients& g, double* gram, int threads);)

namespace pcl {

void register_gramian(pybind11::module_& m) {
    m.def("gramian", [](int tasks, std::vector<std::uintptr_t> address, const std::vector<std::int64_t>& size,
                        std::vector<int> dtype, std::uintptr_t gram, int threads) {
        const Gradients g(tasks, std::move(address), size, std::move(dtype));
        pybind11::gil_scoped_release release;
        PCL_BEST(gramian)(g, reinterpret_cast<double*>(gram), threads);
    });
}

}  // namespace pcl
#endif
