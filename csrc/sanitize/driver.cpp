// Calls every compiled op on exactly sized heap buffers, so that the sanitizers (see run.sh) can watch: sizes around
// every block and register boundary, all dtypes, absent gradients, hard Gramians, one and several threads, several
// callers at once, every instruction set of this processor. Results are compared with plain loops.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <thread>

#include "../isa.hpp"
#include "../optimizers.hpp"
#include "../qp_info.hpp"
#include "../simd.hpp"
#include "../walk.hpp"

namespace pcl {
using Addresses = std::vector<std::uintptr_t>;
}
PCL_EVERY_ISA(
    using pcl::Addresses; using pcl::Gradients;
    void gramian(const Gradients&, double*, int);
    void combine(const Gradients&, const double*, const std::uintptr_t*, bool, int);
    void combine_sgd(const Gradients&, const double*, const Addresses&, const Addresses&, const Sgd&, int);
    void combine_adamw(const Gradients&, const double*, const Addresses&, const Addresses&, const Addresses&,
                       const Adam&, int);
    std::uint64_t read_bytes(const Addresses&, const std::vector<std::int64_t>&, int);
    long simplex_qp(const void*, bool, const double*, long, double*, const QpInfo&, long, int, int);
    long cone_qp(const void*, bool, const double*, long, double*, const QpInfo&, long, int, int);
    long cagrad_dual(const void*, bool, double, const double*, long, double*, const QpInfo&, long, int, int);
    long maxdo(const void*, bool, double*, const QpInfo&, long, int, int);
    long nash_mtl(const void*, bool, double, const double*, long, double*, const SystemInfo&, long, int, int);
    long imtl_g(const void*, bool, double*, const SystemInfo&, long, int, int);
    long pcgrad(const void*, bool, const Walk&, long, int, int);
    long elastic_factors(const void*, bool, double*, double, double, double, double, double*, long, int);
    void semidefinite_solve(const double*, const double*, double*, double, long, int, int, int);)

namespace {

using namespace pcl;
using baseline::narrow, baseline::widen;

std::atomic<long> calls{0};

void check(bool good, const char* what, int k, std::int64_t size) {
    if (good) return;
    std::printf("wrong result: %s, k = %d, size %ld, instruction set %d\n", what, k, long(size), int(current_isa()));
    std::exit(1);
}

// n elements on the heap, not one more. With `odd` the first lies one element off the alignment of the heap.
template <class T>
class Exact {
    std::unique_ptr<T[]> memory_;
    std::int64_t n_;
    bool odd_;

  public:
    explicit Exact(std::int64_t n, bool odd = false) : memory_(new T[n + odd]()), n_(n), odd_(odd) {}
    T* data() const { return memory_.get() + odd_; }
    T& operator[](std::int64_t i) const { return data()[i]; }
    std::int64_t size() const { return n_; }
    std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(data()); }
};

// Gradients, parameters or states: multiples of 1/4 that every dtype holds, so that sums below come out exactly.
template <class T>
Exact<T> quarters(std::int64_t n, std::mt19937& random, bool odd, int low = -15) {
    Exact<T> x(n, odd);
    for (std::int64_t c = 0; c < n; ++c) x[c] = narrow<T>(0.25 * (low + int(random() % (16 - low))));
    return x;
}

