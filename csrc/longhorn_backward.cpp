// The gradient of the Longhorn scan. With g_t = dL/dS_t, u_t = k_t ⊙ S_{t-1} - x_t and S_t = S_{t-1} - Δ_t k_t ⊙ u_t,
//
//     g_t += do_t ⊗ q_t                       dq_t = S_tᵀ do_t
//     dΔ_t = -Σ_m g_t k_t u_t                 dx_t = Δ_t Σ_m g_t k_t
//     dk_t = -Σ_c Δ_t g_t (u_t + k_t S_{t-1}) + 2 k_t Σ_c d|k_t|²,   d|k_t|² = -dΔ_t Δ_t²
//     g_{t-1} = g_t (1 - Δ_t k_t²)
//
// In terms of w_t = k_t ⊙ S_{t-1} - x_t / 2, which is one instruction, u_t + k_t S_{t-1} is 2 w_t and dΔ_t is
// x_t / 2 Σ_m g_t k_t - Σ_m g_t k_t w_t: nine for each state and step, and three to make the state again.
//
// States are made again, tile of time by tile of time, from the checkpoints of the forward pass. What is summed over
// channels is summed over the vectors of kLonghornChannels channels first, then over lanes, then, by the caller, over
// such parts: in one order, whatever the number of threads.
#include "longhorn.hpp"

namespace pcl::PCL_ISA {
namespace {

constexpr int kTime = kLonghornTime;

// What a tile of time keeps. Vectors of channels go in groups that the fastest cache holds with all that is theirs.
template <class S>
struct BackwardTile {
    Lined<S> room;
    Scan<S> *half, *size, *slope, *out;  // [vector of the group][step]; x / 2, Δ, its derivative by beta, do
    Scan<S> *miss, *pull;                // [vector of the group][step]; Σ_m g k w and Σ_m g k
    Scan<S>* states;                     // [step][state of the block][of the vectors that go together]
    Scan<S>*q, *k;                       // [block][step][state of the block], over all vectors: dq, and half of dk
    Scan<S>* norm;                       // [step], over all vectors
    std::vector<S> sums;                 // [step][state of the block], over lanes

    BackwardTile(std::int64_t m, std::int64_t block)
        : room((6 * kBackGroup * kTime + (kTime + 1) * block * kBackVectors + 2 * kTime * m + kTime) * kScanLanes<S>),
          sums(2 * kTime * block) {
        Scan<S>* at = room.vec();
        for (Scan<S>** part : {&half, &size, &slope, &out, &miss, &pull}) *part = at, at += kBackGroup * kTime;
        states = at, q = states + (kTime + 1) * block * kBackVectors, k = q + kTime * m, norm = k + kTime * m;
    }
};

// C states of V vectors of channels, the first of which is `i` of the group, through a tile of time and back.
template <class S, int C, int V>
inline void there_and_back(int steps, const KeyTile<S>& keys, std::int64_t m0, std::int64_t i, const Scan<S>* start,
                           Scan<S>* grad, BackwardTile<S>& a) {
    const std::int64_t M = keys.states;
    const Scan<S>*half = a.half + i * kTime, *size = a.size + i * kTime, *out = a.out + i * kTime;
    Scan<S>*sum_q = a.q + m0 * kTime, *sum_k = a.k + m0 * kTime;
    Scan<S> s[V][C];
#pragma GCC unroll 16
    for (int j = 0; j < C * V; ++j) s[j % V][j / V] = start[j % V * M + m0 + j / V];
    for (int t = 0; t < steps; ++t) {
        const S *k = &keys.k[t * keys.row + m0], *k2 = &keys.k2[t * keys.row + m0];
        Scan<S> d_out[V], delta[V], gain[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const std::int64_t at = v * kTime + t;
            d_out[v] = out[at], delta[v] = size[at], gain[v] = delta[v] * (half[at] + half[at]);
        }
#pragma GCC unroll 16
        for (int m = 0; m < C; ++m) {
            const Scan<S> key = splat(k[m]), square = splat(k2[m]);
            Scan<S> dq = sum_q[t * C + m];
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) {
                a.states[(t * C + m) * V + v] = s[v][m];
                s[v][m] = s[v][m] * (S(1) - delta[v] * square) + gain[v] * key;
                dq += d_out[v] * s[v][m];
            }
            sum_q[t * C + m] = dq;
        }
    }

