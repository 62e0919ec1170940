// G = J Jᵀ for k task gradients that lie anywhere in memory, in one pass over their bytes.
//
// Columns are cut into chunks, chunks into blocks. Register tiles of kTile rows and columns multiply a block's rows,
// the lower half only, while the next block is fetched to the second-level cache (rows of large tensors often lie a
// multiple of the page size apart and would push each other out of the first). The tile on the diagonal reads its rows from memory, widens
// them to doubles and leaves them packed in a panel in the first-level cache, where the other tiles find them.
//
// Every pair (i, j) sums in eight lanes over its chunk; the chunks' sums are added up pairwise. Products of
// float32, float16 and bfloat16 are exact in double, and no chain of additions is long. The cut into chunks
// depends on k and m alone, and column c always falls into lane c mod 8, so the result has the same bits for any
// number of threads, any division into parameters, and on every instruction set with FMA.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "gradients.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {
namespace {

constexpr int kTile = kRegisters == 32 ? 5 : 3;  // kTile² sums and two operands' rows in registers
constexpr std::int64_t kBlock = 128;             // columns; 20 rows of doubles take 20 KB
constexpr std::int64_t kAhead = 512;             // columns between reading and fetching, where one tile streams

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<double[], Free>;

Buffer allocate(std::int64_t doubles) {
    return Buffer(static_cast<double*>(std::aligned_alloc(64, (doubles * 8 + 63) / 64 * 64)));
}

Vec load(const double* p) { return *reinterpret_cast<const Vec*>(p); }
void store(double* p, Vec x) { *reinterpret_cast<Vec*>(p) = x; }

// sums[i][j][lane] += Σ_group a[group][i][lane] b[group][j][lane]; where Diagonal, b is a and j <= i.
template <int Rows, int Columns, bool Diagonal>
void multiply(const double* a, const double* b, std::int64_t groups, double* sums) {
    for (int part = 0; part < kLanes; part += kWidth) {
        Vec sum[Rows][Columns];
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < Columns; ++j)
                if (!Diagonal || j <= i) sum[i][j] = load(sums + (i * Columns + j) * kLanes + part);
        const double *pa = a + part, *pb = b + part;
        for (std::int64_t group = 0; group < groups; ++group, pa += Rows * kLanes, pb += Columns * kLanes) {
            Vec x[Rows];
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i) x[i] = load(pa + i * kLanes);
#pragma GCC unroll 8
            for (int j = 0; j < Columns; ++j) {
                const Vec y = Diagonal ? x[j < Rows ? j : 0] : load(pb + j * kLanes);
#pragma GCC unroll 8
                for (int i = 0; i < Rows; ++i)
                    if (!Diagonal || j <= i) sum[i][j] += x[i] * y;
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < Columns; ++j)
                if (!Diagonal || j <= i) store(sums + (i * Columns + j) * kLanes + part, sum[i][j]);
    }
}

using Multiply = void (*)(const double*, const double*, std::int64_t, double*);

// The tile of 1 .. kTile packed rows against a full panel or against themselves.
template <int Rows = kTile>
Multiply tile_kernel(int rows, bool diagonal) {
    if constexpr (Rows > 1) {
        if (rows < Rows) return tile_kernel<Rows - 1>(rows, diagonal);
    }
    return diagonal ? &multiply<Rows, Rows, true> : &multiply<Rows, kTile, false>;
}

// sums[i][j][lane] += Σ_c row[i][c] row[j][c], j <= i, over 8 * groups columns of rows in memory. Where Keep, the rows
// also go to `panel`; else they run on after these columns, and are fetched ahead.
template <class T, int Rows, bool Keep>
void multiply_rows(const T* const* row, std::int64_t groups, double* sums, double* panel) {
    for (int part = 0; part < kLanes; part += kWidth) {
        const T* from[Rows];
        for (int i = 0; i < Rows; ++i) from[i] = row[i] + part;
        Vec sum[Rows][Rows];
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j <= i; ++j) sum[i][j] = load(sums + (i * Rows + j) * kLanes + part);
        double* to = panel + part;
        for (std::int64_t c = 0; c < groups * kLanes; c += kLanes, to += Rows * kLanes) {
            Vec x[Rows];
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i) {
                x[i] = widen_vec(from[i] + c);
                if (Keep)
                    store(to + i * kLanes, x[i]);
                else
                    __builtin_prefetch(from[i] + c + kAhead);
            }
#pragma GCC unroll 8
            for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
                for (int j = 0; j <= i; ++j) sum[i][j] += x[i] * x[j];
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j <= i; ++j) store(sums + (i * Rows + j) * kLanes + part, sum[i][j]);
    }
}

