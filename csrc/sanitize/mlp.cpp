// The perceptron's kernels on exactly sized heap buffers; see driver.cpp. Results are compared with plain loops. Numbers
// are multiples of 1/8, so that sums are exact in any order.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../isa.hpp"
#include "../mlp.hpp"

PCL_EVERY_ISA(void mlp_forward(const MlpLayers& of, const float* x, const std::vector<float*>& h, int threads);
              bool softmax_losses(Size columns, const Size* labels, const std::vector<Size>& blocks,
                                  const std::vector<float>& factors, const float* logits, float* losses,
                                  float* of_logits);
              bool mlp_rows(const MlpLayers& of, const float* x, const Size* labels, float* losses, float* dx,
                            int threads);
              bool mlp_backward(const MlpLayers& of, const float* x, const std::vector<float*>& h, const float* grad,
                                const float* scale, const MlpGradients& to, int lowest, int threads);)

namespace {

using namespace pcl;
using Numbers = std::vector<float>;

long calls = 0;

void check(const Numbers& found, const Numbers& expected, float limit, const char* what) {
    ++calls;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        if (std::abs(found[i] - expected[i]) <= limit) continue;
        std::printf("wrong result: %s, entry %zu, instruction set %d\n", what, i, int(current_isa()));
        std::exit(1);
    }
}

Numbers eighths(Size n, std::mt19937& random) {
    Numbers x(n);
    for (float& value : x) value = 0.125f * (int(random() % 9) - 4);
    return x;
}

