// Linear layers with a ReLU behind each, forward and backward: the whole chain in one call, on small batches.
//
//   forward    h_l = max(0, W_l h_{l-1} + b_l) for l = 1 ... L, with h_0 = x
//   backward   δ_l = W_{l+1}ᵀ δ_{l+1} where h_l > 0, else 0; dW_l = Σ δ_l h_{l-1}ᵀ, db_l = Σ δ_l, dx = W_1ᵀ δ_1
//
// A last layer without ReLU gives logits z; their cross-entropy is log Σ exp z - z_c, its gradient softmax(z) - e_c.
//
// A product is made of tiles that stay in registers. Forward, the inputs lie along the lanes, so that a batch need not
// fill a vector; the lanes of kFloats sums are added up together at the end. Backward, columns of W or h lie along them.
// Every sum has one order, whatever the number of threads.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "isa.hpp"
#include "longhorn_lanes.hpp"
#include "mlp.hpp"

namespace pcl::PCL_ISA {

constexpr int kNeurons = 4, kSamples = kFloats / kNeurons;  // of a tile forward: a sum for every lane
constexpr Size kAhead = 20;                                  // products of a tile for which C is on its way
constexpr int kTall = 6, kWide = kRegisters == 32 ? 4 : 2;  // rows and vectors of a tile backward

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

// sum[s * kNeurons + r] = <x_s, w_r> for the first `samples` rows of x.
template <int samples>
inline void dots(Size in, const float* x, const float* const* w, float* to) {
    Floats sum[kFloats] = {};
    const auto add = [&](auto load, Size i) {
        Floats a[samples];
#pragma GCC unroll 4
        for (int s = 0; s < samples; ++s) a[s] = load(x + s * in + i);
#pragma GCC unroll 4
        for (int r = 0; r < kNeurons; ++r) {
            const Floats b = load(w[r] + i);
#pragma GCC unroll 4
            for (int s = 0; s < samples; ++s) sum[s * kNeurons + r] = multiply_add(a[s], b, sum[s * kNeurons + r]);
        }
    };
    Size i = 0;
    for (; i + kFloats <= in; i += kFloats) add([](const float* from) { return load_lanes(from); }, i);
    const int rest = static_cast<int>(in - i);
    if (rest) add([rest](const float* from) { return load_part(from, rest); }, i);
    fold<float, kFloats / 2>(sum);
    store_lanes(to, sum[0]);
}

// y = max(0, x Wᵀ + b), or without the maximum; y (rows, out)
void layer_forward(Size rows, Size in, Size out, const float* x, const float* w, const float* b, bool relu, float* y,
                   int threads) {
    const Size blocks = (out + kNeurons - 1) / kNeurons;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Size block = 0; block < blocks; ++block) {
        const Size first = block * kNeurons, count = std::min<Size>(kNeurons, out - first);
        const float* row[kNeurons];
        for (Size r = 0; r < kNeurons; ++r) row[r] = w + (first + std::min(r, count - 1)) * in;
        for (Size s = 0; s < rows; s += kSamples) {
            const Size here = std::min<Size>(kSamples, rows - s);
            const float* at = x + s * in;
            float sum[kFloats];
            if (here == kSamples) dots<kSamples>(in, at, row, sum);
            else
                for (Size k = 0; k < here; ++k) {
                    float of_one[kFloats];
                    dots<1>(in, at + k * in, row, of_one);
                    std::copy_n(of_one, kNeurons, sum + k * kNeurons);
                }
            for (Size k = 0; k < here; ++k)
                for (Size r = 0; r < count; ++r) {
                    const float z = sum[k * kNeurons + r] + (b ? b[first + r] : 0.0f);
                    y[(s + k) * out + first + r] = relu && z < 0 ? 0.0f : z;
                }
        }
    }
}

