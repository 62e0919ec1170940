// What the Longhorn scan and its gradient share (pcl_kernels/longhorn_scan/op.py has the formulas).
//
// Channels lie in the lanes of a vector and time runs step by step, so that a block of the state stays in registers. A
// short tile of time steps goes through all channels of a unit before the next one, so that memory is read in rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "isa.hpp"
#include "longhorn_lanes.hpp"

namespace pcl {

// A tensor (batch, time, [group,] channel or state), the last dimension contiguous; strides count elements.
struct LonghornTensor {
    std::uintptr_t at;
    std::int64_t batch, time, group;
};

// Sequence n lies in one batch row, from step `start` on.
struct LonghornSequence {
    std::int64_t batch, start, length;
};

struct LonghornProblem {
    std::vector<LonghornSequence> sequences;
    std::int64_t groups, channels, states;  // channels of one group
    int dtype;
    bool logits, exact, reverse;
    LonghornTensor x, beta, q, k, out;
    std::uintptr_t skip, initial;       // (groups * channels), (sequences, groups * channels, states); 0: none
    std::uintptr_t checkpoints;         // the state before every tile of time; 0: none wanted
    std::vector<std::int64_t> tiles;    // tiles of time before sequence n, then all of them
    int threads;
};

// Where the gradients go. `part` is the distance between the sums over kLonghornChannels channels and the next.
struct LonghornGradients {
    LonghornTensor x, beta, q, k;  // dq and dk in the type that is computed in
    std::int64_t part;
    std::uintptr_t skip, initial, final;  // of every sequence; the last is given, 0: none
};

constexpr int kLonghornTime = 16;       // steps of a tile
constexpr int kLonghornChannels = 128;  // over which the backward pass sums, whatever a unit of its work

}  // namespace pcl

namespace pcl::PCL_ISA {

#if defined(__AVX512F__)
constexpr int kScanStates = 16;                   // that go through time together
constexpr int kBackVectors = 2, kBackStates = 8;  // of channels, and states, that go back together
constexpr int kBackGroup = 2;                     // vectors of channels whose numbers stay in the fastest cache
#else
constexpr int kScanStates = 8, kBackVectors = 1, kBackStates = 4, kBackGroup = 2;
#endif

// Channels of a unit of work, in whole multiples of `of`: one unit a thread where there are few sequences. Wide ones
// read rows of memory in long pieces, and a page of it is looked up once for each.
inline std::int64_t unit_channels(const LonghornProblem& p, std::int64_t of) {
    const std::int64_t parts = std::max<std::int64_t>(1, p.sequences.size() * p.groups);
    const std::int64_t blocks = std::max<std::int64_t>(1, (p.threads + parts - 1) / parts);
    return std::max<std::int64_t>(1, ((p.channels + blocks - 1) / blocks + of - 1) / of) * of;
}

// Rows of one sequence and group, in the order in which the scan goes through them.
template <class T>
struct Rows {
    T* at;
    std::int64_t step;
    T* operator[](std::int64_t t) const { return at + t * step; }
    Rows from(std::int64_t channel) const { return {at + channel, step}; }
};
template <class T>
inline Rows<T> rows_of(const LonghornProblem& p, const LonghornTensor& tensor, std::size_t n, std::int64_t g) {
    const LonghornSequence& s = p.sequences[n];
    T* base = reinterpret_cast<T*>(tensor.at) + s.batch * tensor.batch + s.start * tensor.time + g * tensor.group;
    return p.reverse ? Rows<T>{base + (s.length - 1) * tensor.time, -tensor.time} : Rows<T>{base, tensor.time};
}

// Keys and queries of a tile of time, as the loop over states reads them: rows of numbers, up to whole vectors.
template <class S>
struct KeyTile {
    std::int64_t states, row;
    Lined<S> room;
    S *k, *k2, *q;          // [step][state]
    S norm[kLonghornTime];  // |k|^2

    explicit KeyTile(std::int64_t m)
        : states(m), row((m + kScanLanes<S> - 1) / kScanLanes<S> * kScanLanes<S>), room(3 * kLonghornTime * row) {
        k = room.at, k2 = k + kLonghornTime * row, q = k2 + kLonghornTime * row;
    }