// The ops over gradients of k tasks with parameters of the given sizes; `holes` leaves out every third gradient.
template <class T>
void gradient_ops(int k, const std::vector<std::int64_t>& sizes, int dtype, int threads, bool holes, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Exact<T>> grads, params, means, squares, outs;
    Addresses address, p, m, v, out;
    std::int64_t columns = 0;
    for (std::size_t n = 0; n < sizes.size(); ++n) {
        const bool odd = (seed + n) % 2;
        columns += sizes[n];
        for (int i = 0; i < k; ++i) {
            grads.push_back(quarters<T>(sizes[n], random, odd));
            address.push_back(holes && (n + i) % 3 == 1 ? 0 : grads.back().address());
        }
        params.push_back(quarters<T>(sizes[n], random, odd)), p.push_back(params.back().address());
        means.push_back(quarters<T>(sizes[n], random, !odd)), m.push_back(means.back().address());
        squares.push_back(quarters<T>(sizes[n], random, odd, 1)), v.push_back(squares.back().address());
        outs.push_back(quarters<T>(sizes[n], random, odd)), out.push_back(outs.back().address());
    }
    const Gradients g(k, address, sizes, std::vector<int>(sizes.size(), dtype));
    const auto at = [&](std::size_t n, int i, std::int64_t c) {
        return address[n * k + i] ? widen(grads[n * k + i][c]) : 0.0;
    };

    Exact<double> gram(k * k);
    for (int e = 0; e < k * k; ++e) gram[e] = std::nan("");
    PCL_BEST(gramian)(g, gram.data(), threads);
    for (int i = 0; i < k; ++i)
        for (int j = 0; j <= i; j += columns * k > 20000 ? 3 : 1) {
            double sum = 0;
            for (std::size_t n = 0; n < sizes.size(); ++n)
                for (std::int64_t c = 0; c < sizes[n]; ++c) sum += at(n, i, c) * at(n, j, c);
            check(gram[i * k + j] == sum && gram[j * k + i] == sum, "gramian", k, columns);
        }

    Exact<double> w(k);
    for (int i = 0; i < k; ++i) w[i] = 0.125 * (i % 7 + 1);
    const Sgd sgd{0.5, 0.5, 0.25, 0.125, true, false}, plain{0.5, 0, 0, 0, false, true};
    const Adam adam{3, 0.01, 0.9, 0.99, 1e-8, 0.1, seed % 2 == 0};
    const double tolerance = dtype == f64 ? 1e-12 : dtype == f32 ? 1e-6 : dtype == f16 ? 1e-3 : 8e-3;
    std::vector<std::vector<double>> want_p(sizes.size()), want_out(sizes.size());
    for (std::size_t n = 0; n < sizes.size(); ++n)
        for (std::int64_t c = 0; c < sizes[n]; ++c) {
            double d = 0;
            for (int i = 0; i < k; ++i) d += w[i] * at(n, i, c);
            want_out[n].push_back(widen(narrow<T>(widen(narrow<T>(d)) + d)));
            // two SGD steps (plain, Nesterov), then one of Adam; each rounds its results to T
            double x = widen(narrow<T>(widen(params[n][c]) - 0.5 * d));
            const double dd = d + 0.125 * x, b = 0.5 * widen(means[n][c]) + 0.75 * dd;
            x = widen(narrow<T>(x - 0.5 * (dd + 0.5 * b)));
            const double mean = widen(narrow<T>(b)), e = d + (adam.decoupled ? 0 : 0.1 * x);
            const double first = 0.9 * mean + 0.1 * e, second = 0.99 * widen(squares[n][c]) + 0.01 * e * e;
            const double step = 0.01 * first / (1 - 0.729) / (std::sqrt(second / (1 - 0.970299)) + 1e-8);
            want_p[n].push_back((adam.decoupled ? 1 - 0.001 : 1) * x - step);
        }
    PCL_BEST(combine)(g, w.data(), out.data(), false, threads);
    PCL_BEST(combine)(g, w.data(), out.data(), true, threads);
    PCL_BEST(combine_sgd)(g, w.data(), p, Addresses(), plain, threads);
    PCL_BEST(combine_sgd)(g, w.data(), p, m, sgd, threads);
    PCL_BEST(combine_adamw)(g, w.data(), p, m, v, adam, threads);
    for (std::size_t n = 0; n < sizes.size(); ++n)
        for (std::int64_t c = 0; c < sizes[n]; ++c) {
            const double x = want_p[n][c];
            check(widen(outs[n][c]) == want_out[n][c], "combine", k, columns);
            check(std::fabs(widen(params[n][c]) - x) <= tolerance * (1 + std::fabs(x)), "updates", k, columns);
        }

    std::vector<std::int64_t> bytes;
    Addresses whole;
    for (const auto& x : grads) bytes.push_back(x.size() * sizeof(T)), whole.push_back(x.address());
    PCL_BEST(read_bytes)(whole, bytes, threads);
    calls += 7;
}

