// The Firefly ops on exactly sized heap buffers; see driver.cpp. Compared with plain loops in double.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../firefly_layers.hpp"
#include "../isa.hpp"
#include "../simd.hpp"

PCL_EVERY_ISA(
    void firefly_split(const Firefly&, const FireflyTensor&);
    void firefly_split_backward(const Firefly&, const FireflyTensor&, const FireflyTensor&, const FireflyTensor&,
                                double*);
    void firefly_score(const Firefly&, const FireflyTensor&, int, double*);
    void firefly_conv(const FireflyConv&, const float*, const FireflyWeights&, const Firefly&, float*, float*);
    void firefly_linear(const FireflyLinear&, const float*, const FireflyWeights&, const Firefly&, float*, float*);)

namespace {

using namespace pcl;
using baseline::narrow, baseline::widen;

long calls = 0;

template <class T>
std::vector<T> numbers(Size n, std::mt19937& random) {
    std::uniform_real_distribution<double> in(-1, 1);
    std::vector<T> x(n);
    for (T& value : x) value = narrow<T>(in(random));
    return x;
}

template <class T>
void check(const std::vector<T>& found, const std::vector<double>& expected, double tolerance, const char* what) {
    ++calls;
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!(std::fabs(widen(found[i]) - expected[i]) <= tolerance * (1 + std::fabs(expected[i])))) {
            std::printf("wrong result: %s, element %ld: %g, expected %g, instruction set %d\n", what, long(i),
                        widen(found[i]), expected[i], int(current_isa()));
            std::exit(1);
        }
}

// By the numbers of pcl_kernels/firefly_split/checks.py.
double value(int activation, double u) {
    switch (activation) {
        case 0: return u;
        case 1: return u > 0 ? u : 0;
        case 2: return u * 0.5 * std::erfc(-u / std::sqrt(2));
        case 3: return u / (1 + std::exp(-u));
        case 4: return std::tanh(u);
        case 5: return 1 / (1 + std::exp(-u));
        default: return std::exp(-u * u / 2);
    }
}
double slope(int activation, double u) {
    if (activation == 1) return u > 0;
    const double h = 1e-5;  // good for 1e-10
    return (value(activation, u + h) - value(activation, u - h)) / (2 * h);
}

template <class T>
void of_layers(int dtype, int activation, Size samples, Size m, Size positions, bool rows, Size gap, int threads) {
    std::mt19937 random{unsigned(m + positions)};
    const Size outer = rows ? samples * positions : samples, block = rows ? m : m * positions, step = block + gap;
    const Size size = outer ? outer * step - gap : 0;
    const auto a = numbers<T>(size, random), d = numbers<T>(size, random), g = numbers<T>(outer * block, random);
    const auto epsilon = numbers<double>(m, random), scale = numbers<double>(m, random);
    const auto shift = numbers<double>(m, random);
    std::vector<double> mirror(m);
    for (double& x : mirror) x = random() % 2 ? 1 : -1;
    std::vector<T> y(outer * block), da(size), dd(size);
    std::vector<double> sums(3 * m), score(m);
    std::vector<double> want_y(y.size()), want_da(size), want_dd(size), want_sums(3 * m), want_score(m);
    for (Size b = 0; b < outer; ++b)
        for (Size i = 0; i < block; ++i) {
            const Size c = rows ? i : i / positions, at = b * step + i, to = b * block + i;
            const double s = scale[c], e = epsilon[c], x = widen(a[at]), v = widen(d[at]), grad = widen(g[to]);
            const double plus = s * (x + e * v) + shift[c], minus = s * (x + mirror[c] * e * v) + shift[c];
            want_y[to] = (value(activation, plus) + value(activation, minus)) / 2;
            const double up = grad / 2 * slope(activation, plus), down = grad / 2 * slope(activation, minus);
            want_da[at] = s * (up + down), want_dd[at] = s * e * (up + mirror[c] * down);
            want_sums[c] += s * v * (up + mirror[c] * down);
            want_sums[m + c] += up * (x + e * v) + down * (x + mirror[c] * e * v);
            want_sums[2 * m + c] += up + down;
            for (int z = 1; z <= 2; ++z) {
                const double part = (2 * z - 1) / 4.0 * e;
                want_score[c] += grad * s * v / 4 *
                                 (slope(activation, s * (x + part * v) + shift[c]) +
                                  mirror[c] * slope(activation, s * (x + mirror[c] * part * v) + shift[c]));
            }
        }
    const auto tensor = [](const std::vector<T>& t, Size step) {
        return FireflyTensor{reinterpret_cast<std::uintptr_t>(t.data()), step};
    };
    const Firefly f{outer,          m,            rows ? 1 : positions, rows,          dtype,           activation,
                    epsilon.data(), scale.data(), shift.data(),         mirror.data(), tensor(a, step), tensor(d, step),
                    threads};
    PCL_BEST(firefly_split)(f, tensor(y, block));
    PCL_BEST(firefly_split_backward)(f, tensor(g, block), tensor(da, step), tensor(dd, step), sums.data());
    PCL_BEST(firefly_score)(f, tensor(g, block), 2, score.data());
    // relu may take the other side of 0 where a number lies within a rounding of it; none does here
    const double summed = dtype == f64 ? 1e-8 : 1e-4, rounded = dtype == f16 ? 1e-3 : dtype == bf16 ? 8e-3 : summed;
    check(y, want_y, rounded, "firefly_split"), check(da, want_da, rounded, "firefly_split, da");
    check(dd, want_dd, rounded, "firefly_split, dd"), check(sums, want_sums, summed, "firefly_split, sums");
    check(score, want_score, summed, "firefly_score");
}

