// The ops of the memory edit on exactly sized heap buffers; see driver.cpp. Values are small multiples of 1/4, so that
// sums come out exactly in any order and can be compared with plain loops.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../channel_affine.hpp"
#include "../isa.hpp"
#include "../sample_conv.hpp"
#include "../simd.hpp"

PCL_EVERY_ISA(
    void channel_sums(const Layout&, int, const void*, const void*, double*, double*, int);
    void channel_affine(const Layout&, int, const void*, const double*, const void*, const double*, const double*,
                        void*, int);
    void sample_conv(const ConvShape&, bool, const void*, const void*, const void*, void*, void*, int);
    void sample_conv_transpose(const ConvShape&, bool, const void*, const void*, void*, int);)

namespace {

using namespace pcl;
using baseline::narrow, baseline::widen;

long calls = 0;

template <class T>
std::vector<T> quarters(Size n, std::mt19937& random) {
    std::vector<T> x(n);
    for (T& value : x) value = narrow<T>(0.25 * (int(random() % 9) - 4));
    return x;
}

template <class T>
void check(const std::vector<T>& found, const std::vector<double>& expected, const char* what) {
    ++calls;
    for (std::size_t i = 0; i < found.size(); ++i)
        if (widen(found[i]) != widen(narrow<T>(expected[i]))) {
            std::printf("wrong result: %s, element %ld, instruction set %d\n", what, long(i), int(current_isa()));
            std::exit(1);
        }
}

template <class T>
void channels(int dtype, const Layout& s, int threads) {
    std::mt19937 random{unsigned(s.channels)};
    const Size size = s.samples * s.channels * s.positions, of_samples = s.samples * s.channels;
    const auto u = quarters<T>(size, random), v = quarters<T>(size, random);
    const auto scale = quarters<double>(s.channels, random);
    const auto p = quarters<double>(of_samples, random), q = quarters<double>(of_samples, random);
    std::vector<T> out(size);
    std::vector<double> expected(size), plain(of_samples), product(of_samples), sums(of_samples), products(of_samples);
    for (Size b = 0; b < s.samples; ++b)
        for (Size c = 0; c < s.channels; ++c)
            for (Size l = 0; l < s.positions; ++l) {
                const Size at = b * s.channels * s.positions +
                                (s.channels_last ? l * s.channels + c : c * s.positions + l);
                const Size of_sample = b * s.channels + c;
                expected[at] = scale[c] * widen(u[at]) + p[of_sample] * widen(v[at]) + q[of_sample];
                plain[of_sample] += widen(u[at]);
                product[of_sample] += widen(u[at]) * widen(v[at]);
            }
    PCL_BEST(channel_affine)(s, dtype, u.data(), scale.data(), v.data(), p.data(), q.data(), out.data(), threads);
    check(out, expected, "channel_affine");
    PCL_BEST(channel_sums)(s, dtype, u.data(), v.data(), sums.data(), products.data(), threads);
    check(sums, plain, "channel_sums");
    check(products, product, "channel_sums of products");
}

template <class T>
void convolutions(ConvShape s, int threads) {
    s.out_height = (s.height + 2 * s.pad_y - s.step_y * (s.kernel_y - 1) - 1) / s.stride_y + 1;
    s.out_width = (s.width + 2 * s.pad_x - s.step_x * (s.kernel_x - 1) - 1) / s.stride_x + 1;
    std::mt19937 random{unsigned(s.in + s.out)};
    const Size image = s.height * s.width * s.in, map = s.out_height * s.out_width * s.out;
    const Size kernel = s.out * s.kernel_y * s.kernel_x * s.in;
    const auto a = quarters<T>(s.samples * image, random), delta = quarters<T>(s.samples * map, random);
    const auto minus = quarters<T>(kernel, random);
    std::vector<T> v(s.samples * kernel), out(s.samples * map), back(s.samples * image);
    std::vector<double> of_v(v.size()), of_out(out.size()), of_back(back.size());

    // calls visit(place in v, in the output map, in the image) for every product of a sample
    auto products = [&](auto&& visit) {
        for (Size o = 0; o < s.out; ++o)
            for (Size ky = 0; ky < s.kernel_y; ++ky)
                for (Size kx = 0; kx < s.kernel_x; ++kx)
                    for (Size i = 0; i < s.in; ++i)
                        for (Size y = 0; y < s.out_height; ++y)
                            for (Size x = 0; x < s.out_width; ++x) {
                                const Size row = y * s.stride_y + ky * s.step_y - s.pad_y;
                                const Size column = x * s.stride_x + kx * s.step_x - s.pad_x;
                                if (row < 0 || row >= s.height || column < 0 || column >= s.width) continue;
                                visit(((o * s.kernel_y + ky) * s.kernel_x + kx) * s.in + i,
                                      (y * s.out_width + x) * s.out + o, (row * s.width + column) * s.in + i);
                            }
    };
    for (Size b = 0; b < s.samples; ++b) {
        double* vb = of_v.data() + b * kernel;
        for (Size n = 0; n < kernel; ++n) vb[n] = -widen(minus[n]);
        products([&](Size w, Size l, Size p) { vb[w] += widen(delta[b * map + l]) * widen(a[b * image + p]); });
        products([&](Size w, Size l, Size p) {
            of_out[b * map + l] += vb[w] * widen(a[b * image + p]);
            of_back[b * image + p] += vb[w] * widen(delta[b * map + l]);
        });
    }
    const bool is_float = sizeof(T) == sizeof(float);
    PCL_BEST(sample_conv)(s, is_float, a.data(), delta.data(), minus.data(), v.data(), out.data(), threads);
    check(v, of_v, "sample_conv, kernels");
    check(out, of_out, "sample_conv");
    PCL_BEST(sample_conv_transpose)(s, is_float, v.data(), delta.data(), back.data(), threads);
    check(back, of_back, "sample_conv_transpose");
}

}  // namespace

// Returns how many results it has compared.
long edit_ops(int threads) {
    calls = 0;
    for (Size width : {1, 7, 16, 33}) {
        for (bool last : {false, true}) {
            channels<float>(f32, {3, width, 5, last}, threads);
            channels<double>(f64, {2, 3, width, last}, threads);
            channels<baseline::Float16>(f16, {2, width, 3, last}, threads);
            channels<baseline::Bfloat16>(bf16, {2, 2, width, last}, threads);
        }
    }
    for (const ConvShape& s : {ConvShape{1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0},
                               ConvShape{3, 5, 4, 9, 7, 3, 3, 1, 1, 1, 1, 1, 1, 0, 0},
                               ConvShape{2, 20, 3, 8, 20, 3, 3, 1, 1, 1, 1, 1, 1, 0, 0},
                               ConvShape{2, 17, 7, 6, 3, 1, 2, 2, 3, 0, 1, 1, 1, 0, 0},
                               ConvShape{2, 3, 7, 9, 33, 2, 3, 1, 2, 2, 1, 2, 2, 0, 0}}) {
        convolutions<float>(s, threads);
        convolutions<double>(s, threads);
    }
    return calls;
}