enum Family { random_full, zero_rows, all_zero, duplicates, opposites, low_rank, tiny, huge, mixed, not_a_number, families };

template <class T>
void fill_gramian(T* G, int k, int family, std::mt19937& random) {
    std::normal_distribution<double> normal;
    const int r = family == low_rank ? std::max(1, k / 2) : k + 3;
    const int power = std::is_same_v<T, float> ? 10 : 20;
    std::vector<double> J(std::size_t(k) * r);
    for (double& x : J) x = normal(random);
    for (int i = 0; i < k; ++i)
        for (int c = 0; c < r; ++c) {
            double& x = J[i * r + c];
            if (family == all_zero || (family == zero_rows && i % 3 == 1)) x = 0;
            if (family == duplicates) x = J[i % 2 * r + c];
            if (family == opposites && i % 2) x = -J[(i - 1) * r + c];
            if (family == tiny) x *= std::pow(10.0, -power);
            if (family == huge) x *= std::pow(10.0, power - 2);
            if (family == mixed) x *= std::pow(10.0, i % 3 * 6 - 6);
        }
    for (int i = 0; i < k; ++i)
        for (int j = 0; j < k; ++j) {
            double sum = 0;
            for (int c = 0; c < r; ++c) sum += J[i * r + c] * J[j * r + c];
            G[i * k + j] = T(sum);
        }
    if (family == not_a_number) G[k * k - 1] = std::numeric_limits<T>::quiet_NaN();
}