    Scan<S> g[V][C];
#pragma GCC unroll 16
    for (int j = 0; j < C * V; ++j) g[j % V][j / V] = grad[j % V * M + m0 + j / V];
    for (int t = steps - 1; t >= 0; --t) {
        const S *k = &keys.k[t * keys.row + m0], *k2 = &keys.k2[t * keys.row + m0], *q = &keys.q[t * keys.row + m0];
        const Scan<S>* before = a.states + t * C * V;
        Scan<S> d_out[V], half_x[V], delta[V], miss[V], pull[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const std::int64_t at = v * kTime + t;
            d_out[v] = out[at], half_x[v] = half[at], delta[v] = size[at];
            miss[v] = m0 ? a.miss[i * kTime + at] : Scan<S>{}, pull[v] = m0 ? a.pull[i * kTime + at] : Scan<S>{};
        }
#pragma GCC unroll 16
        for (int m = 0; m < C; ++m) {
            const Scan<S> key = splat(k[m]), square = splat(k2[m]), query = splat(q[m]);
            Scan<S> dk = sum_k[t * C + m];
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) {
                Scan<S>& grad_s = g[v][m];
                grad_s += d_out[v] * query;
                const Scan<S> w = before[m * V + v] * key - half_x[v], p = grad_s * key, e = delta[v] * grad_s;
                miss[v] += p * w;
                pull[v] += p;
                dk -= e * w;
                grad_s -= e * square;
            }
            sum_k[t * C + m] = dk;
        }
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) a.miss[(i + v) * kTime + t] = miss[v], a.pull[(i + v) * kTime + t] = pull[v];
    }
#pragma GCC unroll 16
    for (int j = 0; j < C * V; ++j) grad[j % V * M + m0 + j / V] = g[j % V][j / V];
}

// The same for the exact update and all states, where u = S k - x is one number for a channel: with h = Σ_m g k,
// dΔ = -u h, dx = Δ h, dk = -Δ u g - Δ h S + ..., and g becomes g - Δ h k.
template <class S>
inline void exactly_there_and_back(int steps, const KeyTile<S>& keys, std::int64_t i, const Scan<S>* start,
                                   Scan<S>* g, BackwardTile<S>& a) {
    const std::int64_t M = keys.states;
    Scan<S> u[kTime];
    std::copy_n(start, M, a.states);
    for (int t = 0; t < steps; ++t) {
        const Scan<S>* before = a.states + t * M;
        u[t] = miss(M, &keys.k[t * keys.row], before, 2 * a.half[i * kTime + t]);
        const Scan<S> gain = a.size[i * kTime + t] * u[t];
        for (std::int64_t m = 0; m < M; ++m) a.states[(t + 1) * M + m] = before[m] - gain * keys.k[t * keys.row + m];
    }
    for (int t = steps - 1; t >= 0; --t) {
        const S *k = &keys.k[t * keys.row], *q = &keys.q[t * keys.row];
        const Scan<S>* before = a.states + t * M;
        const std::int64_t at = i * kTime + t;
        const Scan<S> out = a.out[at];
        Scan<S> h = {};
        for (std::int64_t m = 0; m < M; ++m) {
            g[m] += out * q[m];
            a.q[t * M + m] += out * before[M + m];
            h += g[m] * k[m];
        }
        const Scan<S> gain = a.size[at] * h, half_miss = S(0.5) * a.size[at] * u[t];
        for (std::int64_t m = 0; m < M; ++m) {
            a.k[t * M + m] -= half_miss * g[m] + S(0.5) * gain * before[m];
            g[m] -= gain * k[m];
        }
        a.miss[at] = h * (u[t] + a.half[at]);  // from which dΔ = -h u is found again
        a.pull[at] = h;
    }
}

