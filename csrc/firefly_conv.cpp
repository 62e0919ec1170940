// A 3 x 3 convolution with the stacked weights [W; Δ], then both halves of split neurons (firefly_split.cpp), in one pass
// over the input by Winograd's minimal filtering F(2x2, 3x3): 16 multiplications for four outputs in place of 36, and
// the input is transformed once for W and Δ.
//
// A tile is 2 x 2 outputs. The tiles of some samples lie one behind the other along the lanes, so that all transforms
// are additions of vectors. For 16 positions (k) of the transformed tile the sums over input channels are products of
// small matrices whose results stay in the first-level cache until the pass behind has taken them.
#include "firefly_conv.hpp"

#include "firefly_lanes.hpp"
#include "isa.hpp"
#include "turn.hpp"

namespace pcl::PCL_ISA {

typedef Scan<float> Floats;
constexpr int kFloats = kScanLanes<float>;
constexpr int kHalf = 4, kBoth = 2 * kHalf;                // neurons of a block; their rows of W, then those of Δ
constexpr int kVectors = kRegisters == 32 ? 2 : 1;         // vectors of tiles side by side: 16 (8) accumulators
constexpr int kGroup = kVectors * kFloats;

struct Tiles {
    Size rows, columns, of_sample;  // of_sample: from one sample to the next, with a row that is not used
    Size samples, count, groups;    // walked together: samples, tiles, groups of kGroup tiles

