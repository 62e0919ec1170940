// The convolutions of the memory edit, every sample with a kernel of its own (pcl_kernels/memory_edit/op.py).
//
// All three products are small matrix products inside one sample, whose image and kernels stay in the second-level
// cache. Memory is channels-last, so that a patch is a few contiguous runs ("segments"): one of kw * channels numbers
// for every row of the kernel, or one of `channels` numbers for every point of a dilated kernel.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "isa.hpp"
#include "sample_conv.hpp"

namespace pcl::PCL_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kTile = 24;  // of a vector; accumulators of a tile
#elif defined(__AVX2__)
constexpr int kBytes = 32, kTile = 12;
#else
constexpr int kBytes = 16, kTile = 12;
#endif

template <class T>
constexpr int kLanesOf = kBytes / sizeof(T);

template <class T>
struct Lane {
    typedef T type __attribute__((vector_size(kBytes)));
    typedef T loose __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
};

// A strided view: element (row, k) of a matrix that is read number by number.
template <class T>
struct Left {
    const T* at;
    std::int64_t row, k;
};

// Rows of a matrix that is read vector by vector.
template <class T>
struct Right {
    const T* at;
    std::int64_t k;
};

template <class T, int M, int N>
struct Tile {
    typename Lane<T>::type sum[M][N] = {};

    // sum[m][n] += Σ_k left(m, k) * right(k, n)
    inline void add(std::int64_t count, Left<T> left, Right<T> right) {
        for (std::int64_t k = 0; k < count; ++k, left.at += left.k, right.at += right.k) {
            typename Lane<T>::type row[N];
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n)
                row[n] = *reinterpret_cast<const typename Lane<T>::loose*>(right.at + n * kLanesOf<T>);
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
                for (int n = 0; n < N; ++n) sum[m][n] += left.at[m * left.row] * row[n];
        }
    }

    // Calls put(m, values, width) for every row; `width` of the values are meant.
    template <class Put>
    inline void rows(std::int64_t width, Put&& put) const {
        T values[N * kLanesOf<T>];
        for (int m = 0; m < M; ++m) {
            __builtin_memcpy(values, sum[m], sizeof values);
            put(m, values, std::min<std::int64_t>(width, N * kLanesOf<T>));
        }
    }
};

template <class T, int N, int M = 8, class Work>
void by_rows(std::int64_t rows, std::int64_t column, Work& work) {
    std::int64_t row = 0;
    if constexpr (M * N <= kTile)
        for (; row + M <= rows; row += M) work(Tile<T, M, N>{}, row, column);
    if constexpr (M > 1) {
        if (row < rows) {
            auto rest = [&](auto tile, std::int64_t r, std::int64_t c) { work(tile, row + r, c); };
            by_rows<T, N, M == 8 ? 6 : M / 2>(rows - row, column, rest);
        }
    }
}

// Calls work(tile, first row, first column) for tiles that cover a matrix of rows x columns.
template <class T, int N = 4, class Work>
void by_tiles(std::int64_t rows, std::int64_t columns, Work&& work, std::int64_t column = 0) {
    const std::int64_t vectors = (columns - column + kLanesOf<T> - 1) / kLanesOf<T>;
    for (std::int64_t v = 0; v + N <= vectors; v += N, column += N * kLanesOf<T>) by_rows<T, N>(rows, column, work);
    if constexpr (N > 1)
        if (column < columns) by_tiles<T, N - 1>(rows, columns, work, column);
}

// A sample with its zero padding, and where patches lie in it.
template <class T>
class Image {
public:
    Image(const ConvShape& s) : s_(s), width_(s.width + 2 * s.pad_x) {
        const bool dense = s.step_x == 1;
        segments = dense ? s.kernel_y : s.kernel_y * s.kernel_x;
        length = dense ? s.kernel_x * s.in : s.in;
        // vectors may read past the end of the last patch
        data.assign((s.height + 2 * s.pad_y) * width_ * s.in + 4 * kLanesOf<T>, T(0));
    }