template <class T, class S = typename Compute<T>::type>
void backward_unit(const LonghornProblem& p, const LonghornGradients& to, std::size_t n, std::int64_t g,
                   std::int64_t first, std::int64_t last) {
    constexpr int W = kScanLanes<S>;
    const std::int64_t M = p.states, all = p.groups * p.channels, channel = g * p.channels;
    const std::int64_t mine = (last - first + W - 1) / W, vectors = (p.channels + W - 1) / W;
    const std::int64_t length = p.sequences[n].length;
    const auto x = rows_of<const T>(p, p.x, n, g), beta = rows_of<const T>(p, p.beta, n, g);
    const auto q = rows_of<const T>(p, p.q, n, g), k = rows_of<const T>(p, p.k, n, g);
    const auto out = rows_of<const T>(p, p.out, n, g);
    const auto dx = rows_of<T>(p, to.x, n, g), d_beta = rows_of<T>(p, to.beta, n, g);
    const auto dq = rows_of<S>(p, to.q, n, g), dk = rows_of<S>(p, to.k, n, g);
    const S* skip = reinterpret_cast<const S*>(p.skip);
    const S* final = reinterpret_cast<const S*>(to.final);
    const auto width = [&](std::int64_t i) { return int(std::min<std::int64_t>(W, last - first - i * W)); };

    KeyTile<S> keys(M);
    BackwardTile<S> a(M, p.exact ? M : kBackStates);
    Lined<S> grad(mine * M * W), skips(mine * W);
    for (std::int64_t i = 0; i < mine; ++i)
        gather_state<S>(final ? final + (n * all + channel + first + i * W) * M : nullptr, M, width(i),
                        grad.vec(i * M));

    // calls go(first state, number of states) for the blocks of states
    const auto blocks = [&](auto&& go) {
        for (std::int64_t m = 0; m < M;)
            with_states<kBackStates>(M - m, [&](auto states) { go(m, states), m += states; });
    };
    // what follows is done for `count` vectors of channels, from i0 on, that make a group
    const auto load = [&](const Tile& tile, std::int64_t i0, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t c = first + (i0 + i) * W, at = i * kTime;
            const int lanes = width(i0 + i);
            Scan<S>*half = a.half + at, *d_out = a.out + at, *size = a.size + at;
            for_rows<S>(x.from(c), tile, lanes, [=](int t, Scan<S> row) { half[t] = S(0.5) * row; });
            for_rows<S>(out.from(c), tile, lanes, [=](int t, Scan<S> row) { d_out[t] = row; });
            for_rows<S>(beta.from(c), tile, lanes, [=](int t, Scan<S> row) { size[t] = row; });
            step_sizes<true>(tile.steps, p.logits, keys.norm, size, a.slope + at);
        }
    };
    const auto go_back = [&](const Tile& tile, const Scan<S>* start, std::int64_t i0, std::int64_t count) {
        if (p.exact)
            for (std::int64_t i = 0; i < count; ++i)
                exactly_there_and_back<S>(tile.steps, keys, i, start + (i0 + i) * M, grad.vec((i0 + i) * M), a);
        else
            blocks([&](std::int64_t m, auto states) {
                std::int64_t i = 0;
                for (; i + kBackVectors <= count; i += kBackVectors)
                    there_and_back<S, states, kBackVectors>(tile.steps, keys, m, i, start + (i0 + i) * M,
                                                            grad.vec((i0 + i) * M), a);
                for (; i < count; ++i)
                    there_and_back<S, states, 1>(tile.steps, keys, m, i, start + (i0 + i) * M, grad.vec((i0 + i) * M),
                                                 a);
            });
    };
    const auto store = [&](const Tile& tile, std::int64_t i0, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t c = first + (i0 + i) * W, at = i * kTime;
            const Scan<S> d = skip ? load_some(skip + channel + c, width(i0 + i)) : Scan<S>{};
            const Scan<S>*size = a.size + at, *slope = a.slope + at, *half = a.half + at, *d_out = a.out + at;
            Scan<S>*miss = a.miss + at, *pull = a.pull + at, sum = *skips.vec(i0 + i);
            for (int t = 0; t < tile.steps; ++t) {
                const Scan<S> d_size = half[t] * pull[t] - miss[t];
                sum += d_out[t] * (half[t] + half[t]);
                a.norm[t] -= d_size * size[t] * size[t];
                miss[t] = d_size * slope[t];
                pull[t] = size[t] * pull[t] + d * d_out[t];
            }
            *skips.vec(i0 + i) = sum;
            store_rows<T, S>(d_beta.from(c), tile, width(i0 + i), miss);
            store_rows<T, S>(dx.from(c), tile, width(i0 + i), pull);
        }
    };
    // and this for all groups of the kLonghornChannels channels whose sums begin `offset` numbers on
    const auto sum = [&](const Tile& tile, std::int64_t offset) {
        S norm[kTime];
        sum_lanes<S>(a.norm, kTime, norm);
        const auto sum_block = [&](std::int64_t m0, std::int64_t count) {
            S *sums_q = a.sums.data(), *sums_k = sums_q + kTime * count;
            sum_lanes<S>(a.q + m0 * kTime, kTime * count, sums_q);
            sum_lanes<S>(a.k + m0 * kTime, kTime * count, sums_k);
            for (int t = 0; t < tile.steps; ++t) {
                S *to_q = dq[tile.t0 + t] + offset + m0, *to_k = dk[tile.t0 + t] + offset + m0;
                for (std::int64_t m = 0; m < count; ++m) {
                    to_q[m] = sums_q[t * count + m];
                    to_k[m] = 2 * (sums_k[t * count + m] + norm[t] * keys.k[t * keys.row + m0 + m]);
                }
            }
        };
        p.exact ? sum_block(0, M) : blocks(sum_block);
    };

    for (std::int64_t t0 = (length + kTime - 1) / kTime * kTime - kTime; t0 >= 0; t0 -= kTime) {  // none of no steps
        const int steps = std::min<std::int64_t>(kTime, length - t0);
        const Tile tile{t0, std::max<std::int64_t>(t0 - kTime, 0), steps};
        const auto* start = reinterpret_cast<const Scan<S>*>(p.checkpoints);
        start += (((p.tiles[n] + t0 / kTime) * p.groups + g) * vectors + first / W) * M;
        keys.template load<T>(k, q, t0, steps);
        for (std::int64_t c0 = first; c0 < last; c0 += kLonghornChannels) {
            const std::int64_t low = (c0 - first) / W, high = std::min(low + kLonghornChannels / W, mine);
            for (std::int64_t i = low; i < high; i += kBackGroup) {
                const std::int64_t count = std::min<std::int64_t>(kBackGroup, high - i);
                load(tile, i, count), go_back(tile, start, i, count), store(tile, i, count);
            }
            sum(tile, c0 / kLonghornChannels * to.part);
        }
    }
    for (std::int64_t i = 0; i < mine; ++i) {
        const std::int64_t c = channel + first + i * W;
        if (to.initial)
            scatter_state<S>(grad.vec(i * M), M, width(i), reinterpret_cast<S*>(to.initial) + (n * all + c) * M);
        if (to.skip) store_some(reinterpret_cast<S*>(to.skip) + n * all + c, *skips.vec(i), width(i));
    }
}

}  // namespace

void longhorn_backward(const LonghornProblem& p, const LonghornGradients& to) {
    with_type(p.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        const std::int64_t channels = unit_channels(p, kLonghornChannels);
        const std::int64_t each = (p.channels + channels - 1) / channels;
#pragma omp parallel for num_threads(p.threads) schedule(dynamic) if (p.threads > 1)
        for (std::int64_t u = 0; u < std::int64_t(p.sequences.size()) * p.groups * each; ++u)
            backward_unit<T>(p, to, u / each / p.groups, u / each % p.groups, u % each * channels,
                             std::min((u % each + 1) * channels, p.channels));
    });
}

}  // namespace pcl::PCL_ISA