void of_convolutions(FireflyConv s, bool weights_last, int activation, bool keep, int threads) {
    std::mt19937 random{unsigned(s.in + s.out + s.height)};
    const Size results = s.out_height() * s.out_width();
    const auto x = numbers<float>(s.samples * s.in * s.height * s.width, random);
    const auto weights = numbers<float>(2 * s.out * s.in * 9, random), biases = numbers<float>(2 * s.out, random);
    const auto epsilon = numbers<double>(s.out, random);
    std::vector<float> y(s.samples * s.out * results), z(keep ? 2 * y.size() : 0);
    std::vector<double> want_z(2 * y.size()), want_y(y.size());
    const auto place = [&](Size b, Size c, Size at, Size channels, Size positions) {
        return s.channels_last ? (b * positions + at) * channels + c : (b * channels + c) * positions + at;
    };
    for (Size b = 0; b < s.samples; ++b) {
        for (Size o = 0; o < 2 * s.out; ++o)
            for (Size at = 0; at < results; ++at) {
                double sum = biases[o];
                for (Size i = 0; i < s.in; ++i)
                    for (Size k = 0; k < 9; ++k) {
                        const Size row = at / s.out_width() + k / 3 - s.pad_y, column = at % s.out_width() + k % 3 - s.pad_x;
                        if (row >= 0 && row < s.height && column >= 0 && column < s.width)
                            sum += double(weights[weights_last ? (o * 9 + k) * s.in + i : (o * s.in + i) * 9 + k]) *
                                   x[place(b, i, row * s.width + column, s.in, s.height * s.width)];
                    }
                want_z[place(b, o, at, 2 * s.out, results)] = sum;
            }
        for (Size c = 0; c < s.out; ++c)
            for (Size at = 0; at < results; ++at) {
                const double a = want_z[place(b, c, at, 2 * s.out, results)];
                const double d = epsilon[c] * want_z[place(b, s.out + c, at, 2 * s.out, results)];
                want_y[place(b, c, at, s.out, results)] = (value(activation, a + d) + value(activation, a - d)) / 2;
            }
    }
    const Firefly f{0, s.out, 1, false, f32, activation, epsilon.data(), nullptr, nullptr, nullptr, {}, {}, threads};
    // Δ and β in buffers of their own, so that the end of W and b is seen
    const std::vector<float> w(weights.begin(), weights.begin() + s.out * s.in * 9), b(biases.begin(), biases.begin() + s.out);
    const std::vector<float> delta(weights.begin() + w.size(), weights.end()), db(biases.begin() + s.out, biases.end());
    const FireflyWeights of{w.data(), delta.data(), b.data(), db.data(), weights_last};
    PCL_BEST(firefly_conv)(s, x.data(), of, f, y.data(), keep ? z.data() : nullptr);
    check(y, want_y, 1e-4, "firefly_conv");
    want_z.resize(z.size());
    check(z, want_z, 1e-4, "firefly_conv, pre-activations");
}

