// How the Firefly kernels walk their operands: the numbers of every channel as vectors, blocks in a fixed order of
// tasks, sums over them in double. The tasks depend on the shape alone, so that sums have the same bits for any number
// of threads.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "activations.hpp"
#include "firefly.hpp"

namespace pcl::PCL_ISA {

// Lanes of float or double added up in double.
template <class S>
struct WideSum {
    static constexpr int kParts = sizeof(double) / sizeof(S);
    Scan<double> part[kParts] = {};

    void add(const Scan<S>& x) {
        if constexpr (kParts == 1) {
            part[0] += x;
        } else {
            Loose<float> half[kParts];
            std::memcpy(half, &x, sizeof x);
            for (int p = 0; p < kParts; ++p) part[p] += widen_vec(half[p]);
        }
    }
    double lane(int i) const { return part[i / kScanLanes<double>][i % kScanLanes<double>]; }
    double total() const {
        double sum = 0;
        for (int i = 0; i < kScanLanes<S>; ++i) sum += lane(i);
        return sum;
    }
};

// What the lanes of a vector multiply and add: s, t, s ε, s mirror ε and mirror of their channels.
template <class S>
struct Split {
    Scan<S> scale, shift, plus, minus, mirror;
};

// (act(u+) + act(u-)) / 2 with u± = s (a ± ε d) + t
template <class A, class S>
inline Scan<S> half_sum(const Split<S>& of, const Scan<S>& a, const Scan<S>& d) {
    const Scan<S> base = of.scale * a + of.shift;
    return (A::value(base + of.plus * d) + A::value(base + of.minus * d)) * all<Scan<S>>(0.5);
}

template <class S>
class Splits {
    std::vector<S> scale_, shift_, plus_, minus_, mirror_;  // padded to whole vectors

  public:
    explicit Splits(const Firefly& f) {
        for (auto* of : {&scale_, &shift_, &plus_, &minus_, &mirror_}) of->resize(f.channels + kScanLanes<S>);
        for (Size c = 0; c < f.channels; ++c) {
            const double s = f.scale ? f.scale[c] : 1, step = s * f.epsilon[c], mirror = f.mirror ? f.mirror[c] : -1;
            scale_[c] = static_cast<S>(s), shift_[c] = static_cast<S>(f.shift ? f.shift[c] : 0);
            plus_[c] = static_cast<S>(step), minus_[c] = static_cast<S>(mirror * step);
            mirror_[c] = static_cast<S>(mirror);
        }
    }
    // Those of channel c in every lane, or of the channels from c on (rows).
    template <bool rows>
    Split<S> at(Size c) const {
        const auto of = [c](const std::vector<S>& v) { return rows ? load_lanes(v.data() + c) : splat(v[c]); };
        return {of(scale_), of(shift_), of(plus_), of(minus_), of(mirror_)};
    }
};

template <class T>
struct Operand {
    T* at;
    Size step;
    explicit Operand(const FireflyTensor& t) : at(reinterpret_cast<T*>(t.at)), step(t.step) {}
    T* in(Size block) const { return at + block * step; }
};

constexpr Size kFireflyTask = 1024;  // numbers of a channel in one task, about
constexpr Size kRowsTogether = 32;   // their pages stay known while all channels are visited

inline Size blocks_in_task(const Firefly& f) { return std::max<Size>(1, kFireflyTask / f.positions); }
inline Size tasks_of(const Firefly& f) { return (f.outer + blocks_in_task(f) - 1) / blocks_in_task(f); }

// Walks a task: for some blocks of one channel (planes) or of a vector of channels (rows) at a time,
//   visit(split, block, offset, width)  `width` numbers at `offset` of a block
//   end(channel, width)                 behind the last; `width` channels (rows) or one
template <bool rows, class S, class Visit, class End>
inline void walk_task(const Firefly& f, const Splits<S>& splits, Size task, Visit&& visit, End&& end) {
    constexpr int W = kScanLanes<S>;
    const Size stop = std::min(f.outer, (task + 1) * blocks_in_task(f)), together = rows ? kRowsTogether : stop;
    for (Size first = task * blocks_in_task(f); first < stop; first += together) {
        const Size last = std::min(stop, first + together);
        for (Size c = 0; c < f.channels; c += rows ? W : 1) {
            const Split<S> split = splits.template at<rows>(c);
            const Size begin = c * f.positions, numbers = rows ? std::min<Size>(W, f.channels - c) : f.positions;
            for (Size block = first; block < last; ++block) {
                Size i = 0;
                for (; i + W <= numbers; i += W) visit(split, block, begin + i, W);
                if (i < numbers) visit(split, block, begin + i, static_cast<int>(numbers - i));
            }
            end(c, rows ? static_cast<int>(numbers) : 1);
        }
    }
}

template <class F>
inline void every_task(const Firefly& f, F&& run) {
    const Size tasks = tasks_of(f);
#pragma omp parallel for schedule(static) num_threads(f.threads) if (f.threads > 1)
    for (Size task = 0; task < tasks; ++task) run(task);
}

// Sums of every channel, `count` of them, from those that the tasks make: run(task, sums[count][channels]).
template <class F>
inline std::vector<double> sums_of_tasks(const Firefly& f, int count, F&& run) {
    const Size size = count * f.channels;
    std::vector<double> of_tasks(tasks_of(f) * size), sums(size);
    every_task(f, [&](Size task) { run(task, of_tasks.data() + task * size); });
    for (std::size_t i = 0; i < of_tasks.size(); ++i) sums[i % size] += of_tasks[i];
    return sums;
}

// Adds to sums[channel...] what a WideSum holds and empties it.
template <bool rows, class S>
inline void flush(WideSum<S>& from, double* sums, int width) {
    if constexpr (rows) {
        for (int i = 0; i < width; ++i) sums[i] += from.lane(i);
    } else {
        *sums += from.total();
    }
    from = {};
}

// Calls f(activation, rows, null pointer of the element type) with what `of` says.
template <class F>
inline void with_kind(const Firefly& of, F&& f) {
    with_activation(of.activation, [&](auto activation) {
        with_type(of.dtype, [&](auto* type) {
            of.rows ? f(activation, std::true_type{}, type) : f(activation, std::false_type{}, type);
        });
    });
}

}  // namespace pcl::PCL_ISA
