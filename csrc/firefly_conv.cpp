// A 3 x 3 convolution with the stacked weights [W; Δ], then both halves of split neurons (firefly_split.cpp), in one pass
// over the input by Winograd's minimal filtering F(2x2, 3x3): 16 multiplications for four outputs in place of 36, and
// the input is transformed once for W and Δ.
//
// A tile is 2 x 2 outputs. The tiles of some samples lie one behind the other along the lanes, so that all transforms
// are additions of vectors. For 16 positions (k) of the transformed tile the sums over input channels are products of
// small matrices whose results stay in the first-level cache until the pass behind has taken them.
#include "firefly_layers.hpp"
#include "firefly_products.hpp"
#include "isa.hpp"
#include "turn.hpp"

namespace pcl::PCL_ISA {

constexpr Size kTiles = 1 << 17;  // numbers of transformed tiles that are walked together, in the second-level cache

// Tile (y, x) of sample n has place (y samples + n) columns + x among those that are walked together: the tile below
// lies at the same distance for all, and no lane is idle but behind the last.
struct Tiles {
    Size rows, columns;
    Size samples, below, groups;  // walked together: samples, tiles from one row to the next, groups of kGroup tiles

    explicit Tiles(const FireflyConv& s) {
        rows = (s.out_height() + 1) / 2, columns = (s.out_width() + 1) / 2;
        const Size of_sample = rows * columns, most = std::max<Size>(kTiles / (16 * s.in), 2 * kGroup);
        const auto whole = [&](Size n) { return (n * of_sample + kGroup - 1) / kGroup; };
        double best = 0;  // as few lanes idle as can be
        samples = 1;
        for (Size n = 1; n <= std::min<Size>(s.samples, 16) && (n == 1 || n * of_sample <= most); ++n) {
            const double used = double(n * of_sample) / double(whole(n) * kGroup);
            if (used > 1.01 * best) best = used, samples = n;
        }
        below = samples * columns, groups = whole(samples);
    }
    Size padded() const { return groups * kGroup; }
};

// G g Gᵀ of every kernel of W and Δ, as [k][W, Δ][neuron][input], and zeros where neurons or inputs are too few.
struct Kernels {
    Size rows, step;  // neurons of W, numbers from one to the next
    Room room;

    Kernels(const FireflyConv& s, const FireflyWeights& w)
        : rows(std::max<Size>(s.out, kHalf)), step((s.in + kFloats - 1) / kFloats * kFloats), room(32 * rows * step) {
        if (rows > s.out) std::fill_n(room.at, 32 * rows * step, 0.0f);
        for (int half = 0; half < 2; ++half)
            for (Size o = 0; o < s.out; ++o)
                for (Size i = 0; i < s.in; i += kFloats) {
                    Floats g[9];
                    const float* of_neuron = (half ? w.delta : w.weight) + o * s.in * 9;
                    load(of_neuron, s.in, i, w.channels_last, g);
                    transform(g, room.at + (half * rows + o) * step + i, 2 * rows * step);
                }
    }
    Rows at(int k, Size neuron) const {
        const float* weight = room.at + (2 * k * rows + neuron) * step;
        return {weight, weight + rows * step, step};
    }

  private:
    // The kernels of kFloats inputs from i on along the lanes; zeros beyond the last.
    static void load(const float* from, Size inputs, Size i, bool channels_last, Floats* g) {
        const int width = static_cast<int>(std::min<Size>(kFloats, inputs - i));
        if (channels_last) {
            for (int p = 0; p < 9; ++p) g[p] = load_part(from + p * inputs + i, width);
            return;
        }
        for (int p = 0; p < 9; ++p) {
            float lanes[kFloats] = {};
            for (int l = 0; l < width; ++l) lanes[l] = from[(i + l) * 9 + p];
            g[p] = load_lanes(lanes);
        }
    }
    static void transform(const Floats* g, float* to, Size from_k_to_k) {
        Floats half[4][3];
        for (int c = 0; c < 3; ++c) {
            const Floats sum = g[c] + g[6 + c];
            half[0][c] = g[c], half[1][c] = 0.5f * (sum + g[3 + c]);
            half[2][c] = 0.5f * (sum - g[3 + c]), half[3][c] = g[6 + c];
        }
        for (int r = 0; r < 4; ++r, to += 4 * from_k_to_k) {
            const Floats* h = half[r];
            const Floats sum = h[0] + h[2];
            store_lanes(to, h[0]), store_lanes(to + from_k_to_k, 0.5f * (sum + h[1]));
            store_lanes(to + 2 * from_k_to_k, 0.5f * (sum - h[1])), store_lanes(to + 3 * from_k_to_k, h[2]);
        }
    }
};

// Numbers at, at + 1, ... of rows of `width`, as a vector; zeros beyond the ends of a row.
class Window {
    Size at_;
    int from_, to_;  // lanes within the row