template <class T, bool Keep, int Rows = kTile>
void multiply_rows(int rows, const T* const* row, std::int64_t groups, double* sums, double* panel) {
    if constexpr (Rows > 1) {
        if (rows < Rows) return multiply_rows<T, Keep, Rows - 1>(rows, row, groups, sums, panel);
    }
    multiply_rows<T, Rows, Keep>(row, groups, sums, panel);
}

// The k x k lower half as a list of tiles, in each panel's rows the one on the diagonal first, and where each keeps
// its sums.
struct Tile {
    int i, j;  // first row, first column
    int rows, columns;
    std::int64_t at;  // first of its rows * columns sums
    Multiply multiply;
};

std::vector<Tile> tiles_of(int k) {
    std::vector<Tile> tiles;
    std::int64_t at = 0;
    for (int i = 0; i < k; i += kTile)
        for (int j = i; j >= 0; j -= kTile) {
            const int rows = std::min(kTile, k - i), columns = i == j ? rows : kTile;
            tiles.push_back({i, j, rows, columns, at, tile_kernel(rows, i == j)});
            at += rows * columns;
        }
    return tiles;
}

// n elements of one row into lanes: element c goes to to[c / 8 * stride + c % 8], counted from column `at`.
template <class T>
void pack(const T* from, std::int64_t n, double* to, std::int64_t at, std::int64_t stride) {
    std::int64_t c = 0;
    auto place = [&](std::int64_t column) { return to + column / kLanes * stride + column % kLanes; };
    for (; c < n && (at + c) % kLanes; ++c) *place(at + c) = widen(from[c]);
    for (double* group = place(at + c); c + kLanes <= n; c += kLanes, group += stride)
        for (int part = 0; part < kLanes; part += kWidth) store(group + part, widen_vec(from + c + part));
    for (; c < n; ++c) *place(at + c) = widen(from[c]);
}

// One thread's work space: the sums of its chunk, and a block's rows as doubles in panels of kTile rows.
class Worker {
public:
    Worker(const Gradients& g, const std::vector<Tile>& tiles, std::int64_t sums)
        : g_(g), tiles_(tiles), sums_(sums), lanes_(allocate(sums * kLanes)), packed_(allocate(g.tasks * kBlock)),
          next_(g.tasks) {}

    // The sums over columns [lo, hi), one per pair of each tile, to `total`.
    void run(std::int64_t lo, std::int64_t hi, double* total) {
        std::memset(lanes_.get(), 0, sums_ * kLanes * sizeof(double));
        while (lo < hi) {
            const std::int64_t streamed = tiles_.size() == 1 ? stream(lo, hi) : 0;
            if (!streamed) multiply_block(lo, std::min(hi, lo + kBlock));
            lo += streamed ? streamed : kBlock;
        }
        for (std::int64_t e = 0; e < sums_; ++e) {
            const double* x = lanes_.get() + e * kLanes;
            total[e] = ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
        }
    }

private:
    // Takes the columns from lo on that lie in one parameter, if they are many and no task lacks them.
    std::int64_t stream(std::int64_t lo, std::int64_t hi) {
        Piece piece;
        Pieces(g_, lo, hi).next(piece);
        const std::uintptr_t* address = &g_.address[piece.parameter * g_.tasks];
        if (piece.size < kBlock || !std::all_of(address, address + g_.tasks, [](auto a) { return a != 0; })) return 0;
        const std::int64_t groups = piece.size / kLanes;
        with_type(g_.dtype[piece.parameter], [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            const T* row[kTile];
            for (int i = 0; i < g_.tasks; ++i) row[i] = reinterpret_cast<const T*>(address[i]) + piece.offset;
            multiply_rows<T, false>(g_.tasks, row, groups, lanes_.get(), nullptr);
        });
        return groups * kLanes;
    }