    void load(const T* from) {
        for (std::int64_t y = 0; y < s_.height; ++y)
            std::copy_n(from + y * s_.width * s_.in, s_.width * s_.in, row(y));
    }
    void store(T* to) {
        for (std::int64_t y = 0; y < s_.height; ++y)
            std::copy_n(row(y), s_.width * s_.in, to + y * s_.width * s_.in);
    }
    void clear() { std::fill(data.begin(), data.end(), T(0)); }

    std::int64_t segment(std::int64_t i) const {
        const std::int64_t y = length == s_.in * s_.kernel_x ? i : i / s_.kernel_x;
        const std::int64_t x = length == s_.in * s_.kernel_x ? 0 : i % s_.kernel_x;
        return (y * s_.step_y * width_ + x * s_.step_x) * s_.in;
    }
    std::int64_t position(std::int64_t y, std::int64_t x) const {
        return (y * s_.stride_y * width_ + x * s_.stride_x) * s_.in;
    }

    std::vector<T> data;
    std::int64_t segments, length;

private:
    T* row(std::int64_t y) { return data.data() + ((y + s_.pad_y) * width_ + s_.pad_x) * s_.in; }

    const ConvShape& s_;
    std::int64_t width_;
};

// v[o] = Σ_l δ[l][o] patch(l) - d[o]
template <class T>
void kernel_gradient(const ConvShape& s, const Image<T>& image, const T* delta, const T* d, T* v) {
    const std::int64_t patch = image.segments * image.length;
    for (std::int64_t g = 0; g < image.segments; ++g) {
        const T* from = image.data.data() + image.segment(g);
        by_tiles<T>(s.out, image.length, [&](auto tile, std::int64_t o, std::int64_t f) {
            for (std::int64_t y = 0; y < s.out_height; ++y)
                tile.add(s.out_width, Left<T>{delta + y * s.out_width * s.out + o, 1, s.out},
                         Right<T>{from + image.position(y, 0) + f, s.stride_x * s.in});
            tile.rows(image.length - f, [&](int m, const T* values, std::int64_t width) {
                const std::int64_t at = (o + m) * patch + g * image.length + f;
                for (std::int64_t i = 0; i < width; ++i) v[at + i] = d ? values[i] - d[at + i] : values[i];
            });
        });
    }
}

// out[l][o] = <v[o], patch(l)>; `turned` is room for v with the outputs side by side
template <class T>
void convolve(const ConvShape& s, const Image<T>& image, const T* v, std::vector<T>& turned, T* out) {
    const std::int64_t patch = image.segments * image.length;
    const std::int64_t columns = (s.out + kLanesOf<T> - 1) / kLanesOf<T> * kLanesOf<T>;
    turned.resize(patch * columns + 4 * kLanesOf<T>);
    for (std::int64_t o = 0; o < s.out; ++o)
        for (std::int64_t f = 0; f < patch; ++f) turned[f * columns + o] = v[o * patch + f];
    for (std::int64_t y = 0; y < s.out_height; ++y)
        by_tiles<T>(s.out_width, s.out, [&](auto tile, std::int64_t x, std::int64_t o) {
            const T* from = image.data.data() + image.position(y, x);
            for (std::int64_t g = 0; g < image.segments; ++g)
                tile.add(image.length, Left<T>{from + image.segment(g), s.stride_x * s.in, 1},
                         Right<T>{turned.data() + g * image.length * columns + o, columns});
            tile.rows(s.out - o, [&](int m, const T* values, std::int64_t width) {
                std::copy_n(values, width, out + (y * s.out_width + x + m) * s.out + o);
            });
        });
}

// patch(l) += Σ_o δ[l][o] v[o]; `copy` is room for v with a margin behind it
template <class T>
void convolve_transposed(const ConvShape& s, Image<T>& image, const T* delta, const T* v, std::vector<T>& copy) {
    const std::int64_t patch = image.segments * image.length;
    copy.resize(s.out * patch + 4 * kLanesOf<T>);
    std::copy_n(v, s.out * patch, copy.begin());
    for (std::int64_t g = 0; g < image.segments; ++g)
        for (std::int64_t y = 0; y < s.out_height; ++y)
            by_tiles<T>(s.out_width, image.length, [&](auto tile, std::int64_t x, std::int64_t f) {
                tile.add(s.out, Left<T>{delta + (y * s.out_width + x) * s.out, s.out, 1},
                         Right<T>{copy.data() + g * image.length + f, patch});
                tile.rows(image.length - f, [&](int m, const T* values, std::int64_t width) {
                    T* to = image.data.data() + image.position(y, x + m) + image.segment(g) + f;
                    for (std::int64_t i = 0; i < width; ++i) to[i] += values[i];
                });
            });
}