void chain(Size rows, const std::vector<Size>& widths, bool relu_last, int threads) {
    std::mt19937 random(rows + widths[0]);
    const Size layers = widths.size() - 1, columns = widths.back();
    Numbers x = eighths(rows * widths[0], random), grad = eighths(rows * columns, random), scale(rows);
    for (Size r = 0; r < rows; ++r) scale[r] = r % 2 ? 0.5f : 2.0f;
    std::vector<Numbers> w, b, h, z;
    for (Size l = 0; l < layers; ++l) {
        const Size in = widths[l], out = widths[l + 1];
        w.push_back(eighths(out * in, random)), b.push_back(eighths(out, random)), h.emplace_back(rows * out);
        const Numbers& a = l ? z[l - 1] : x;
        Numbers of(rows * out);
        for (Size r = 0; r < rows; ++r)
            for (Size o = 0; o < out; ++o) {
                float sum = l % 2 ? 0 : b[l][o];
                for (Size i = 0; i < in; ++i) sum += a[r * in + i] * w[l][o * in + i];
                of[r * out + o] = (relu_last || l + 1 < layers) && sum < 0 ? 0 : sum;
            }
        z.push_back(of);
    }
    MlpLayers of{rows, widths, {}, {}, relu_last};
    std::vector<float*> at;
    for (Size l = 0; l < layers; ++l) {
        of.weights.push_back(w[l].data()), of.biases.push_back(l % 2 ? nullptr : b[l].data());
        at.push_back(h[l].data());
    }
    PCL_BEST(mlp_forward)(of, x.data(), at, threads);
    for (Size l = 0; l < layers; ++l) check(h[l], z[l], 1e-3f, "mlp_forward");

    const Size kept = relu_last ? layers : layers - 1;
    std::vector<Numbers> delta, dw, db;
    MlpGradients to;
    for (Size l = 0; l < layers; ++l) {
        delta.emplace_back(l < kept ? h[l].size() : 0), dw.emplace_back(w[l].size(), 9.0f), db.emplace_back(widths[l + 1], 9.0f);
        if (l < kept) to.delta.push_back(delta[l].data());
        to.weights.push_back(dw[l].data()), to.biases.push_back(db[l].data());
    }
    Numbers dx(x.size());
    to.x = dx.data();
    PCL_BEST(mlp_backward)(of, x.data(), at, grad.data(), relu_last ? nullptr : scale.data(), to, 0, threads);
    Numbers now = grad;
    for (Size l = layers - 1; l >= 0; --l) {
        const Size in = widths[l], out = widths[l + 1];
        const Numbers& a = l ? z[l - 1] : x;
        if (l < kept)
            for (std::size_t i = 0; i < now.size(); ++i) now[i] = z[l][i] > 0 ? now[i] : 0;
        Numbers weight(out * in), bias(out), below(rows * in);
        for (Size r = 0; r < rows; ++r)
            for (Size o = 0; o < out; ++o) {
                const float d = now[r * out + o];
                bias[o] += d;
                for (Size i = 0; i < in; ++i) weight[o * in + i] += d * a[r * in + i];
                const float down = !relu_last && l == layers - 1 ? d * scale[r] : d;
                for (Size i = 0; i < in; ++i) below[r * in + i] += down * w[l][o * in + i];
            }
        check(dw[l], weight, 1e-2f, "mlp_backward, weights");
        check(db[l], bias, 1e-2f, "mlp_backward, biases");
        now = below;
    }
    check(dx, now, 1e-2f, "mlp_backward, x");

    if (!relu_last) {  // a step down, to other places and in place
        std::vector<Numbers> there_w = w, there_b = b;
        MlpGradients ahead{to.delta, {}, {}, nullptr, 0.5f};
        for (Size l = 0; l < layers; ++l) {
            there_w[l].assign(w[l].size(), 9.0f);
            ahead.weights.push_back(there_w[l].data()), ahead.biases.push_back(of.biases[l] ? there_b[l].data() : nullptr);
            for (std::size_t i = 0; i < dw[l].size(); ++i) dw[l][i] = w[l][i] - 0.5f * dw[l][i];
        }
        for (bool in_place : {false, true}) {
            if (in_place) ahead.weights = of.weights, ahead.biases = of.biases;
            if (!PCL_BEST(mlp_backward)(of, x.data(), at, grad.data(), scale.data(), ahead, 0, threads)) std::abort();
            for (Size l = 0; l < layers; ++l) check(in_place ? w[l] : there_w[l], dw[l], 1e-2f, "mlp_backward, a step");
        }
        Numbers infinite(grad.size(), INFINITY);
        if (PCL_BEST(mlp_backward)(of, x.data(), at, infinite.data(), scale.data(), ahead, 0, threads)) std::abort();
    }

    std::vector<Size> labels(rows);
    for (Size r = 0; r < rows; ++r) labels[r] = r % columns;
    const std::vector<Size> blocks = rows > 1 ? std::vector<Size>{1, rows - 1} : std::vector<Size>{rows};
    Numbers losses(blocks.size()), slopes(rows * columns), expected(blocks.size());
    std::vector<float> factors(blocks.size(), 2.0f);
    factors[0] = 0;
    PCL_BEST(softmax_losses)(columns, labels.data(), blocks, factors, z.back().data(), losses.data(), slopes.data());
    for (Size i = 0, r = 0; i < Size(blocks.size()); ++i)
        for (const Size end = r + blocks[i]; r < end; ++r) {
            double sum = 0;
            for (Size c = 0; c < columns; ++c) sum += std::exp(double(z.back()[r * columns + c]));
            const double loss = std::log(sum) - z.back()[r * columns + labels[r]];
            expected[i] += float(factors[i] * loss / blocks[i]);
        }
    check(losses, expected, 1e-3f, "softmax_losses");

    if (relu_last) return;
    const std::vector<Size> alone(rows, 1);
    Numbers of_rows(rows), by_itself(rows), below(x.size());
    PCL_BEST(mlp_forward)(of, x.data(), at, threads);
    PCL_BEST(softmax_losses)(columns, labels.data(), alone, {}, at.back(), of_rows.data(), slopes.data());
    to.weights.assign(layers, nullptr), to.biases.assign(layers, nullptr);
    PCL_BEST(mlp_backward)(of, x.data(), at, slopes.data(), nullptr, to, 0, threads);
    if (!PCL_BEST(mlp_rows)(of, x.data(), labels.data(), by_itself.data(), below.data(), threads)) std::abort();
    check(by_itself, of_rows, 0.0f, "mlp_rows, losses");
    check(below, dx, 0.0f, "mlp_rows, slopes");
    labels[0] = columns;
    if (PCL_BEST(mlp_rows)(of, x.data(), labels.data(), by_itself.data(), nullptr, threads)) std::abort();
}

}  // namespace

// Returns how many results it has compared.
long mlp_ops(int threads) {
    calls = 0;
    for (bool relu_last : {false, true}) {
        chain(1, {1, 1}, relu_last, threads);
        chain(3, {7, 5, 2}, relu_last, threads);
        chain(20, {33, 18, 5, 10}, relu_last, threads);
        chain(9, {64, 129, 67}, relu_last, threads);
    }
    return calls;
}