    explicit Tiles(const FireflyConv& s) {
        rows = (s.out_height() + 1) / 2, columns = (s.out_width() + 1) / 2, of_sample = (rows + 1) * columns;
        double best = 0;  // as few lanes idle as can be, within the second-level cache
        samples = 1;
        for (Size n = 1; n <= std::min<Size>(s.samples, 16) && (n == 1 || n * of_sample <= 320); ++n) {
            const Size needed = n * of_sample - columns, whole = (needed + kGroup - 1) / kGroup * kGroup;
            const double used = double(n * rows * columns) / double(whole);
            if (used > 1.01 * best) best = used, samples = n;
        }
        count = samples * of_sample - columns, groups = (count + kGroup - 1) / kGroup;
    }
    Size padded() const { return groups * kGroup; }
};

// G g Gᵀ of every kernel, as [block of neurons][k][input][row of the block].
inline std::vector<float> transformed_weights(const FireflyConv& s, const float* weights) {
    const Size blocks = (s.out + kHalf - 1) / kHalf;
    std::vector<float> to(blocks * 16 * s.in * kBoth);
    for (Size o = 0; o < 2 * s.out; ++o) {
        const Size neuron = o % s.out, row = neuron % kHalf + (o < s.out ? 0 : kHalf);
        for (Size i = 0; i < s.in; ++i) {
            const float* g = weights + (o * s.in + i) * 9;
            float half[4][3];
            for (int c = 0; c < 3; ++c) {
                const float sum = g[c] + g[6 + c];
                half[0][c] = g[c], half[1][c] = 0.5f * (sum + g[3 + c]);
                half[2][c] = 0.5f * (sum - g[3 + c]), half[3][c] = g[6 + c];
            }
            for (int r = 0; r < 4; ++r) {
                const float* h = half[r];
                const float sum = h[0] + h[2], u[4] = {h[0], 0.5f * (sum + h[1]), 0.5f * (sum - h[1]), h[2]};
                for (int c = 0; c < 4; ++c) to[((neuron / kHalf * 16 + r * 4 + c) * s.in + i) * kBoth + row] = u[c];
            }
        }
    }
    return to;
}

// planes[row parity][column of the patch][tile] of one channel of one sample: what a tile at (y, x) reads in its rows
// 2y + parity, and with the tile below 2y + 2 + parity; zero beyond the image. `line` is a row of the padded image.
inline void spread(const FireflyConv& s, const Tiles& t, const float* image, float* planes, Size size, float* line) {
    std::fill_n(line, 2 * t.columns + 2, 0.0f);
    for (Size y = 0; y < 2 * (t.rows + 1); ++y) {
        float* to = planes + y % 2 * 4 * size + y / 2 * t.columns;
        const Size row = y - s.pad_y;
        if (row < 0 || row >= s.height) {
            for (int c = 0; c < 4; ++c) std::fill_n(to + c * size, t.columns, 0.0f);
            continue;
        }
        std::copy_n(image + row * s.width, s.width, line + s.pad_x);
        for (Size x = 0; x < t.columns; ++x)
            for (int c = 0; c < 4; ++c) to[c * size + x] = line[2 * x + c];
    }
}

// Bᵀ d B of kFloats tiles: 16 vectors, `step` numbers apart.
inline void transform_input(const float* planes, Size size, Size below, float* to, Size step) {
    Floats d[4][4], half[4][4];
    for (int r = 0; r < 4; ++r)
        for (int c = 0; c < 4; ++c) d[r][c] = load_lanes(planes + ((r & 1) * 4 + c) * size + (r >> 1) * below);
    for (int c = 0; c < 4; ++c) {
        half[0][c] = d[0][c] - d[2][c], half[1][c] = d[1][c] + d[2][c];
        half[2][c] = d[2][c] - d[1][c], half[3][c] = d[1][c] - d[3][c];
    }
    for (int r = 0; r < 4; ++r) {
        const Floats* h = half[r];
        store_lanes(to + (4 * r + 0) * step, h[0] - h[2]), store_lanes(to + (4 * r + 1) * step, h[1] + h[2]);
        store_lanes(to + (4 * r + 2) * step, h[2] - h[1]), store_lanes(to + (4 * r + 3) * step, h[1] - h[3]);
    }
}

// out[row][vector] = Σ over inputs of weights[input][row] tiles[input][vector]
inline void multiply(Size inputs, const float* weights, const float* tiles, Floats* out) {
    Floats sum[kBoth][kVectors] = {};
    for (Size i = 0; i < inputs; ++i, weights += kBoth, tiles += kGroup) {
        Floats tile[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) tile[v] = load_lanes(tiles + v * kFloats);
#pragma GCC unroll 8
        for (int r = 0; r < kBoth; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) sum[r][v] += weights[r] * tile[v];
    }
    for (int r = 0; r < kBoth; ++r)
        for (int v = 0; v < kVectors; ++v) out[r * kVectors + v] = sum[r][v];
}

// Aᵀ m A + bias of vector `at` of every k: the outputs (0, 0), (0, 1), (1, 0), (1, 1) of the tiles.
inline void transform_output(const Floats* m, Size step, float bias, Floats* y) {
    Floats half[2][4];
    for (int c = 0; c < 4; ++c) {
        const Floats one = m[(4 + c) * step], two = m[(8 + c) * step];
        half[0][c] = m[c * step] + one + two, half[1][c] = one - two - m[(12 + c) * step];
    }
    for (int r = 0; r < 2; ++r) {
        y[2 * r] = half[r][0] + half[r][1] + half[r][2] + bias;
        y[2 * r + 1] = half[r][1] - half[r][2] - half[r][3] + bias;
    }
}

// The image of one channel from its four planes of outputs.
inline void gather(const FireflyConv& s, const Tiles& t, const float* planes, Size size, float* image) {
    for (Size y = 0; y < s.out_height(); ++y, image += s.out_width()) {
        const float* even = planes + y % 2 * 2 * size + y / 2 * t.columns;
        const float* odd = even + size;
        const Size pairs = s.out_width() / 2;
        for (Size x = 0; x < pairs; ++x) image[2 * x] = even[x], image[2 * x + 1] = odd[x];
        if (s.out_width() % 2) image[2 * pairs] = even[pairs];
    }
}

// y and, where `z` is not null, the pre-activations [a; d]; x, y and z in planes, or with the channels side by side.
void firefly_conv(const FireflyConv& s, const float* x, const float* weights, const float* biases, const Firefly& f,
                  float* y, float* z) {
    const Tiles t(s);
    const auto u = transformed_weights(s, weights);
    const Splits<float> splits(f);
    const Size blocks = (s.out + kHalf - 1) / kHalf, chunks = (s.samples + t.samples - 1) / t.samples;
    const Size size = t.padded() + t.columns, pixels = s.height * s.width, results = s.out_height() * s.out_width();
    with_activation(f.activation, [&](auto activation) {
        using A = decltype(activation);
#pragma omp parallel num_threads(f.threads) if (f.threads > 1)
        {
            Lined<float> planes(8 * size), tiles(16 * s.in * t.padded()), out(4 * s.out * t.padded());
            Lined<float> kept(z ? 8 * s.out * t.padded() : 0), line(2 * t.columns + 2 + s.width);
            Lined<float> turned(s.channels_last ? std::max(t.samples * s.in * pixels, 2 * s.out * results) : 0);
#pragma omp for schedule(static)
            for (Size chunk = 0; chunk < chunks; ++chunk) {
                const Size first = chunk * t.samples, here = std::min(t.samples, s.samples - first);
                const float* images = x + first * s.in * pixels;
                if (s.channels_last) {
                    for (Size n = 0; n < here; ++n)
                        turn(images + n * s.in * pixels, s.in, pixels, s.in, turned.at + n * s.in * pixels, pixels);
                    images = turned.at;
                }
                for (Size i = 0; i < s.in; ++i) {
                    for (Size n = 0; n < here; ++n)
                        spread(s, t, images + (n * s.in + i) * pixels, planes.at + n * t.of_sample, size, line.at);
                    for (Size g = 0; g < t.groups; ++g)
                        for (int v = 0; v < kVectors; ++v)
                            transform_input(planes.at + g * kGroup + v * kFloats, size, t.columns,
                                            tiles.at + (g * 16 * s.in + i) * kGroup + v * kFloats, s.in * kGroup);
                }
                for (Size g = 0; g < t.groups; ++g)
                    for (Size block = 0; block < blocks; ++block) {
                        Floats m[16][kBoth * kVectors];
                        for (int k = 0; k < 16; ++k)
                            multiply(s.in, u.data() + (block * 16 + k) * s.in * kBoth,
                                     tiles.at + (g * 16 + k) * s.in * kGroup, m[k]);
                        for (Size c = block * kHalf; c < std::min(s.out, (block + 1) * kHalf); ++c) {
                            const Split<float> of = splits.template at<false>(c);
                            const float b = biases ? biases[c] : 0, db = biases ? biases[s.out + c] : 0;
                            for (int v = 0; v < kVectors; ++v) {
                                const Floats* row = &m[0][c % kHalf * kVectors + v];
                                Floats a[4], d[4];
                                transform_output(row, kBoth * kVectors, b, a);
                                transform_output(row + kHalf * kVectors, kBoth * kVectors, db, d);
                                const Size at = g * kGroup + v * kFloats;
                                for (int p = 0; p < 4; ++p) {
                                    const Floats base = of.scale * a[p] + of.shift;
                                    const Floats both = A::value(base + of.plus * d[p]) + A::value(base + of.minus * d[p]);
                                    store_lanes(out.at + (4 * c + p) * t.padded() + at, both * 0.5f);
                                    if (!z) continue;
                                    store_lanes(kept.at + (4 * c + p) * t.padded() + at, a[p]);
                                    store_lanes(kept.at + (4 * (s.out + c) + p) * t.padded() + at, d[p]);
                                }
                            }
                        }
                    }
                for (Size n = 0; n < here; ++n) {
                    const auto all_channels = [&](Size channels, const float* from, float* to) {
                        to += (first + n) * channels * results;
                        float* images = s.channels_last ? turned.at : to;
                        for (Size c = 0; c < channels; ++c)
                            gather(s, t, from + 4 * c * t.padded() + n * t.of_sample, t.padded(), images + c * results);
                        if (s.channels_last) turn(images, results, channels, results, to, channels);
                    };
                    all_channels(s.out, out.at, y);
                    if (z) all_channels(2 * s.out, kept.at, z);
                }
            }
        }
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include "firefly_bindings.hpp"

PCL_EVERY_ISA(void firefly_conv(const FireflyConv& s, const float* x, const float* weights, const float* biases,
                                const Firefly& f, float* y, float* z);)

namespace pcl {

void register_firefly_conv(pybind11::module_& m) {
    using Address = std::uintptr_t;
    m.def("firefly_conv", [](const std::array<Size, 7>& shape, bool channels_last, Address x, Address weights, Address biases,
                             const FireflyVectors& vectors, int activation, Address y, Address z, int threads) {
        pybind11::gil_scoped_release release;
        const auto [samples, in, height, width, out, pad_y, pad_x] = shape;
        const auto floats = [](Address at) { return reinterpret_cast<float*>(at); };
        const Firefly f = firefly({samples, out, 1, false, 0, activation}, vectors, {0, 0}, {0, 0}, threads);
        PCL_BEST(firefly_conv)({samples, in, height, width, out, pad_y, pad_x, channels_last}, floats(x), floats(weights),
                               floats(biases), f, floats(y), floats(z));
    });
}

}  // namespace pcl
#endif