// C = A B, or 0 where gate <= 0, or base - rate A B; A (rows, depth) with steps of its own, the others row-major with
// rows of `columns`. C may be the base.
struct Product {
    Size rows, depth, columns;
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
    const float *a = p.a + row * p.a_row, *b = p.b + column;
    const Size soon = p.depth > kAhead ? p.depth - kAhead : 0;
    for (Size k = 0; k < p.depth; ++k, a += p.a_depth, b += p.columns) {
        if (k == soon && p.base)
            for (int m = 0; m < tall; ++m)
                for (int v = 0; v < wide; ++v) __builtin_prefetch(p.base + (row + m) * p.columns + column + v * kFloats);
        Floats x[wide];
#pragma GCC unroll 4
        for (int v = 0; v < wide; ++v) x[v] = part<wide>(b + v * kFloats, width);
#pragma GCC unroll 6
        for (int m = 0; m < tall; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < wide; ++v) sum[m][v] = multiply_add(splat(a[m * p.a_row]), x[v], sum[m][v]);
    }
#pragma GCC unroll 6
    for (int m = 0; m < tall; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < wide; ++v) {
            const Size at = (row + m) * p.columns + column + v * kFloats;
            Floats z = sum[m][v];
            if (p.gate) z = gated(z, part<wide>(p.gate + at, width));
            if (p.base) z = multiply_add(z, splat(-p.rate), part<wide>(p.base + at, width));
            wide > 1 ? store_lanes(p.c + at, z) : store_part(p.c + at, z, width);
        }
}