template <class T>
void sample_conv_of(const ConvShape& s, const void* a, const void* delta, const void* d, void* v, void* out,
                    int threads) {
    const std::int64_t positions = s.out_height * s.out_width, weights = s.out * s.kernel_y * s.kernel_x * s.in;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Image<T> image(s);
        std::vector<T> turned;
#pragma omp for schedule(dynamic)
        for (std::int64_t b = 0; b < s.samples; ++b) {
            image.load(static_cast<const T*>(a) + b * s.height * s.width * s.in);
            T* kernel = static_cast<T*>(v) + b * weights;
            kernel_gradient<T>(s, image, static_cast<const T*>(delta) + b * positions * s.out,
                               static_cast<const T*>(d), kernel);
            convolve<T>(s, image, kernel, turned, static_cast<T*>(out) + b * positions * s.out);
        }
    }
}

template <class T>
void sample_conv_transpose_of(const ConvShape& s, const void* v, const void* delta, void* out, int threads) {
    const std::int64_t positions = s.out_height * s.out_width, weights = s.out * s.kernel_y * s.kernel_x * s.in;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Image<T> image(s);
        std::vector<T> copy;
#pragma omp for schedule(dynamic)
        for (std::int64_t b = 0; b < s.samples; ++b) {
            image.clear();
            convolve_transposed<T>(s, image, static_cast<const T*>(delta) + b * positions * s.out,
                                   static_cast<const T*>(v) + b * weights, copy);
            image.store(static_cast<T*>(out) + b * s.height * s.width * s.in);
        }
    }
}

void sample_conv(const ConvShape& s, bool is_float, const void* a, const void* delta, const void* d, void* v,
                 void* out, int threads) {
    (is_float ? sample_conv_of<float> : sample_conv_of<double>)(s, a, delta, d, v, out, threads);
}

void sample_conv_transpose(const ConvShape& s, bool is_float, const void* v, const void* delta, void* out,
                           int threads) {
    (is_float ? sample_conv_transpose_of<float> : sample_conv_transpose_of<double>)(s, v, delta, out, threads);
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include <array>

PCL_EVERY_ISA(void sample_conv(const ConvShape& s, bool is_float, const void* a, const void* delta, const void* d,
                               void* v, void* out, int threads);
              void sample_conv_transpose(const ConvShape& s, bool is_float, const void* v, const void* delta,
                                         void* out, int threads);)

namespace pcl {

using Address = std::uintptr_t;

// (samples, in, height, width, out, then kernel, stride, padding, dilation as pairs)
static ConvShape shape_of(const std::array<std::int64_t, 13>& n) {
    ConvShape s{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12], 0, 0};
    s.out_height = (s.height + 2 * s.pad_y - s.step_y * (s.kernel_y - 1) - 1) / s.stride_y + 1;
    s.out_width = (s.width + 2 * s.pad_x - s.step_x * (s.kernel_x - 1) - 1) / s.stride_x + 1;
    return s;
}

void register_sample_conv(nanobind::module_& m) {
    m.def("sample_conv", [](const std::array<std::int64_t, 13>& shape, bool is_float, Address a, Address delta,
                            Address d, Address v, Address out, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(sample_conv)(shape_of(shape), is_float, reinterpret_cast<const void*>(a),
                              reinterpret_cast<const void*>(delta), reinterpret_cast<const void*>(d),
                              reinterpret_cast<void*>(v), reinterpret_cast<void*>(out), threads);
    });
    m.def("sample_conv_transpose", [](const std::array<std::int64_t, 13>& shape, bool is_float, Address v,
                                      Address delta, Address out, int threads) {
        nanobind::gil_scoped_release release;
        PCL_BEST(sample_conv_transpose)(shape_of(shape), is_float, reinterpret_cast<const void*>(v),
                                        reinterpret_cast<const void*>(delta), reinterpret_cast<void*>(out), threads);
    });
}

}  // namespace pcl
#endif
