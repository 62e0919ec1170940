// The products [W x + b; Δ x + β] of a Linear layer and both halves of its split neurons (firefly_split.cpp), which are
// taken while the products are in registers.
//
// Samples lie along the lanes: x is turned once, in panels of kGroup samples, and every number of kHalf rows each of W
// and Δ is broadcast once for a panel. y is turned back at the end.
#include "firefly_linear.hpp"

#include <memory>

#include "firefly_lanes.hpp"
#include "isa.hpp"
#include "turn.hpp"

namespace pcl::PCL_ISA {
namespace linear {

typedef Scan<float> Floats;
constexpr int kFloats = kScanLanes<float>;
constexpr int kHalf = kRegisters == 32 ? 6 : 3, kBoth = 2 * kHalf;  // neurons together; their rows of W, then of Δ
constexpr int kVectors = 2, kGroup = kVectors * kFloats;            // a panel; kBoth * kVectors accumulators
constexpr Size kPanels = 1 << 17;  // numbers of x in the panels that are walked together, in the second-level cache

// Room for n floats on a cache line of its own, not cleared.
class Room {
    std::unique_ptr<float[]> memory_;

  public:
    float* at;
    explicit Room(Size n) : memory_(new float[n + kFloats]) {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
        at = reinterpret_cast<float*>((address + kScanBytes - 1) / kScanBytes * kScanBytes);
    }
};

// Rows of W and of Δ, `step` numbers apart.
struct Rows {
    const float *weight, *delta;
    Size step;
};

// Σ over inputs of row[input] panel[input][vector] for kHalf rows of W, then of Δ, and `vectors` vectors of a panel.
template <int vectors, class F>
inline void multiply(Size inputs, Rows rows, const float* panel, F&& use) {
    Floats sum[kBoth][vectors] = {};
    for (Size i = 0; i < inputs; ++i, ++rows.weight, ++rows.delta, panel += kGroup) {
        Floats x[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) x[v] = load_lanes(panel + v * kFloats);
#pragma GCC unroll 6
        for (int r = 0; r < kHalf; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[r][v] += rows.weight[r * rows.step] * x[v];
#pragma GCC unroll 6
        for (int r = 0; r < kHalf; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[kHalf + r][v] += rows.delta[r * rows.step] * x[v];
    }
    use(sum);
}

}  // namespace linear

// y (samples, out) and, where `z` is not null, the pre-activations [a; d] (samples, 2 out).
void firefly_linear(const FireflyLinear& s, const Firefly& f, float* y, float* z) {
    using namespace linear;
    const Splits<float> splits(f);
    const Size together = std::max<Size>(1, kPanels / (kGroup * std::max<Size>(s.in, 1))) * kGroup;
    const Size most = std::min(together, (s.samples + kGroup - 1) / kGroup * kGroup);  // lanes
    // rows are read where they are, but for those that are too few and those that all fall into one set of a cache
    const bool copied = s.out < kHalf || s.in % 1024 == 0;
    const Size step = copied ? s.in + kFloats : s.in;
    const Size blocks = (s.out + kHalf - 1) / kHalf;
    const Room panels(most * s.in), out(s.out * most), kept(z ? 2 * s.out * most : 0);
    with_activation(f.activation, [&](auto activation) {
        using A = decltype(activation);
#pragma omp parallel num_threads(f.threads) if (f.threads > 1)
        {
            const Room copies(copied ? kBoth * step : 0);
            for (Size first = 0; first < s.samples; first += together) {
                const Size here = std::min(together, s.samples - first);
#pragma omp for schedule(static)
                for (Size lane = 0; lane < here; lane += kGroup) {
                    float* panel = panels.at + lane * s.in;
                    const Size used = std::min<Size>(kGroup, here - lane);
                    if (used < kGroup) std::fill_n(panel, kGroup * s.in, 0.0f);
                    turn(s.x + (first + lane) * s.in, s.in, used, s.in, panel, kGroup);
                }
#pragma omp for schedule(static)
                for (Size block = 0; block < blocks; ++block) {
                    const Size neuron = block * kHalf, count = std::min<Size>(kHalf, s.out - neuron);
                    const Size start = copied ? neuron : std::min(neuron, s.out - kHalf);  // the last rows for one more time
                    Rows rows{s.weight + start * s.in, s.delta + start * s.in, step};
                    if (copied) {
                        for (int r = 0; r < kHalf; ++r) {
                            const Size from = std::min<Size>(r, count - 1) * s.in;
                            std::copy_n(rows.weight + from, s.in, copies.at + r * step);
                            std::copy_n(rows.delta + from, s.in, copies.at + (kHalf + r) * step);
                        }
                        rows = {copies.at, copies.at + kHalf * step, step};
                    }
                    for (Size lane = 0; lane < here; lane += kGroup) {
                        const auto use = [&](auto& sum) {
                            constexpr int vectors = sizeof sum[0] / sizeof(Floats);
                            for (Size c = neuron; c < neuron + count; ++c) {
                                const Size r = c - start;
                                const Split<float> of = splits.template at<false>(c);
                                const float b = s.bias ? s.bias[c] : 0, db = s.delta_bias ? s.delta_bias[c] : 0;
                                for (int v = 0; v < vectors; ++v) {
                                    const Floats a = sum[r][v] + b, d = sum[kHalf + r][v] + db;
                                    const Floats base = of.scale * a + of.shift;
                                    const Floats both = A::value(base + of.plus * d) + A::value(base + of.minus * d);
                                    const Size at = lane + v * kFloats;
                                    store_lanes(out.at + c * most + at, both * 0.5f);
                                    if (!z) continue;
                                    store_lanes(kept.at + c * most + at, a);
                                    store_lanes(kept.at + (s.out + c) * most + at, d);
                                }
                            }
                        };
                        const float* panel = panels.at + lane * s.in;
                        if (here - lane > kFloats)
                            multiply<kVectors>(s.in, rows, panel, use);
                        else
                            multiply<1>(s.in, rows, panel, use);
                    }
                }
#pragma omp for schedule(static)
                for (Size lane = 0; lane < here; lane += kGroup) {
                    const Size used = std::min<Size>(kGroup, here - lane);
                    turn(out.at + lane, most, s.out, used, y + (first + lane) * s.out, s.out);
                    if (z) turn(kept.at + lane, most, 2 * s.out, used, z + (first + lane) * 2 * s.out, 2 * s.out);
                }
            }
        }
    });
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <optional>

#include "firefly_bindings.hpp"
#include "torch_tensor.hpp"

PCL_EVERY_ISA(void firefly_linear(const FireflyLinear& s, const Firefly& f, float* y, float* z);)

namespace pcl {
namespace {

using Handle = pybind11::handle;

// Threads for a layer, as memory_edit/layout.py has them: one for small work.
int threads_of(const FireflyLinear& s, int most) { return s.samples * s.in + 2 * s.in * s.out >= 1 << 17 ? most : 1; }

// Reads tensors where all are as nearly always: ordinary CPU tensors, row-major, of matching shapes.
struct Usual {
    bool refuse_grad;

    bool floats(Handle object, TensorView& t) const {
        return view(object.ptr(), refuse_grad, t) && t.dtype() == f32 && t.contiguous() && holds_values(object.ptr(), t);
    }
    bool vector(Handle object, Size size, const float*& to) const {
        if (object.is_none()) return true;
        TensorView t;
        if (!floats(object, t) || t.dims != 1 || t.shape[0] != size) return false;
        to = reinterpret_cast<const float*>(t.begin());
        return true;
    }
    bool wide(Handle object, Size size, std::vector<double>& room, const double*& to) const {
        if (object.is_none()) return true;
        TensorView t;
        if (!view(object.ptr(), refuse_grad, t) || !t.contiguous() || !holds_values(object.ptr(), t)) return false;
        if (t.dims != 1 || t.shape[0] != size || (t.dtype() != f32 && t.dtype() != f64)) return false;
        room.resize(size);
        if (t.dtype() == f32)
            std::copy_n(reinterpret_cast<const float*>(t.begin()), size, room.begin());
        else
            std::copy_n(reinterpret_cast<const double*>(t.begin()), size, room.begin());
        to = room.data();
        return true;
    }
};

}  // namespace

void register_firefly_linear(pybind11::module_& m) {
    using Address = std::uintptr_t;
    m.def("firefly_linear", [](const std::array<Size, 3>& shape, const std::array<Address, 5>& from,
                               const FireflyVectors& vectors, int activation, Address y, Address z, int threads) {
        pybind11::gil_scoped_release release;
        const auto floats = [](Address at) { return reinterpret_cast<float*>(at); };
        const FireflyLinear s{shape[0],        shape[1],        shape[2],       floats(from[0]),
                              floats(from[1]), floats(from[2]), floats(from[3]), floats(from[4])};
        const Firefly f = firefly({s.samples, s.out, 1, true, f32, activation}, vectors, {0, 0}, {0, 0},
                                  threads_of(s, threads));
        PCL_BEST(firefly_linear)(s, f, floats(y), floats(z));
    });
    // tensors: x, W, Δ, b, β, ε, s, t, mirror and y. False, and nothing done, where anything is not as usual.
    m.def("firefly_linear_usual", [](const std::array<Handle, 10>& tensors, int activation, bool refuse_grad, int threads) {
        const auto& [x, weight, delta, bias, delta_bias, epsilon, scale, shift, mirror, y] = tensors;
        const Usual usual{refuse_grad};
        TensorView of_x, of_weight, of_delta, of_y;
        if (!usual.floats(x, of_x) || !usual.floats(weight, of_weight) || !usual.floats(delta, of_delta)) return false;
        if (of_weight.dims != 2 || !of_delta.same_shape(of_weight) || of_x.dims < 1) return false;
        const Size out = of_weight.shape[0], in = of_weight.shape[1];
        if (of_x.shape[of_x.dims - 1] != in || in < 1 || !usual.floats(y, of_y)) return false;
        const Size samples = of_x.elements() / in;
        if (of_y.elements() != samples * out) return false;

        const auto at = [](const TensorView& t) { return reinterpret_cast<const float*>(t.begin()); };
        FireflyLinear s{samples, in, out, at(of_x), at(of_weight), at(of_delta), nullptr, nullptr};
        Firefly f{samples, out, 1, true, f32, activation, nullptr, nullptr, nullptr, nullptr, {}, {}, 1};
        f.threads = threads_of(s, threads);
        std::vector<double> room[4];
        if (!usual.vector(bias, out, s.bias) || !usual.vector(delta_bias, out, s.delta_bias)) return false;
        if (epsilon.is_none() || !usual.wide(epsilon, out, room[0], f.epsilon)) return false;
        if (!usual.wide(scale, out, room[1], f.scale) || !usual.wide(shift, out, room[2], f.shift)) return false;
        if (!usual.wide(mirror, out, room[3], f.mirror)) return false;
        pybind11::gil_scoped_release release;
        PCL_BEST(firefly_linear)(s, f, reinterpret_cast<float*>(of_y.begin()), nullptr);
        return true;
    });
}

}  // namespace pcl
#endif