template <int wide>
inline void column_of_tiles(const Product& p, Size column, int width) {
    for (Size row = 0; row < p.rows;) {
        const Size left = p.rows - row, tiles = (left + kTall - 1) / kTall, tall = (left + tiles - 1) / tiles;
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

void multiply(const Product& p, int threads) {
    const Size panels = (p.columns + kPanel - 1) / kPanel;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (Size i = 0; i < panels; ++i) multiply(p, i);
}

// db = Σ over rows of delta (rows, columns), at least one; or base - rate Σ
void column_sums(Size rows, Size columns, const float* delta, float* to, const float* base, float rate) {
    std::vector<float> sums(delta, delta + columns);
    for (Size r = 1; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) sums[c] += delta[r * columns + c];
    for (Size c = 0; c < columns; ++c) to[c] = base ? std::fma(sums[c], -rate, base[c]) : sums[c];
}

void mlp_forward(const MlpLayers& of, const float* x, const std::vector<float*>& h, int threads) {
    for (int l = 0; l <= of.last(); ++l)
        layer_forward(of.rows, of.widths[l], of.widths[l + 1], l ? h[l - 1] : x, of.weights[l], of.biases[l], of.relu(l),
                      h[l], threads);
}

// losses[i]: the mean cross-entropy of the blocks[i] rows of block i; of_logits (rows, columns): its gradient. False
// where a label is no column.
bool softmax_losses(Size columns, const Size* labels, const std::vector<Size>& blocks, const float* logits, float* losses,
                    float* of_logits) {
    Size row = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const Size size = blocks[i];
        const float share = 1.0f / static_cast<float>(size);
        double total = 0;
        for (const Size end = row + size; row < end; ++row) {
            const float* z = logits + row * columns;
            float* to = of_logits + row * columns;
            const Size label = labels[row];
            if (label < 0 || label >= columns) return false;
            float most = z[0], sum = 0;
            for (Size c = 1; c < columns; ++c) most = z[c] > most ? z[c] : most;
            for (Size c = 0; c < columns; ++c) sum += to[c] = std::exp(z[c] - most);
            for (Size c = 0; c < columns; ++c) to[c] *= share / sum;
            to[label] -= share;
            total += std::log(sum) + most - z[label];
        }
        losses[i] = static_cast<float>(total / static_cast<double>(size));
    }
    return true;
}

// The largest |x|, as the bits of a float: infinity, or more for NaN, where not all are finite.
std::uint32_t largest(const float* x, Size count) {
    std::uint32_t most = 0;
    for (Size i = 0; i < count; ++i) most = std::max(most, bits<std::uint32_t>(x[i]) & 0x7fffffffu);
    return most;
}

// Whether no sum over rows of δ h, or of δ, can leave the range of floats.
bool in_range(Size rows, std::uint32_t delta, std::uint32_t h) {
    constexpr std::uint32_t infinite = 0x7f800000u;
    const double wider = std::max(1.0, static_cast<double>(bits<float>(h)));
    const double most = static_cast<double>(bits<float>(delta)) * wider * static_cast<double>(rows);
    return delta < infinite && h < infinite && most < std::numeric_limits<float>::max() / 2;
}

// Down to the layer `lowest`. scale (rows,), or null: the rows of all δ below the last layer, and what follows from
// them, are multiplied by it. With a rate, `to` is where the parameters come that have gone down along their gradients;
// false, and nothing is there, where a gradient could be out of range.
bool mlp_backward(const MlpLayers& of, const float* x, const std::vector<float*>& h, const float* grad,
                  const float* scale, const MlpGradients& to, int lowest, int threads) {
    const int last = of.last();
    const bool descends = to.rate.has_value();
    const float rate = to.rate.value_or(0);
    std::vector<const float*> delta(last + 1);
    delta[last] = grad;
    if (of.relu_last) {
        for (Size i = 0; i < of.rows * of.widths[last + 1]; ++i) to.delta[last][i] = h[last][i] <= 0 ? 0.0f : grad[i];
        delta[last] = to.delta[last];
    }
    for (int l = last; l >= lowest; --l) {
        const Size out = of.widths[l + 1], in = of.widths[l];
        float* const below = l > lowest ? to.delta[l - 1] : l == 0 ? to.x : nullptr;
        if (!below) continue;
        multiply({of.rows, out, in, delta[l], out, 1, of.weights[l], l ? h[l - 1] : nullptr, below}, threads);
        if (scale && l == last)
            for (Size row = 0; row < of.rows; ++row)
                for (Size c = 0; c < in; ++c) below[row * in + c] *= scale[row];
        if (l > lowest) delta[l - 1] = below;
    }
    for (int l = lowest; descends && l <= last; ++l) {
        const Size out = of.widths[l + 1], in = of.widths[l];
        if (!in_range(of.rows, largest(delta[l], of.rows * out), largest(l ? h[l - 1] : x, of.rows * in))) return false;
    }
    for (int l = last; l >= lowest; --l) {
        const Size out = of.widths[l + 1], in = of.widths[l];
        if (to.biases[l]) column_sums(of.rows, out, delta[l], to.biases[l], descends ? of.biases[l] : nullptr, rate);
        if (to.weights[l])
            multiply({out, of.rows, in, delta[l], 1, out, l ? h[l - 1] : x, nullptr, to.weights[l],
                      descends ? of.weights[l] : nullptr, rate}, threads);
    }
    return true;
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "torch_tensor.hpp"

PCL_EVERY_ISA(void mlp_forward(const MlpLayers& of, const float* x, const std::vector<float*>& h, int threads);
              bool softmax_losses(Size columns, const Size* labels, const std::vector<Size>& blocks, const float* logits,
                                  float* losses, float* of_logits);
              bool mlp_backward(const MlpLayers& of, const float* x, const std::vector<float*>& h, const float* grad,
                                const float* scale, const MlpGradients& to, int lowest, int threads);)

namespace pcl {
namespace {

using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

float* floats(Address at) { return reinterpret_cast<float*>(at); }

std::vector<float*> floats(const Addresses& at) {
    std::vector<float*> found;
    for (const Address one : at) found.push_back(floats(one));
    return found;
}

}  // namespace

void register_mlp(pybind11::module_& m) {
    // Whether the kernels read these tensors where they are, the first perhaps after a copy; None is passed over.
    m.def("mlp_reads", [](const pybind11::list& tensors) {
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            PyObject* const object = tensors[i].ptr();
            if (object == Py_None) continue;
            TensorView t;
            if (!view(object, false, t) || t.dtype() != f32 || t.elements() == 0) return false;
            if (!t.data || negated(object) || (i > 0 && !t.contiguous())) return false;
        }
        return true;
    });
    m.def("mlp_forward", [](Size rows, const std::vector<Size>& widths, bool relu_last, Address x, const Addresses& weights,
                            const Addresses& biases, const Addresses& h, int threads) {
        pybind11::gil_scoped_release release;
        PCL_BEST(mlp_forward)({rows, widths, floats(weights), floats(biases), relu_last}, floats(x), floats(h), threads);
    });
    m.def("softmax_losses", [](Size columns, Address labels, const std::vector<Size>& blocks, Address logits,
                               Address losses, Address of_logits) {
        pybind11::gil_scoped_release release;
        const auto losses_of = PCL_BEST(softmax_losses);
        return losses_of(columns, reinterpret_cast<const Size*>(labels), blocks, floats(logits), floats(losses),
                         floats(of_logits));
    });
    // to: deltas, weights, biases
    m.def("mlp_backward", [](Size rows, const std::vector<Size>& widths, bool relu_last, Address x,
                             const Addresses& weights, const Addresses& biases, const Addresses& h, Address grad,
                             Address scale, const std::array<Addresses, 3>& to, Address dx, std::optional<float> rate,
                             int lowest, int threads) {
        pybind11::gil_scoped_release release;
        const MlpGradients found{floats(to[0]), floats(to[1]), floats(to[2]), floats(dx), rate};
        return PCL_BEST(mlp_backward)({rows, widths, floats(weights), floats(biases), relu_last}, floats(x), floats(h),
                                      floats(grad), floats(scale), found, lowest, threads);
    });
}

}  // namespace pcl
#endif
