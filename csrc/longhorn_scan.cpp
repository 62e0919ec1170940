// The Longhorn scan: o_t = S_t q_t along S_t = (1 - Δ_t ⊗ k_t²) ⊙ S_{t-1} + (Δ_t ⊙ x_t) ⊗ k_t, or along the exact
// update, in which the states of a channel do not go their own ways.
#include "longhorn.hpp"

namespace pcl::PCL_ISA {
namespace {

// C states of one vector of channels through a tile of time; their part of S q is added to the rows of out, which the
// first begin with skip ⊙ x.
template <class S, int C>
inline void through_time(int steps, const KeyTile<S>& keys, std::int64_t m0, Scan<S> skip, const Scan<S>* x,
                         const Scan<S>* size, Scan<S>* state, const Rows<S>& out) {
    Scan<S> s[C];
#pragma GCC unroll 16
    for (int m = 0; m < C; ++m) s[m] = state[m0 + m];
    S* to = out.at;
    for (int t = 0; t < steps; ++t, to += out.step) {
        const S *k = &keys.k[t * keys.row + m0], *k2 = &keys.k2[t * keys.row + m0];
        const S* q = &keys.q[t * keys.row + m0];
        const Scan<S> delta = size[t], gain = delta * x[t];
        Scan<S> sum[4] = {m0 ? load_lanes(to) : skip * x[t]};
#pragma GCC unroll 16
        for (int m = 0; m < C; ++m) {
            s[m] = s[m] * (S(1) - delta * k2[m]) + gain * k[m];
            sum[m % 4] += s[m] * q[m];
        }
        store_lanes(to, (sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
#pragma GCC unroll 16
    for (int m = 0; m < C; ++m) state[m0 + m] = s[m];
}

// All states of one vector of channels through a tile of time, along S_t = S_{t-1} - Δ_t (S_{t-1} k_t - x_t) ⊗ k_t.
template <class S>
inline void exactly_through_time(int steps, const KeyTile<S>& keys, Scan<S> skip, const Scan<S>* x,
                                 const Scan<S>* size, Scan<S>* state, const Rows<S>& out) {
    const std::int64_t M = keys.states;
    for (int t = 0; t < steps; ++t) {
        const S *k = &keys.k[t * keys.row], *q = &keys.q[t * keys.row];
        const Scan<S> gain = size[t] * miss(M, k, state, x[t]);
        Scan<S> sum = skip * x[t];
        for (std::int64_t m = 0; m < M; ++m) {
            state[m] -= gain * k[m];
            sum += state[m] * q[m];
        }
        store_lanes(out[t], sum);
    }
}

template <class T, class S = typename Compute<T>::type>
void scan_unit(const LonghornProblem& p, std::size_t n, std::int64_t g, std::int64_t first, std::int64_t last,
               S* final) {
    constexpr int W = kScanLanes<S>;
    const std::int64_t M = p.states, all = p.groups * p.channels, channel = g * p.channels;
    const std::int64_t tiles = (last - first + W - 1) / W, length = p.sequences[n].length;
    const auto x = rows_of<const T>(p, p.x, n, g), beta = rows_of<const T>(p, p.beta, n, g);
    const auto q = rows_of<const T>(p, p.q, n, g), k = rows_of<const T>(p, p.k, n, g);
    const auto o = rows_of<T>(p, p.out, n, g);
    const S* initial = reinterpret_cast<const S*>(p.initial);
    const S* skip = reinterpret_cast<const S*>(p.skip);
    KeyTile<S> keys(M);
    Lined<S> state(tiles * M * W), room(3 * kLonghornTime * W);
    Scan<S>*xs = room.vec(), *sizes = room.vec(kLonghornTime), *sums = room.vec(2 * kLonghornTime);

    for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t c = channel + first + i * W;
        gather_state<S>(initial ? initial + (n * all + c) * M : nullptr, M,
                        std::min<std::int64_t>(W, channel + last - c), state.vec(i * M));
    }
    for (std::int64_t t0 = 0; t0 < length; t0 += kLonghornTime) {
        const int steps = std::min<std::int64_t>(kLonghornTime, length - t0);
        const Tile tile{t0, t0 + kLonghornTime < length ? t0 + kLonghornTime : t0, steps};
        keys.template load<T>(k, q, t0, steps);
        for (std::int64_t i = 0; i < tiles; ++i) {
            const std::int64_t c = first + i * W;
            const int width = std::min<std::int64_t>(W, last - c);
            if (p.checkpoints) {
                S* to = reinterpret_cast<S*>(p.checkpoints);
                const std::int64_t vectors = (p.channels + W - 1) / W;
                to += (((p.tiles[n] + t0 / kLonghornTime) * p.groups + g) * vectors + c / W) * M * W;
                std::copy_n(state.at + i * M * W, M * W, to);
            }
            const Scan<S> d = skip ? load_some(skip + channel + c, width) : Scan<S>{};
            for_rows<S>(x.from(c), tile, width, [=](int t, Scan<S> row) { xs[t] = row; });
            for_rows<S>(beta.from(c), tile, width, [=](int t, Scan<S> row) { sizes[t] = row; });
            step_sizes<false>(steps, p.logits, keys.norm, sizes, sizes);
            // rows of numbers that are computed in are written at once, and others by way of `sums`
            Rows<S> to{reinterpret_cast<S*>(sums), W};
            if constexpr (std::is_same_v<T, S>)
                if (width == W) to = {o.from(c)[t0], o.step};
            if (p.exact) exactly_through_time<S>(steps, keys, d, xs, sizes, state.vec(i * M), to);
            for (std::int64_t m = p.exact ? M : 0; m < M;)
                with_states<kScanStates>(M - m, [&](auto states) {
                    through_time<S, states>(steps, keys, m, d, xs, sizes, state.vec(i * M), to);
                    m += states;
                });
            if (to.at == reinterpret_cast<S*>(sums)) store_rows<T, S>(o.from(c), tile, width, sums);
        }
    }
    if (final)
        for (std::int64_t i = 0; i < tiles; ++i) {
            const std::int64_t c = channel + first + i * W;
            scatter_state<S>(state.vec(i * M), M, std::min<std::int64_t>(W, channel + last - c),
                             final + (n * all + c) * M);
        }
}

template <class T>
void scan(const LonghornProblem& p, std::uintptr_t final) {
    using S = typename Compute<T>::type;
    const std::int64_t block = unit_channels(p, kScanLanes<S>), each = (p.channels + block - 1) / block;
    const std::int64_t parts = p.sequences.size() * p.groups;
#pragma omp parallel for num_threads(p.threads) schedule(dynamic) if (p.threads > 1)
    for (std::int64_t u = 0; u < parts * each; ++u) {
        const std::int64_t n = u / each / p.groups, g = u / each % p.groups, first = u % each * block;
        scan_unit<T>(p, n, g, first, std::min(first + block, p.channels), reinterpret_cast<S*>(final));
    }
}

}  // namespace

void longhorn_scan(const LonghornProblem& p, std::uintptr_t final) {
    with_type(p.dtype, [&](auto* type) { scan<std::remove_pointer_t<decltype(type)>>(p, final); });
}

int longhorn_lanes(int dtype) { return dtype == f64 ? kScanLanes<double> : kScanLanes<float>; }

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <array>

PCL_EVERY_ISA(void longhorn_scan(const LonghornProblem& p, std::uintptr_t final);
              void longhorn_backward(const LonghornProblem& p, const LonghornGradients& to);
              int longhorn_lanes(int dtype);)

namespace pcl {

using Strided = std::array<std::int64_t, 4>;  // address and the strides of batch, time and group

static LonghornTensor tensor_of(const Strided& t) {
    return {static_cast<std::uintptr_t>(t[0]), t[1], t[2], t[3]};
}

// sequences: (batch row, first step, length) each; sizes: groups, channels of one, states;
// rows: x, beta, q, k, out or its gradient; whole: skip, initial, checkpoints
static LonghornProblem problem_of(const std::vector<std::array<std::int64_t, 3>>& sequences,
                                  const std::array<std::int64_t, 3>& sizes, int dtype, bool logits, bool exact, bool reverse,
                                  const std::array<Strided, 5>& rows, const std::array<std::uintptr_t, 3>& whole,
                                  int threads) {
    LonghornProblem p{{}, sizes[0], sizes[1], sizes[2], dtype, logits, exact, reverse, {}, {}, {}, {}, {},
                      whole[0], whole[1], whole[2], {0}, threads};
    p.x = tensor_of(rows[0]), p.beta = tensor_of(rows[1]), p.q = tensor_of(rows[2]), p.k = tensor_of(rows[3]);
    p.out = tensor_of(rows[4]);
    for (const auto& s : sequences) {
        p.sequences.push_back({s[0], s[1], s[2]});
        p.tiles.push_back(p.tiles.back() + (s[2] + kLonghornTime - 1) / kLonghornTime);
    }
    return p;
}

void register_longhorn_scan(nanobind::module_& m) {
    using Sequences = std::vector<std::array<std::int64_t, 3>>;
    using Sizes = std::array<std::int64_t, 3>;
    m.attr("LONGHORN_TIME") = kLonghornTime;
    m.attr("LONGHORN_CHANNELS") = kLonghornChannels;
    m.def("longhorn_lanes", [](int dtype) { return PCL_BEST(longhorn_lanes)(dtype); });
    m.def("longhorn_scan",
          [](const Sequences& sequences, const Sizes& sizes, int dtype, bool logits, bool exact, bool reverse,
             const std::array<Strided, 5>& rows, const std::array<std::uintptr_t, 3>& whole, std::uintptr_t final,
             int threads) {
              const auto p = problem_of(sequences, sizes, dtype, logits, exact, reverse, rows, whole, threads);
              nanobind::gil_scoped_release release;
              PCL_BEST(longhorn_scan)(p, final);
          });
    m.def("longhorn_backward",
          [](const Sequences& sequences, const Sizes& sizes, int dtype, bool logits, bool exact, bool reverse,
             const std::array<Strided, 5>& rows, const std::array<std::uintptr_t, 3>& whole,
             const std::array<Strided, 4>& gradients, std::int64_t part,
             const std::array<std::uintptr_t, 3>& states, int threads) {
              const auto p = problem_of(sequences, sizes, dtype, logits, exact, reverse, rows, whole, threads);
              const LonghornGradients to{tensor_of(gradients[0]), tensor_of(gradients[1]), tensor_of(gradients[2]),
                                         tensor_of(gradients[3]), part, states[0], states[1], states[2]};
              nanobind::gil_scoped_release release;
              PCL_BEST(longhorn_backward)(p, to);
          });
}

}  // namespace pcl
#endif