    template <class T>
    void load(Rows<const T> keys, Rows<const T> queries, std::int64_t first, int steps) {
        Scan<S> sums[kLonghornTime] = {};
        for (int t = 0; t < steps; ++t)
            for (std::int64_t m = 0; m < states; m += kScanLanes<S>) {
                const int width = std::min<std::int64_t>(kScanLanes<S>, states - m);
                const Scan<S> key = load_some(keys[first + t] + m, width), square = key * key;
                store_lanes(k + t * row + m, key), store_lanes(k2 + t * row + m, square);
                store_lanes(q + t * row + m, load_some(queries[first + t] + m, width));
                sums[t] += square;
            }
        sum_lanes<S>(sums, kLonghornTime, norm);
    }
};

// A tile of time, and the first step of the one that comes after it, which is fetched meanwhile: a row of a tile is too
// short for the processor to see what comes.
struct Tile {
    std::int64_t t0, next;
    int steps;
};

// Calls f(t, row t0 + t of a vector of channels). The loop holds nothing but what must be in it and is not unrolled:
// with what the compiler keeps for sixteen copies, loading took as long as half of the recurrence.
template <class S, class T, class F>
inline void for_rows(const Rows<const T>& from, const Tile& tile, int width, F&& f) {
    const T* at = from[tile.t0];
    const std::int64_t ahead = (tile.next - tile.t0) * from.step;
    if (width == kScanLanes<S>)
#pragma GCC unroll 1
        for (int t = 0; t < tile.steps; ++t, at += from.step) {
            f(t, load_lanes(at));
            __builtin_prefetch(at + ahead, 0, 2);
        }
    else
        for (int t = 0; t < tile.steps; ++t, at += from.step) f(t, load_some(at, width));
}
template <class T, class S>
inline void store_rows(const Rows<T>& to, const Tile& tile, int width, const Scan<S>* from) {
    T* at = to[tile.t0];
    const std::int64_t ahead = (tile.next - tile.t0) * to.step;
    if (width == kScanLanes<S>)
#pragma GCC unroll 1
        for (int t = 0; t < tile.steps; ++t, at += to.step) {
            store_lanes(at, from[t]);
            __builtin_prefetch(at + ahead, 1, 2);
        }
    else
        for (int t = 0; t < tile.steps; ++t, at += to.step) store_some(at, from[t], width);
}

// Δ = beta / (1 + beta |k|^2) of a tile in the place of beta, or of its logit, and the derivative by it, if wanted.
// Up to whole kAbreast vectors, whatever the number of steps.
template <bool kSlope, class S>
inline void step_sizes(int steps, bool logits, const S* norm, Scan<S>* size, Scan<S>* slope) {
    for (int t = 0; t < steps; t += kAbreast) {
        Scan<S> beta[kAbreast], rate[kAbreast];
#pragma GCC unroll 4
        for (int i = 0; i < kAbreast; ++i) beta[i] = size[t + i];
        if (logits) {
            negative_exponentials(beta);
#pragma GCC unroll 4
            for (int i = 0; i < kAbreast; ++i) rate[i] = inverse((S(1) + norm[t + i]) + beta[i]);
        } else {
#pragma GCC unroll 4
            for (int i = 0; i < kAbreast; ++i) rate[i] = inverse(S(1) + beta[i] * norm[t + i]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < kAbreast; ++i) {
            size[t + i] = logits ? rate[i] : beta[i] * rate[i];
            if (kSlope) slope[t + i] = logits ? rate[i] * rate[i] * beta[i] : rate[i] * rate[i];
        }
    }
}

// S k - x: what the state recalls for this key, less what it should.
template <class S>
inline Scan<S> miss(std::int64_t states, const S* k, const Scan<S>* state, Scan<S> x) {
    Scan<S> sum[4] = {-x};
    std::int64_t m = 0;
    for (; m + 4 <= states; m += 4)
        for (int i = 0; i < 4; ++i) sum[i] += state[m + i] * k[m + i];
    for (; m < states; ++m) sum[0] += state[m] * k[m];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Between the state (channel, state) in memory and [state] vectors of channels, of which there are so many.
template <class S>
inline void gather_state(const S* from, std::int64_t states, int width, Scan<S>* to) {
    constexpr int W = kScanLanes<S>;
    for (std::int64_t m = 0; m < states; m += W) {
        const int some = std::min<std::int64_t>(W, states - m);
        Scan<S> v[W] = {};
        for (int c = 0; from && c < width; ++c) v[c] = load_some(from + c * states + m, some);
        transpose<S>(v);
        std::copy_n(v, some, to + m);
    }
}
template <class S>
inline void scatter_state(const Scan<S>* from, std::int64_t states, int width, S* to) {
    constexpr int W = kScanLanes<S>;
    for (std::int64_t m = 0; m < states; m += W) {
        const int some = std::min<std::int64_t>(W, states - m);
        Scan<S> v[W] = {};
        std::copy_n(from + m, some, v);
        transpose<S>(v);
        for (int c = 0; c < width; ++c) store_some(to + c * states + m, v[c], some);
    }
}

// Calls f with a constant: how many of the `left` states come next, at most so many.
template <int Most, class F>
inline void with_states(std::int64_t left, F&& f) {
    if constexpr (Most >= 16)
        if (left >= 16) return f(std::integral_constant<int, 16>{});
    if constexpr (Most >= 8)
        if (left >= 8) return f(std::integral_constant<int, 8>{});
    if (left >= 4) return f(std::integral_constant<int, 4>{});
    if (left >= 2) return f(std::integral_constant<int, 2>{});
    f(std::integral_constant<int, 1>{});
}

}  // namespace pcl::PCL_ISA
