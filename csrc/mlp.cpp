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
#include <iterator>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "isa.hpp"
#include "longhorn_lanes.hpp"
#include "mlp.hpp"
#include "mlp_products.hpp"

namespace pcl::PCL_ISA {

constexpr int kNeurons = 4, kSamples = kFloats / kNeurons;  // of a tile forward: a sum for every lane

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

template <std::size_t... i>
constexpr std::array<decltype(&dots<1>), sizeof...(i)> dots_of(std::index_sequence<i...>) {
    return {&dots<static_cast<int>(i) + 1>...};
}

// y = max(0, x Wᵀ + b), or without the maximum; y (rows, out)
void layer_forward(Size rows, Size in, Size out, const float* x, const float* w, const float* b, bool relu, float* y,
                   int threads) {
    constexpr auto of_samples = dots_of(std::make_index_sequence<kSamples>{});
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
            of_samples[here - 1](in, at, row, sum);
            for (Size k = 0; k < here; ++k)
                for (Size r = 0; r < count; ++r) {
                    const float z = sum[k * kNeurons + r] + (b ? b[first + r] : 0.0f);
                    y[(s + k) * out + first + r] = relu && z < 0 ? 0.0f : z;
                }
        }
    }
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

// losses[i]: factors[i] times the mean cross-entropy of the blocks[i] rows of block i; of_logits (rows, columns): its
// gradient. Without factors they are 1; 0 gives zeros, whatever the logits are. False where a label is no column.
bool softmax_losses(Size columns, const Size* labels, const std::vector<Size>& blocks, const std::vector<float>& factors,
                    const float* logits, float* losses, float* of_logits) {
    Size row = 0;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const Size size = blocks[i];
        const float share = 1.0f / static_cast<float>(size), factor = factors.empty() ? 1.0f : factors[i];
        double total = 0;
        for (const Size end = row + size; row < end; ++row) {
            const float* z = logits + row * columns;
            float* to = of_logits + row * columns;
            const Size label = labels[row];
            if (label < 0 || label >= columns) return false;
            if (factor == 0) {
                std::fill_n(to, columns, 0.0f);
                continue;
            }
            float most = z[0], sum = 0;
            for (Size c = 1; c < columns; ++c) most = z[c] > most ? z[c] : most;
            for (Size c = 0; c < columns; ++c) sum += to[c] = std::exp(z[c] - most);
            for (Size c = 0; c < columns; ++c) to[c] *= share / sum;
            to[label] -= share;
            if (factor != 1)
                for (Size c = 0; c < columns; ++c) to[c] *= factor;
            total += std::log(sum) + most - z[label];
        }
        losses[i] = factor * static_cast<float>(total / static_cast<double>(size));
    }
    return true;
}

constexpr std::uint32_t kInfinite = 0x7f800000u;

// The largest |x|, as the bits of a float: infinity, or more for NaN, where not all are finite.
std::uint32_t largest(const float* x, Size count) {
    std::uint32_t most = 0;
    for (Size i = 0; i < count; ++i) most = std::max(most, bits<std::uint32_t>(x[i]) & 0x7fffffffu);
    return most;
}

// Whether no sum over rows of δ h, or of δ, can leave the range of floats.
bool in_range(Size rows, std::uint32_t delta, std::uint32_t h) {
    const double wider = std::max(1.0, static_cast<double>(bits<float>(h)));
    const double most = static_cast<double>(bits<float>(delta)) * wider * static_cast<double>(rows);
    return delta < kInfinite && h < kInfinite && most < std::numeric_limits<float>::max() / 2;
}

// The neurons that a gradient comes to: not those where it is zero in every row.
Places reached(Size rows, Size columns, const float* delta) {
    std::vector<std::uint32_t> any(columns);
    for (Size r = 0; r < rows; ++r)
        for (Size c = 0; c < columns; ++c) any[c] |= bits<std::uint32_t>(delta[r * columns + c]) << 1;  // no sign
    Places found;
    for (Size c = 0; c < columns; ++c)
        if (any[c]) found.push_back(c);
    return found;
}

// Those of 0 .. count - 1 that are not among `some`.
Places others(Size count, const Places& some) {
    const Places every = all(count);
    Places found;
    std::set_difference(every.begin(), every.end(), some.begin(), some.end(), std::back_inserter(found));
    return found;
}

// The live neurons, and those that the layers below hear of all the same: 0 times infinity is NaN.
Places heard(const Places& live, Size in, Size out, const float* w) {
    Places found = live;
    for (const Size c : others(out, live))
        if (largest(w + c * in, in) >= kInfinite) found.push_back(c);
    std::inplace_merge(found.begin(), found.begin() + live.size(), found.end());
    return found;
}