void of_linear(FireflyLinear s, int activation, bool keep, int threads) {
    std::mt19937 random{unsigned(s.in + s.out + s.samples)};
    const auto x = numbers<float>(s.samples * s.in, random), w = numbers<float>(s.out * s.in, random);
    const auto delta = numbers<float>(s.out * s.in, random), b = numbers<float>(s.out, random);
    const auto epsilon = numbers<double>(s.out, random);
    std::vector<float> y(s.samples * s.out), z(keep ? 2 * y.size() : 0);
    std::vector<double> want_y(y.size()), want_z(2 * y.size());
    for (Size n = 0; n < s.samples; ++n)
        for (Size c = 0; c < s.out; ++c) {
            double a = b[c], d = 0;
            for (Size i = 0; i < s.in; ++i)
                a += double(w[c * s.in + i]) * x[n * s.in + i], d += double(delta[c * s.in + i]) * x[n * s.in + i];
            want_z[n * 2 * s.out + c] = a, want_z[n * 2 * s.out + s.out + c] = d;
            d *= epsilon[c];
            want_y[n * s.out + c] = (value(activation, a + d) + value(activation, a - d)) / 2;
        }
    const Firefly f{s.samples, s.out, 1, true, f32, activation, epsilon.data(), nullptr, nullptr, nullptr, {}, {}, threads};
    PCL_BEST(firefly_linear)(s, x.data(), {w.data(), delta.data(), b.data(), nullptr, false}, f, y.data(),
                             keep ? z.data() : nullptr);
    check(y, want_y, 1e-4, "firefly_linear");
    want_z.resize(z.size());
    check(z, want_z, 1e-4, "firefly_linear, pre-activations");
}

}  // namespace

// Returns how many results it has compared.
long firefly_ops(int threads) {
    calls = 0;
    for (int activation = 0; activation < 7; ++activation)
        for (bool rows : {false, true})
            for (Size m : {1, 7, 16, 35})
                for (Size positions : {Size{1}, Size{5}, Size{33}, 1500 / (m + 1)}) {
                    of_layers<float>(f32, activation, 3, m, positions, rows, m, threads);
                    of_layers<double>(f64, activation, 2, m, positions, rows, 0, threads);
                    of_layers<baseline::Float16>(f16, activation, 2, m, positions, rows, 3, threads);
                    of_layers<baseline::Bfloat16>(bf16, activation, 2, m, positions, rows, 0, threads);
                }
    for (FireflyConv s : {FireflyConv{1, 1, 1, 1, 1, 1, 1, false}, FireflyConv{19, 2, 3, 4, 5, 1, 1, false},
                          FireflyConv{3, 17, 8, 8, 16, 1, 1, false}, FireflyConv{2, 3, 17, 33, 4, 0, 2, false},
                          FireflyConv{2, 17, 9, 5, 3, 2, 0, false}})
        for (bool last : {false, true})
            for (bool keep : {false, true}) {
                s.channels_last = last;
                for (bool weights_last : {false, true}) of_convolutions(s, weights_last, keep ? 1 : 2, keep, threads);
            }
    for (FireflyLinear s : {FireflyLinear{1, 1, 1}, FireflyLinear{5, 3, 2}, FireflyLinear{33, 17, 7}, FireflyLinear{150, 20, 25},
                            FireflyLinear{40, 1024, 13}, FireflyLinear{70, 4100, 6}})
        for (bool keep : {false, true}) of_linear(s, keep ? 1 : 2, keep, threads);
    return calls;
}