  public:
    Window(Size width, Size at)
        : at_(at), from_(static_cast<int>(std::clamp<Size>(-at, 0, kFloats))),
          to_(static_cast<int>(std::clamp<Size>(width - at, 0, kFloats))) {}
    Floats of(const float* row) const {
#if defined(__AVX512F__)
        return bits<Floats>(_mm512_maskz_loadu_ps(((1u << to_) - 1) & ~((1u << from_) - 1), row + at_));
#else
        if (from_ == 0 && to_ == kFloats) return load_lanes(row + at_);
        float room[kFloats] = {};
        for (int i = from_; i < to_; ++i) room[i] = row[at_ + i];
        return load_lanes(room);
#endif
    }
};

// Every second number of two vectors, from the one at `first` on.
template <std::size_t first, std::size_t... i>
inline Floats every_second(const Floats& a, const Floats& b, std::index_sequence<i...>) {
    return shuffled<float, (2 * i + first)...>(a, b);
}

// planes[row parity][column of the patch][tile] of one channel of one sample: what a tile at (y, x) reads in its rows
// 2y + parity, and with the tile below 2y + 2 + parity; zero beyond the image.
inline void spread(const FireflyConv& s, const Tiles& t, const float* image, float* planes, Size size) {
    constexpr auto lanes = std::make_index_sequence<kFloats>{};
    const Size padded = 2 * (t.rows + 1), stop = std::min(padded, s.height + s.pad_y);
    for (Size x = 0; x < t.columns; x += kFloats) {
        const int width = static_cast<int>(std::min<Size>(kFloats, t.columns - x));
        const Size at = 2 * x - s.pad_x;
        const Window one(s.width, at), two(s.width, at + kFloats), three(s.width, at + 2), four(s.width, at + 2 + kFloats);
        for (Size y = 0; y < padded; ++y) {
            Floats a{}, b{}, c{}, d{};
            if (y >= s.pad_y && y < stop) {
                const float* row = image + (y - s.pad_y) * s.width;
                a = one.of(row), b = two.of(row), c = three.of(row), d = four.of(row);
            }
            float* to = planes + y % 2 * 4 * size + y / 2 * t.below + x;
            store_part(to, every_second<0>(a, b, lanes), width);
            store_part(to + size, every_second<1>(a, b, lanes), width);
            store_part(to + 2 * size, every_second<0>(c, d, lanes), width);
            store_part(to + 3 * size, every_second<1>(c, d, lanes), width);
        }
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
        const float* even = planes + y % 2 * 2 * size + y / 2 * t.below;
        const float* odd = even + size;
        const Size pairs = s.out_width() / 2;
        for (Size x = 0; x < pairs; ++x) image[2 * x] = even[x], image[2 * x + 1] = odd[x];
        if (s.out_width() % 2) image[2 * pairs] = even[pairs];
    }
}

// y and, where `z` is not null, the pre-activations [a; d]; x, y and z in planes, or with the channels side by side.
void firefly_conv(const FireflyConv& s, const float* x, const FireflyWeights& w, const Firefly& f, float* y, float* z) {
    const Tiles t(s);
    const Kernels kernels(s, w);
    const Splits<float> splits(f);
    const Size blocks = (s.out + kHalf - 1) / kHalf, chunks = (s.samples + t.samples - 1) / t.samples;
    const int threads = static_cast<int>(std::min<Size>(f.threads, chunks));  // each has tiles of its own
    const Size size = t.padded() + t.below, pixels = s.height * s.width, results = s.out_height() * s.out_width();
    with_activation(f.activation, [&](auto activation) {
        using A = decltype(activation);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            Lined<float> planes(8 * size);
            const Room tiles(16 * s.in * t.padded()), out(4 * s.out * t.padded());
            const Room kept(z ? 8 * s.out * t.padded() : 0);
            const Room turned(s.channels_last ? std::max(t.samples * s.in * pixels, 2 * s.out * results) : 0);
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
                        spread(s, t, images + (n * s.in + i) * pixels, planes.at + n * t.columns, size);
                    for (Size g = 0; g < t.groups; ++g)
                        for (int v = 0; v < kVectors; ++v)
                            transform_input(planes.at + g * kGroup + v * kFloats, size, t.below,
                                            tiles.at + (g * 16 * s.in + i) * kGroup + v * kFloats, s.in * kGroup);
                }
                for (Size g = 0; g < t.groups; ++g)
                    for (Size block = 0; block < blocks; ++block) {
                        const Size neuron = block * kHalf, count = std::min<Size>(kHalf, s.out - neuron);
                        const Size start = std::min(neuron, kernels.rows - kHalf);  // the last rows for one more time
                        Floats m[16][kBoth][kVectors];
                        for (int k = 0; k < 16; ++k)
                            multiply<kVectors>(s.in, kernels.at(k, start), tiles.at + (g * 16 + k) * s.in * kGroup, m[k]);
                        for (Size c = neuron; c < neuron + count; ++c) {
                            const Split<float> of = splits.template at<false>(c);
                            const float b = w.bias ? w.bias[c] : 0, db = w.delta_bias ? w.delta_bias[c] : 0;
                            for (int v = 0; v < kVectors; ++v) {
                                Floats a[4], d[4];
                                transform_output(&m[0][c - start][v], kBoth * kVectors, b, a);
                                transform_output(&m[0][kHalf + c - start][v], kBoth * kVectors, db, d);
                                const Size at = g * kGroup + v * kFloats;
                                for (int p = 0; p < 4; ++p) {
                                    store_lanes(out.at + (4 * c + p) * t.padded() + at, half_sum<A>(of, a[p], d[p]));
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
                            gather(s, t, from + 4 * c * t.padded() + n * t.columns, t.padded(), images + c * results);
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

PCL_EVERY_ISA(void firefly_conv(const FireflyConv& s, const float* x, const FireflyWeights& w, const Firefly& f, float* y,
                                float* z);)

namespace pcl {

void register_firefly_conv(nanobind::module_& m) {
    // of: x, W, Δ, b, β; channels_last: of x, y and z, and of the weights
    m.def("firefly_conv", [](const std::array<Size, 7>& shape, bool channels_last, const FireflyOperands& of,
                             bool weights_last, const FireflyVectors& vectors, int activation, Address y, Address z,
                             int threads) {
        nanobind::gil_scoped_release release;
        const auto [samples, in, height, width, out, pad_y, pad_x] = shape;
        const Firefly f = firefly({samples, out, 1, false, f32, activation}, vectors, {0, 0}, {0, 0}, threads);
        PCL_BEST(firefly_conv)({samples, in, height, width, out, pad_y, pad_x, channels_last}, floats(of[0]),
                               weights(of, weights_last), f, floats(y), floats(z));
    });
    // y in the memory order of x. False, and nothing done, where anything is not as usual.
    m.def("firefly_conv_usual", [](const FireflyTensors& tensors, const std::array<Size, 2>& padding, int activation,
                                   bool refuse_grad, int threads) {
        UsualLayer u(tensors, refuse_grad, activation);
        if (!u.read(4) || u.x.dims != 4 || u.y.dims != 4) return false;
        const bool last = !u.x.contiguous();
        if (last ? !u.channels_last(u.x) || !u.channels_last(u.y) : !u.y.contiguous()) return false;
        const FireflyConv s{u.x.shape[0], u.x.shape[1], u.x.shape[2], u.x.shape[3],
                            u.w.shape[0], padding[0],   padding[1],   last};
        const Size of_y[] = {s.samples, s.out, s.out_height(), s.out_width()};
        if (u.w.shape[1] != s.in || !std::equal(of_y, of_y + 4, u.y.shape)) return false;
        u.firefly.threads = threads;
        nanobind::gil_scoped_release release;
        PCL_BEST(firefly_conv)(s, u.at(u.x), u.weights, u.firefly, u.at(u.y), nullptr);
        return true;
    });
}

}  // namespace pcl
#endif
