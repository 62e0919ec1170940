// The Longhorn scan and its gradient on exactly sized heap buffers; see driver.cpp. Results are compared with the
// recurrence, and its derivative, one step and one channel at a time.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "../isa.hpp"
#include "../longhorn.hpp"
#include "../simd.hpp"

PCL_EVERY_ISA(void longhorn_scan(const LonghornProblem& p, std::uintptr_t final);
              void longhorn_backward(const LonghornProblem& p, const LonghornGradients& to);
              int longhorn_lanes(int dtype);)

namespace {

using namespace pcl;
using baseline::narrow, baseline::widen;
using Size = std::int64_t;

long calls = 0;

struct Shape {
    Size batch, length, groups, channels, states;  // channels of a group
    std::vector<Size> ends;                        // of packed sequences
    Size channel_count() const { return groups * channels; }
    Size sequences() const { return ends.empty() ? batch : Size(ends.size()) - 1; }
};

// Numbers of type T and what they are in double; rows of time lie `gap` numbers further apart than they must.
template <class T>
struct Numbers {
    Size row;
    std::unique_ptr<T[]> memory;
    std::vector<double> wide;
    Numbers(Size rows, Size width, Size gap, std::mt19937& random, double low, double high)
        : row(width + gap), memory(new T[rows ? rows * row - gap : 0]), wide(rows * width) {
        std::uniform_real_distribution<double> in(low, high);
        for (Size r = 0; r < rows; ++r)
            for (Size i = 0; i < width; ++i) {
                memory[r * row + i] = narrow<T>(in(random));
                wide[r * width + i] = widen(memory[r * row + i]);
            }
    }
    LonghornTensor tensor(Size length, Size group) const {
        return {reinterpret_cast<std::uintptr_t>(memory.get()), length * row, row, group};
    }
    std::uintptr_t at() const { return reinterpret_cast<std::uintptr_t>(memory.get()); }
};

template <class T>
void compare(const T* found, const std::vector<double>& expected, double tolerance, const char* what) {
    ++calls;
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (!(std::fabs(widen(found[i]) - expected[i]) <= tolerance * (1 + std::fabs(expected[i])))) {
            std::printf("wrong result: longhorn, %s, element %ld: %g, expected %g, instruction set %d\n", what, long(i),
                        widen(found[i]), expected[i], int(current_isa()));
            std::exit(1);
        }
}

// All that comes out, in double.
struct Truth {
    std::vector<double> out, final, dx, d_beta, dq, dk, d_skip, d_initial;
};

template <class T, class S>
Truth truth(const Shape& s, bool logits, bool exact, bool reverse, const Numbers<T>& x, const Numbers<T>& beta,
            const Numbers<T>& q, const Numbers<T>& k, const Numbers<S>& skip, const Numbers<S>& initial,
            const Numbers<T>& d_out, const Numbers<S>& d_final) {
    const Size D = s.channel_count(), M = s.states, rows = s.batch * s.length;
    Truth e;
    e.out = e.dx = e.d_beta = std::vector<double>(rows * D);
    e.dq = e.dk = std::vector<double>(rows * s.groups * M);
    e.final = e.d_initial = std::vector<double>(s.sequences() * D * M);
    e.d_skip = std::vector<double>(s.sequences() * D);
    for (Size n = 0; n < s.sequences(); ++n)
        for (Size c = 0; c < D; ++c) {
            const Size first = s.ends.empty() ? n * s.length : s.ends[n];
            const Size length = s.ends.empty() ? s.length : s.ends[n + 1] - s.ends[n];
            const auto row = [&](Size t) { return first + (reverse ? length - 1 - t : t); };
            const auto key = [&](Size t) { return (row(t) * s.groups + c / s.channels) * M; };
            const double* start = &initial.wide[(n * D + c) * M];
            std::vector<std::vector<double>> S_t{std::vector<double>(start, start + M)};
            std::vector<double> size(length), rate(length), b(length);
            for (Size t = 0; t < length; ++t) {
                const Size at = row(t) * D + c;
                double norm = 0, recalled = 0, o = skip.wide[c] * x.wide[at];
                for (Size m = 0; m < M; ++m) norm += k.wide[key(t) + m] * k.wide[key(t) + m];
                b[t] = logits ? 1 / (1 + std::exp(-beta.wide[at])) : beta.wide[at];
                rate[t] = 1 / (1 + b[t] * norm), size[t] = b[t] * rate[t];
                std::vector<double> state = S_t.back();
                for (Size m = 0; m < M; ++m) recalled += state[m] * k.wide[key(t) + m];
                for (Size m = 0; m < M; ++m) {
                    const double km = k.wide[key(t) + m], seen = exact ? recalled : state[m] * km;
                    state[m] -= size[t] * km * (seen - x.wide[at]);
                    o += state[m] * q.wide[key(t) + m];
                }
                e.out[at] = o;
                S_t.push_back(state);
            }
            std::copy(S_t.back().begin(), S_t.back().end(), &e.final[(n * D + c) * M]);
            std::vector<double> g(&d_final.wide[(n * D + c) * M], &d_final.wide[(n * D + c) * M] + M);
            for (Size t = length - 1; t >= 0; --t) {
                const Size at = row(t) * D + c, to = key(t);
                const double d = d_out.wide[at];
                double pull = 0, recalled = 0, d_size = 0;
                for (Size m = 0; m < M; ++m) {
                    g[m] += d * q.wide[to + m];
                    e.dq[to + m] += d * S_t[t + 1][m];
                    pull += g[m] * k.wide[to + m];
                    recalled += S_t[t][m] * k.wide[to + m];
                }
                for (Size m = 0; m < M; ++m) {
                    const double km = k.wide[to + m], seen = exact ? recalled : S_t[t][m] * km;
                    const double moved = exact ? pull : g[m] * km;
                    d_size -= g[m] * km * (seen - x.wide[at]);
                    e.dk[to + m] -= size[t] * (g[m] * (seen - x.wide[at]) + moved * S_t[t][m]);
                    g[m] -= size[t] * moved * km;
                }
                for (Size m = 0; m < M; ++m) e.dk[to + m] -= 2 * k.wide[to + m] * d_size * size[t] * size[t];
                e.dx[at] = size[t] * pull + skip.wide[c] * d;
                e.d_beta[at] = d_size * rate[t] * rate[t] * (logits ? b[t] * (1 - b[t]) : 1);
                e.d_skip[n * D + c] += d * x.wide[at];
            }
            std::copy(g.begin(), g.end(), &e.d_initial[(n * D + c) * M]);
        }
    return e;
}

template <class T, class S>
void scan(const Shape& s, int dtype, bool logits, bool exact, bool reverse, int threads) {
    const Size D = s.channel_count(), M = s.states, keys = s.groups * M, rows = s.batch * s.length, N = s.sequences();
    std::mt19937 random{unsigned(rows + D + M)};
    const Numbers<T> x(rows, D, 3, random, -1, 1), beta(rows, D, 0, random, 0, 1), d_out(rows, D, 1, random, -1, 1);
    const Numbers<T> q(rows, keys, 2, random, -1, 1), k(rows, keys, 0, random, -0.7, 0.7);
    const Numbers<S> skip(1, D, 0, random, -1, 1), initial(N, D * M, 0, random, -1, 1);
    const Numbers<S> d_final(N, D * M, 0, random, -1, 1);
    const Truth e = truth<T, S>(s, logits, exact, reverse, x, beta, q, k, skip, initial, d_out, d_final);

    LonghornProblem p{{}, s.groups, s.channels, M, dtype, logits, exact, reverse, {}, {}, {}, {}, {}, skip.at(),
                      initial.at(), 0, {0}, threads};
    for (Size n = 0; n < N; ++n) {
        const Size length = s.ends.empty() ? s.length : s.ends[n + 1] - s.ends[n];
        p.sequences.push_back({s.ends.empty() ? n : 0, s.ends.empty() ? 0 : s.ends[n], length});
        p.tiles.push_back(p.tiles.back() + (length + kLonghornTime - 1) / kLonghornTime);
    }
    const Size lanes = PCL_BEST(longhorn_lanes)(dtype), vectors = (s.channels + lanes - 1) / lanes;
    void* kept = nullptr;  // on the boundary of a vector
    if (posix_memalign(&kept, 64, p.tiles.back() * s.groups * vectors * lanes * M * sizeof(S))) std::abort();
    p.checkpoints = reinterpret_cast<std::uintptr_t>(kept);
    p.x = x.tensor(s.length, s.channels), p.beta = beta.tensor(s.length, s.channels);
    p.q = q.tensor(s.length, M), p.k = k.tensor(s.length, M);
    const auto fresh = [](Size n, auto* type) {
        return std::unique_ptr<std::remove_pointer_t<decltype(type)>[]>(new std::remove_pointer_t<decltype(type)>[n]);
    };
    const auto to = [&](auto& memory, Size row, Size group) {
        return LonghornTensor{reinterpret_cast<std::uintptr_t>(memory.get()), s.length * row, row, group};
    };
    T* t = nullptr;
    S* c = nullptr;
    auto out = fresh(rows * D, t), dx = fresh(rows * D, t), d_beta = fresh(rows * D, t);
    auto final = fresh(N * D * M, c), d_initial = fresh(N * D * M, c), d_skip = fresh(N * D, c);
    const Size parts = (s.channels + kLonghornChannels - 1) / kLonghornChannels;
    auto dq = fresh(parts * rows * keys, c), dk = fresh(parts * rows * keys, c);
    p.out = to(out, D, s.channels);
    PCL_BEST(longhorn_scan)(p, reinterpret_cast<std::uintptr_t>(final.get()));
    p.out = d_out.tensor(s.length, s.channels);
    const LonghornGradients g{to(dx, D, s.channels), to(d_beta, D, s.channels), to(dq, keys, M), to(dk, keys, M),
                              rows * keys, reinterpret_cast<std::uintptr_t>(d_skip.get()),
                              reinterpret_cast<std::uintptr_t>(d_initial.get()), d_final.at()};
    PCL_BEST(longhorn_backward)(p, g);
    std::free(kept);

    for (Size part = 1; part < parts; ++part)
        for (Size i = 0; i < rows * keys; ++i)
            dq[i] += dq[part * rows * keys + i], dk[i] += dk[part * rows * keys + i];
    const double states = dtype == f64 ? 1e-11 : 1e-4;  // sums of up to three hundred terms of size one
    const double rounded = dtype == f64 ? 1e-11 : dtype == f32 ? 1e-4 : dtype == f16 ? 2e-3 : 1e-2;
    compare(out.get(), e.out, rounded, "o"), compare(final.get(), e.final, states, "final state");
    compare(dx.get(), e.dx, rounded, "dx"), compare(d_beta.get(), e.d_beta, rounded, "dbeta");
    compare(dq.get(), e.dq, states, "dq"), compare(dk.get(), e.dk, states, "dk");
    compare(d_skip.get(), e.d_skip, states, "dskip"), compare(d_initial.get(), e.d_initial, states, "dinitial");

    // in place: the final state over the initial one
    p.out = to(out, D, s.channels), p.checkpoints = 0, p.initial = initial.at();
    PCL_BEST(longhorn_scan)(p, initial.at());
    compare(out.get(), e.out, rounded, "o, state in place");
    compare(initial.memory.get(), e.final, states, "final state in place");
}

}  // namespace

// Returns how many results it has compared.
long longhorn_ops(int threads) {
    calls = 0;
    const std::vector<Shape> shapes{{1, 1, 1, 1, 1, {}},    {2, 15, 1, 7, 5, {}},    {1, 16, 1, 32, 8, {}},
                                    {2, 17, 1, 33, 16, {}}, {1, 33, 3, 19, 23, {}},  {1, 5, 2, 140, 3, {}},
                                    {1, 17, 1, 280, 16, {}}, {1, 3, 1, 5, 128, {}},
                                    {1, 40, 2, 21, 6, {0, 0, 7, 7, 24, 40, 40}}};
    for (const Shape& s : shapes)
        for (int flags = 0; flags < 8; ++flags) {
            const bool logits = flags & 1, exact = flags & 2, reverse = flags & 4;
            scan<float, float>(s, f32, logits, exact, reverse, threads);
            scan<double, double>(s, f64, logits, exact, reverse, threads);
            scan<baseline::Float16, float>(s, f16, logits, exact, reverse, threads);
            scan<baseline::Bfloat16, float>(s, bf16, logits, exact, reverse, threads);
        }
    return calls;
}