// The small problems, for a batch of one family.
template <class T>
void small_problems(int k, int family, long batch, int threads, bool info, unsigned seed) {
    std::mt19937 random(seed);
    const long kk = k * k;
    Exact<T> G(batch * kk);
    Exact<double> sigma(info ? batch * k : k), b(batch * k), x(batch * k), gap(batch);
    Exact<bool> active(batch * k);
    Exact<std::int32_t> pivots(batch), status(batch);
    for (long n = 0; n < batch; ++n) fill_gramian(G.data() + n * kk, k, family, random);
    for (std::int64_t i = 0; i < sigma.size(); ++i) sigma[i] = 0.1 + 0.01 * (random() % 100);
    const auto times_G = [&](long n, int i) {
        double sum = 0;
        for (int j = 0; j < k; ++j) sum += double(G[n * kk + i * k + j]) * x[n * k + j];
        return sum;
    };
    const bool is_float = std::is_same_v<T, float>, bad = family == not_a_number && batch > 0;
    const double tolerance = 1e4 * std::numeric_limits<T>::epsilon();
    const auto forget = [&] { std::fill_n(x.data(), batch * k, std::nan("")); };

    const QpInfo evidence = info ? QpInfo{gap.data(), active.data(), pivots.data(), status.data()} : QpInfo{};
    const SystemInfo residuals = info ? SystemInfo{gap.data(), status.data()} : SystemInfo{};
    // gaps are in units of the objective, which is about that of the first gradient here
    const auto certified = [&](const char* what, double limit) {
        for (long n = 0; n < batch && info && family == random_full; ++n)
            check(gap[n] <= limit * double(G[n * kk]) && status[n] == 0, what, k, family);
    };

    for (bool with_sigma : {false, true}) {
        forget();
        const double* s = with_sigma ? sigma.data() : nullptr;
        const long stride = info ? k : 0;
        const long failed = PCL_BEST(simplex_qp)(G.data(), is_float, s, stride, x.data(),
                                                 evidence, batch, k, threads);
        check((failed >= 0) == bad, "simplex_qp: status", k, family);
        for (long n = 0; n < batch && !bad; ++n) {
            double total = 0, f = 0, least = std::numeric_limits<double>::infinity();
            for (int i = 0; i < k; ++i) {
                const double si = s ? s[n * stride + i] : 1.0, Gx = times_G(n, i);
                check(x[n * k + i] >= 0, "simplex_qp: sign", k, family);
                total += x[n * k + i] * si, f += x[n * k + i] * Gx, least = std::min(least, Gx / si);
            }
            check(std::fabs(total - 1) < 1e-12, "simplex_qp: sum", k, family);
            check(family != random_full || f - least <= tolerance * (1 + f), "simplex_qp: optimality", k, family);
        }
    }

    for (std::int64_t i = 0; i < b.size(); ++i) b[i] = 0.01 * (random() % 300) - 2;
    forget();
    const long failed = PCL_BEST(cone_qp)(G.data(), is_float, b.data(), k, x.data(), evidence, batch, k, threads);
    check(!bad || failed >= 0, "cone_qp: status", k, family);
    for (long n = 0; n < batch && family == random_full; ++n)
        for (int i = 0; i < k; ++i) {
            const double v = x[n * k + i], slack = times_G(n, i) + b[n * k + i], scale = tolerance * (1 + v) * 100;
            check(v >= 0 && slack >= -scale && v * slack <= scale * (1 + v), "cone_qp: optimality", k, family);
        }

    for (double c : {0.0, 0.5}) {
        forget();
        const double* p = c ? sigma.data() : nullptr;
        const long failed = PCL_BEST(cagrad_dual)(G.data(), is_float, c, p, info ? k : 0, x.data(), evidence, batch, k,
                                                  threads);
        check((failed >= 0) == bad, "cagrad_dual: status", k, family);
        for (long n = 0; n < batch && !bad; ++n) {
            double total = 0;
            for (int i = 0; i < k; ++i) total += x[n * k + i];
            check(std::fabs(total - 1) < 1e-12, "cagrad_dual: sum", k, family);
        }
        certified("cagrad_dual: gap", tolerance);
    }

    forget();
    check((PCL_BEST(maxdo)(G.data(), is_float, x.data(), evidence, batch, k, threads) >= 0) == bad, "maxdo: status", k,
          family);
    for (long n = 0; n < batch && !bad; ++n) {
        double total = 0;
        for (int i = 0; i < k; ++i) total += x[n * k + i];
        check(std::fabs(total - 1) < 1e-12, "maxdo: sum", k, family);
    }
    certified("maxdo: gap", tolerance);

    for (double alpha : {1.0, 0.3, 4.0}) {
        forget();
        const double* p = alpha == 1 ? nullptr : sigma.data();
        const long stride = info ? k : 0;
        const long none = PCL_BEST(nash_mtl)(G.data(), is_float, alpha, p, stride, x.data(), residuals, batch, k,
                                             threads);
        check((none >= 0) == bad, "nash_mtl: status", k, family);
        for (long n = 0; n < batch && family == random_full; ++n)
            for (int i = 0; i < k; ++i) {
                const double gain = std::pow((p ? p[n * stride + i] : 1.0) / x[n * k + i], 1 / alpha);
                check(std::fabs(times_G(n, i) / gain - 1) < tolerance, "nash_mtl: optimality", k, family);
            }
        certified("nash_mtl: residual", tolerance);
    }

    forget();
    const long unequal = PCL_BEST(imtl_g)(G.data(), is_float, x.data(), residuals, batch, k, threads);
    check((unequal >= 0) == bad, "imtl_g: status", k, family);
    for (long n = 0; n < batch && family == random_full; ++n) {
        double total = 0, size = 0;
        for (int i = 0; i < k; ++i) total += x[n * k + i], size += std::fabs(x[n * k + i]);
        check(std::fabs(total - 1) <= 1e-12 * size, "imtl_g: sum", k, family);
    }
    certified("imtl_g: residual", tolerance);

    Exact<std::int64_t> order(kk);  // everyone meets everyone
    for (int a = 0; a < kk; ++a) order[a] = a % k;
    Exact<double> target(kk), moved(batch * kk);
    for (bool vaccine : {false, true}) {
        forget();
        const Walk walk{false, order.data(), 0, k, vaccine ? target.data() : nullptr, 0, 0.1, moved.data(), x.data()};
        const long turned = PCL_BEST(pcgrad)(G.data(), is_float, walk, batch, k, threads);
        check((turned >= 0) == bad, "pcgrad: status", k, family);
        for (long a = 0; a < batch * k && !bad; ++a) check(x[a] >= 1, "pcgrad: weight", k, family);
    }
    Exact<double> averages(batch * k);
    for (double* written : {static_cast<double*>(nullptr), averages.data()}) {
        forget();
        const long refused = PCL_BEST(elastic_factors)(G.data(), is_float, written, 1.0, 0.5 / k, 0.9, 0.1, x.data(),
                                                       batch, k);
        check((refused >= 0) == bad, "elastic_factors: status", k, family);
        for (long n = 0; n < batch && !bad; ++n) {
            double total = 0;
            for (int i = 0; i < k; ++i) total += x[n * k + i];
            check(std::fabs(total - 1) < 1e-12, "elastic_factors: sum", k, family);
        }
    }

    if constexpr (!std::is_same_v<T, float>) {
        const int rows = 2;
        Exact<double> right(batch * rows * k), solution(batch * rows * k);
        for (std::int64_t i = 0; i < right.size(); ++i) right[i] = 0.01 * (random() % 300) - 2;
        PCL_BEST(semidefinite_solve)(G.data(), right.data(), solution.data(), 1e-12, batch, k, rows, threads);
        for (long n = 0; n < batch * rows && family == random_full; ++n)
            for (int i = 0; i < k; ++i) {
                double r = right[n * k + i];
                for (int j = 0; j < k; ++j) r -= G[n / rows * kk + i * k + j] * solution[n * k + j];
                check(std::fabs(r) < 1e-8, "semidefinite_solve: residual", k, family);
            }
    }
    calls += 15;
}

