// Tensors whose rows and columns are chosen anew (pcl_kernels/firefly_apply/op.py), all in one pass over memory.
//
// Columns are looked at once: those that lie side by side in the source and have one scale are a run, and a row is
// copied run by run, as bytes where nothing is scaled.
#include "firefly_apply.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "gradients.hpp"
#include "isa.hpp"
#include "simd.hpp"

namespace pcl::PCL_ISA {

// `size` elements of every row that lie side by side, in the source from element `from` on.
struct Run {
    enum Where { zeros, old, right } where;
    std::int64_t from, size;
    double scale;
};

std::vector<Run> runs_of(const Regrown& t) {
    std::vector<Run> runs;
    for (std::int64_t c = 0; c < t.out_columns; ++c) {
        const std::int64_t source = t.columns ? t.columns[c] : c;
        const double scale = t.column_scale && source >= 0 ? t.column_scale[c] : 1.0;
        const auto where = source < 0 ? Run::zeros : source < t.width ? Run::old : Run::right;
        const std::int64_t from = (where == Run::right ? source - t.width : std::max<std::int64_t>(source, 0)) * t.inner;
        if (!runs.empty()) {
            Run& last = runs.back();
            if (last.where == where && last.scale == scale && (where == Run::zeros || last.from + last.size == from)) {
                last.size += t.inner;
                continue;
            }
        }
        runs.push_back({where, from, t.inner, scale});
    }
    return runs;
}

// Few bytes are copied as words: a call of memcpy costs more.
inline void copy(char* __restrict to, const char* __restrict from, std::int64_t bytes) {
    if (bytes > 64) {
        std::memcpy(to, from, bytes);
        return;
    }
    std::int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) std::memcpy(to + i, from + i, 8);
    if (bytes & 4) std::memcpy(to + i, from + i, 4), i += 4;
    for (; i < bytes; ++i) to[i] = from[i];
}

void scaled(int dtype, char* to, const char* from, std::int64_t size, double factor) {
    with_type(dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const T* __restrict x = reinterpret_cast<const T*>(from);
        T* __restrict y = reinterpret_cast<T*>(to);
        for (std::int64_t i = 0; i < size; ++i) y[i] = narrow<T>(factor * widen(x[i]));
    });
}

void row(const Regrown& t, const std::vector<Run>& runs, std::int64_t r) {
    char* to = t.out + r * t.out_columns * t.inner * t.bytes;
    const std::int64_t source = t.rows ? t.rows[r] : r;
    if (source < 0) {
        std::memset(to, 0, t.out_columns * t.inner * t.bytes);
        return;
    }
    const std::int64_t pitch = t.width * t.inner * t.bytes;
    const char* old = source < t.height ? t.old + source * pitch : t.below + (source - t.height) * pitch;
    const char* right = source < t.tall ? t.right + source * t.wide * t.inner * t.bytes : nullptr;
    const double scale = t.row_scale ? t.row_scale[r] : 1.0;
    for (const Run& run : runs) {
        const std::int64_t bytes = run.size * t.bytes;
        const char* from = run.where == Run::old ? old : run.where == Run::right ? right : nullptr;
        const double factor = scale * run.scale;
        if (!from)
            std::memset(to, 0, bytes);
        else if (factor == 1.0)
            copy(to, from + run.from * t.bytes, bytes);
        else
            scaled(t.dtype, to, from + run.from * t.bytes, run.size, factor);
        to += bytes;
    }
}

void firefly_apply(const std::vector<Regrown>& tensors, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (const Regrown& t : tensors) {
        const std::vector<Run> runs = runs_of(t);  // by every thread: it is little
#pragma omp for schedule(static) nowait
        for (std::int64_t r = 0; r < t.out_rows; ++r) row(t, runs, r);
    }
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>

PCL_EVERY_ISA(void firefly_apply(const std::vector<Regrown>& tensors, int threads);)

namespace pcl {

void register_firefly_apply(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("firefly_apply", [](const std::vector<std::array<Address, 8>>& address,
                              const std::vector<std::array<std::int64_t, 10>>& size, int threads) {
        std::vector<Regrown> tensors;
        for (std::size_t i = 0; i < address.size(); ++i) {
            const auto& [old, below, right, out, rows, columns, row_scale, column_scale] = address[i];
            const auto& [height, width, inner, more, tall, wide, out_rows, out_columns, dtype, bytes] = size[i];
            tensors.push_back({reinterpret_cast<const char*>(old), reinterpret_cast<const char*>(below),
                               reinterpret_cast<const char*>(right), reinterpret_cast<char*>(out),
                               reinterpret_cast<const std::int64_t*>(rows),
                               reinterpret_cast<const std::int64_t*>(columns),
                               reinterpret_cast<const double*>(row_scale),
                               reinterpret_cast<const double*>(column_scale), height, width, inner, more, tall, wide,
                               out_rows, out_columns, static_cast<int>(dtype), bytes});
        }
        nanobind::gil_scoped_release release;
        PCL_BEST(firefly_apply)(tensors, threads);
    });
}

}  // namespace pcl
#endif