// dW = Σ over rows of δ hᵀ; or base - rate Σ. Nothing is added up where δ is zero in every row.
void weight_gradient(const Places& rows, Size in, Size out, const float* delta, const Places& live, const float* h,
                     float* to, const float* base, float rate, int threads) {
    multiply({live, rows, in, delta, 1, out, h, nullptr, to, base, rate}, threads);
    if (to == base) return;
    for (const Size c : others(out, live))
        base ? std::copy_n(base + c * in, in, to + c * in) : std::fill_n(to + c * in, in, 0.0f);
}

// Down to the layer `lowest`. scale (rows,), or null: the rows of all δ below the last layer, and what follows from
// them, are multiplied by it. With a rate, `to` is where the parameters come that have gone down along their gradients;
// false, and nothing is there, where a gradient could be out of range.
bool mlp_backward(const MlpLayers& of, const float* x, const std::vector<float*>& h, const float* grad,
                  const float* scale, const MlpGradients& to, int lowest, int threads) {
    const int last = of.last();
    const bool descends = to.rate.has_value();
    const float rate = to.rate.value_or(0);
    const Places rows = all(of.rows);
    const auto input = [&](int l) { return l ? h[l - 1] : x; };
    std::vector<const float*> delta(last + 1);
    std::vector<Places> live(last + 1);
    delta[last] = grad;
    if (of.relu_last) {
        for (Size i = 0; i < of.rows * of.widths[last + 1]; ++i) to.delta[last][i] = h[last][i] <= 0 ? 0.0f : grad[i];
        delta[last] = to.delta[last];
    }
    for (int l = last; l >= lowest; --l) {
        const Size out = of.widths[l + 1], in = of.widths[l];
        live[l] = reached(of.rows, out, delta[l]);
        float* const below = l > lowest ? to.delta[l - 1] : l == 0 ? to.x : nullptr;
        if (!below) continue;
        const Places depth = heard(live[l], in, out, of.weights[l]);
        multiply({rows, depth, in, delta[l], out, 1, of.weights[l], l ? h[l - 1] : nullptr, below}, threads);
        if (scale && l == last)
            for (Size row = 0; row < of.rows; ++row)
                for (Size c = 0; c < in; ++c) below[row * in + c] *= scale[row];
        if (l > lowest) delta[l - 1] = below;
    }
    for (int l = lowest; l <= last; ++l) {
        const Size out = of.widths[l + 1];
        const std::uint32_t most = largest(input(l), of.rows * of.widths[l]);
        if (descends && !in_range(of.rows, largest(delta[l], of.rows * out), most)) return false;
        // 0 times infinity is NaN, and -0 - (-rate) 0 is 0
        if (most >= kInfinite || !(rate >= 0 && std::isfinite(rate))) live[l] = all(out);
    }
    for (int l = last; l >= lowest; --l) {
        const Size out = of.widths[l + 1], in = of.widths[l];
        const float *const b = descends ? of.biases[l] : nullptr, *const w = descends ? of.weights[l] : nullptr;
        if (to.biases[l]) column_sums(of.rows, out, delta[l], to.biases[l], b, rate);
        if (to.weights[l])
            weight_gradient(rows, in, out, delta[l], live[l], input(l), to.weights[l], w, rate, threads);
    }
    return true;
}

// Of every row for itself the cross-entropy of its label, and its derivative with respect to x (rows, widths[0]) where dx
// is not null. False where a label is no column.
bool mlp_rows(const MlpLayers& of, const float* x, const Size* labels, float* losses, float* dx, int threads) {
    const Size layers = of.last() + 1;
    std::vector<float*> h(layers), delta(layers);
    std::vector<Size> at(layers + 1);
    for (Size l = 0; l < layers; ++l) at[l + 1] = at[l] + of.rows * of.widths[l + 1];
    const std::unique_ptr<float[]> room(new float[2 * at[layers]]);
    for (Size l = 0; l < layers; ++l) h[l] = room.get() + at[l], delta[l] = h[l] + at[layers];
    mlp_forward(of, x, h, threads);
    float* const of_logits = delta.back();
    const std::vector<Size> blocks(of.rows, 1);
    if (!softmax_losses(of.widths.back(), labels, blocks, {}, h.back(), losses, of_logits)) return false;
    delta.pop_back(), h.pop_back();
    const std::vector<float*> none(layers);
    if (dx) mlp_backward(of, x, h, of_logits, nullptr, {delta, none, none, dx, std::nullopt}, 0, threads);
    return true;
}

}  // namespace pcl::PCL_ISA
