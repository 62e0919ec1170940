// firefly_select and firefly_apply on exactly sized heap buffers; see driver.cpp. Results are compared with plain loops:
// entry by entry for the tensors, and candidate by candidate for the selection.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../firefly_apply.hpp"
#include "../firefly_select.hpp"
#include "../gradients.hpp"
#include "../isa.hpp"
#include "../simd.hpp"

PCL_EVERY_ISA(void firefly_apply(const std::vector<Regrown>& tensors, int threads);
              void firefly_select(const Candidates& all, bool* chosen);)

namespace {

using namespace pcl;
using baseline::narrow, baseline::widen;
using Size = std::int64_t;

long calls = 0;

void check(bool good, const char* what, Size at) {
    if (good) return;
    std::printf("wrong result: %s, entry %ld, instruction set %d\n", what, long(at), int(current_isa()));
    std::exit(1);
}

template <class T>
std::vector<T> eighths(Size n, std::mt19937& random) {
    std::vector<T> x(n);
    for (T& value : x) value = narrow<T>(0.125 * (int(random() % 17) - 8));
    return x;
}

std::vector<Size> picks(Size n, Size below, std::mt19937& random) {
    std::vector<Size> x(n);
    for (Size i = 0; i < n; ++i)  // stretches in order, and single ones
        x[i] = i && random() % 3 ? (x[i - 1] + 2) % (below + 1) - 1 : Size(random() % (below + 1)) - 1;
    return x;
}

template <class T>
void regrown(int dtype, Size height, Size width, Size inner, bool corner, bool scales, int threads) {
    std::mt19937 random{unsigned(height * 31 + width)};
    const Size more = 3, wide = 2, tall = height + (corner ? more : 0), R = height + 5, C = width + 4;
    const auto old = eighths<T>(height * width * inner, random), below = eighths<T>(more * width * inner, random);
    const auto right = eighths<T>(tall * wide * inner, random);
    const auto rows = picks(R, height + more, random), columns = picks(C, width + wide, random);
    const auto row_scale = eighths<double>(R, random), column_scale = eighths<double>(C, random);
    std::vector<T> out(R * C * inner), plain(height * width * inner);
    const auto bytes = [](const auto& x) { return reinterpret_cast<const char*>(x.data()); };
    Regrown t{bytes(old), bytes(below), bytes(right), reinterpret_cast<char*>(out.data()), rows.data(), columns.data(),
              scales ? row_scale.data() : nullptr, scales ? column_scale.data() : nullptr, height, width, inner, more,
              tall, wide, R, C, dtype, sizeof(T)};
    Regrown same{t.old, nullptr, nullptr, reinterpret_cast<char*>(plain.data()), nullptr, nullptr, nullptr, nullptr,
                 height, width, inner, 0, 0, 0, height, width, dtype, sizeof(T)};
    PCL_BEST(firefly_apply)({t, same}, threads);
    ++calls;
    for (Size r = 0; r < R; ++r)
        for (Size c = 0; c < C; ++c)
            for (Size i = 0; i < inner; ++i) {
                const Size y = rows[r], x = columns[c];
                double value = 0;
                if (y >= 0 && x >= 0 && x < width)
                    value = widen(y < height ? old[(y * width + x) * inner + i]
                                             : below[((y - height) * width + x) * inner + i]);
                else if (y >= 0 && x >= width && y < tall)
                    value = widen(right[(y * wide + x - width) * inner + i]);
                if (scales) value *= row_scale[r] * column_scale[c];
                check(widen(out[(r * C + c) * inner + i]) == widen(narrow<T>(value)), "firefly_apply", r * C + c);
            }
    for (std::size_t i = 0; i < plain.size(); ++i)
        check(widen(plain[i]) == widen(old[i]), "firefly_apply as it is", i);
}

void selection(Size n, Size neurons, Size layers, Size budget, Size least, bool all) {
    std::mt19937 random{unsigned(n + budget)};
    std::vector<double> gain(n);
    std::vector<Size> cost(n), layer(n);
    for (Size i = 0; i < n; ++i) {
        gain[i] = random() % 9 ? double(int(random() % 7) - 2) : std::nan("");
        cost[i] = random() % 4, layer[i] = Size(random() % 4) - 1;
    }
    // By repeated search for the next one, in place of a sort.
    std::vector<char> seen(n), expected(n);
    std::vector<Size> used, members(3);
    for (Size taken = 0, left = budget;;) {
        Size next = -1;
        for (Size i = 0; i < n; ++i)
            if (!seen[i] && gain[i] > 0 && (next < 0 || gain[i] > gain[next])) next = i;
        if (next < 0) break;
        seen[next] = 1;
        const Size number = all ? layer[next] : -1, price = all ? cost[next] : 0;
        if (number >= 0) {
            bool known = false;
            for (Size u : used) known |= u == number;
            if (!known && Size(used.size()) == layers) continue;
            if (!known) used.push_back(number);
        }
        if (taken == neurons || price > left) break;
        left -= price, ++taken;
        expected[next] = 1;
        if (number >= 0) ++members[number];
    }
    for (Size i = 0; i < n; ++i)
        if (all && layer[i] >= 0 && members[layer[i]] < least) expected[i] = 0;
    std::vector<char> chosen(n, 2);
    PCL_BEST(firefly_select)({gain.data(), all ? cost.data() : nullptr, all ? layer.data() : nullptr, n, neurons, layers,
                              budget, least}, reinterpret_cast<bool*>(chosen.data()));
    ++calls;
    for (Size i = 0; i < n; ++i) check(chosen[i] == expected[i], "firefly_select", i);
}

}  // namespace

// Returns how many results it has compared.
long regrow_ops(int threads) {
    calls = 0;
    for (bool corner : {false, true})
        for (bool scales : {false, true})
            for (Size inner : {1, 9}) {
                regrown<float>(f32, 5, 7, inner, corner, scales, threads);
                regrown<double>(f64, 1, 1, inner, corner, scales, threads);
                regrown<float>(f32, 0, 3, inner, corner, scales, threads);
                regrown<baseline::Float16>(f16, 3, 0, inner, corner, scales, threads);
                regrown<baseline::Bfloat16>(bf16, 40, 133, inner, corner, scales, threads);
            }
    for (Size n : {0, 1, 30, 200})
        for (Size limit : {0, 1, 7, 1000}) {
            selection(n, 1000, 1000, limit, 0, true);
            selection(n, limit, 2, 1000, 4, true);
            selection(n, 20, limit, 40, 2, true);
            selection(n, limit, 0, 0, 9, false);
        }
    return calls;
}