void all_dtypes(int k, const std::vector<std::int64_t>& sizes, int threads, bool holes, unsigned seed) {
    gradient_ops<float>(k, sizes, f32, threads, holes, seed);
    gradient_ops<double>(k, sizes, f64, threads, holes, seed + 1);
    gradient_ops<baseline::Float16>(k, sizes, f16, threads, holes, seed + 2);
    gradient_ops<baseline::Bfloat16>(k, sizes, bf16, threads, holes, seed + 3);
}

void everything() {
    const std::vector<int> ks{1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 64, 65};
    for (int k : ks) {
        for (const auto& sizes : std::vector<std::vector<std::int64_t>>{{}, {0}, {1}, {7}, {5, 0, 127, 130, 1}})
            for (bool holes : {false, true}) all_dtypes(k, sizes, 2, holes, k);
        if (k <= 6) all_dtypes(k, {8191}, 2, false, k), all_dtypes(k, {8193}, 1, k % 2, k), all_dtypes(k, {8193}, 2, k % 2, k + 1);
        if (k == 9) all_dtypes(k, {8193, 300}, 3, true, k);
        for (int family = 0; family < families; ++family) {
            const long batch = k < 10 ? 40 : k < 60 ? 3 : 1;  // 40: more than two threads' first helpings of 16
            small_problems<double>(k, family, batch, 2, true, k);
            small_problems<float>(k, family, k < 60 ? 1 : 0, 1, false, k);
        }
        small_problems<double>(k, random_full, 0, 1, false, k);
    }
    all_dtypes(3, {100003}, 2, false, 1);
    all_dtypes(6, {100003}, 3, true, 2);
}

}  // namespace

long edit_ops(int threads);      // edits.cpp
long firefly_ops(int threads);   // firefly.cpp
long ghost_ops(int threads);     // ghost_gramian.cpp
long logit_ops();                // logit_distance.cpp
long longhorn_ops(int threads);  // longhorn.cpp
long mlp_ops(int threads);       // mlp.cpp
long regrow_ops(int threads);    // regrow.cpp

int main() {
    int sets = 0;
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (!use_isa(isa)) continue;
        ++sets;
        everything();
        calls += logit_ops();
        for (int threads : {1, 2})
            calls += edit_ops(threads) + firefly_ops(threads) + ghost_ops(threads) + longhorn_ops(threads) +
                     mlp_ops(threads) + regrow_ops(threads);
        std::vector<std::thread> callers;  // the ops run without Python's lock, so callers may come together
        for (unsigned n = 0; n < 2; ++n)
            callers.emplace_back([n] {
                all_dtypes(4, {20000, 3}, 2, true, n);
                small_problems<double>(7, random_full, 40, 2, true, n);
            });
        for (std::thread& caller : callers) caller.join();
    }
    std::printf("%ld calls on %d instruction sets: results right\n", calls.load(), sets);
}