    void multiply_block(std::int64_t lo, std::int64_t hi) {
        const bool whole = covered(lo, hi);
        if (!whole) fill(lo, hi);
        const std::int64_t groups = (hi - lo + kLanes - 1) / kLanes;
        int fetched = 0, done = 0;
        for (const Tile& t : tiles_) {
            const int until = static_cast<int>(std::int64_t{g_.tasks} * ++done / static_cast<int>(tiles_.size()));
            for (; fetched < until; ++fetched)
                for (std::int64_t byte = 0; byte < next_bytes_; byte += 64)
                    __builtin_prefetch(reinterpret_cast<const char*>(next_[fetched] + byte), 0, 2);
            double* sums = lanes_.get() + t.at * kLanes;
            if (whole && t.i == t.j)
                multiply_in_memory(t, groups, sums);
            else
                t.multiply(panel(t.i), panel(t.j), groups, sums);
        }
    }

    // The tile on the diagonal of a block that is `covered`; leaves its rows in their panel.
    void multiply_in_memory(const Tile& t, std::int64_t groups, double* sums) {
        with_type(dtype_, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            const T* row[kTile];
            for (int i = 0; i < t.rows; ++i)
                row[i] = reinterpret_cast<const T*>(next_[t.i + i] - kBlock * sizeof(T));
            multiply_rows<T, true>(t.rows, row, groups, sums, panel(t.i));
        });
    }

    // Packs columns [lo, hi), the last group of eight filled up with zeros, and notes where the rows go on.
    void fill(std::int64_t lo, std::int64_t hi) {
        std::memset(packed_.get(), 0, g_.tasks * kBlock * sizeof(double));
        Piece piece;
        for (Pieces pieces(g_, lo, hi); pieces.next(piece);)
            with_type(g_.dtype[piece.parameter], [&](auto* type) {
                using T = std::remove_pointer_t<decltype(type)>;
                next_bytes_ = piece.size * static_cast<std::int64_t>(sizeof(T));
                for (int i = 0; i < g_.tasks; ++i) {
                    const std::uintptr_t address = g_.address[piece.parameter * g_.tasks + i];
                    next_[i] = address;
                    if (!address) continue;
                    const T* from = reinterpret_cast<const T*>(address) + piece.offset;
                    next_[i] = reinterpret_cast<std::uintptr_t>(from + piece.size);
                    const int in_panel = i % kTile, rows = std::min(kTile, g_.tasks - i + in_panel);
                    pack(from, piece.size, panel(i - in_panel) + in_panel * kLanes, piece.at, rows * kLanes);
                }
            });
    }

    // True where one parameter that every task has fills the block; then notes where the rows go on.
    bool covered(std::int64_t lo, std::int64_t hi) {
        Piece piece;
        Pieces(g_, lo, hi).next(piece);
        const std::uintptr_t* address = &g_.address[piece.parameter * g_.tasks];
        if (piece.size < kBlock || std::any_of(address, address + g_.tasks, [](auto a) { return a == 0; })) return false;
        dtype_ = g_.dtype[piece.parameter];
        next_bytes_ = kBlock * dtype_bytes[dtype_];
        for (int i = 0; i < g_.tasks; ++i) next_[i] = address[i] + (piece.offset + kBlock) * dtype_bytes[dtype_];
        return true;
    }

    double* panel(int i) const { return packed_.get() + i * kBlock; }

    const Gradients& g_;
    const std::vector<Tile>& tiles_;
    std::int64_t sums_;
    Buffer lanes_, packed_;
    std::vector<std::uintptr_t> next_;  // where each row goes on after the block
    std::int64_t next_bytes_ = 0;
    int dtype_ = f32;  // of a covered block
};

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

    std::vector<double> partial(chunks * sums);
    threads = static_cast<int>(std::min<std::int64_t>(threads, chunks));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Worker worker(g, tiles, sums);
#pragma omp for schedule(dynamic)
        for (std::int64_t c = 0; c < chunks; ++c)
            worker.run(c * chunk, std::min(m, (c + 1) * chunk), partial.data() + c * sums);
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
#include "operands.hpp"

PCL_EVERY_ISA(void gramian(const Gradients& g, double* gram, int threads);)

namespace pcl {

void register_gramian(nanobind::module_& m) {
    m.def("gramian", [](const Operands& operands, std::uintptr_t gram, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(gramian)(operands.gradients, reinterpret_cast<double*>(gram), operands.threads(threads));
    });
}

}  // namespace pcl
#endif
