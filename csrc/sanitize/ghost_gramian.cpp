// The ghost Gramian under sanitizers, beside gradients that are formed. All numbers are whole, so that nothing is
// rounded.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "../ghost_gramian.hpp"
#include "../isa.hpp"

PCL_EVERY_ISA(void ghost_gramian(const std::vector<Size>& blocks, const RowsOf& a, const RowsOf& delta, double bias,
                                 double* gram, int threads);)

namespace {

using namespace pcl;

long one(const std::vector<Size>& blocks, Size n, Size m, int threads) {
    std::mt19937 random(static_cast<unsigned>(n + m));
    const Size rows = std::accumulate(blocks.begin(), blocks.end(), Size{0}), k = blocks.size();
    std::vector<float> a(rows * n);
    std::vector<double> delta(rows * (m + 1));  // a column more than is read
    for (float& x : a) x = int(random() % 7) - 3;
    for (double& x : delta) x = int(random() % 7) - 3;
    std::vector<double> gradients(k * (n + 1) * m), gram(k * k);
    for (Size i = 0, r = 0; i < k; ++i)
        for (const Size end = r + blocks[i]; r < end; ++r)
            for (Size o = 0; o < m; ++o)
                for (Size c = 0; c <= n; ++c)
                    gradients[(i * (n + 1) + c) * m + o] += delta[r * (m + 1) + o] * (c < n ? a[r * n + c] : 1.0);
    PCL_BEST(ghost_gramian)(blocks, {a.data(), 0, n, n}, {delta.data(), 1, m, m + 1}, 1.0, gram.data(), threads);
    const Size size = (n + 1) * m;
    for (Size i = 0; i < k; ++i)
        for (Size j = 0; j < k; ++j) {
            const double* of_i = gradients.data() + i * size;
            if (gram[i * k + j] == std::inner_product(of_i, of_i + size, gradients.data() + j * size, 0.0)) continue;
            std::printf("wrong result: ghost_gramian, instruction set %d\n", int(current_isa()));
            std::exit(1);
        }
    return 1;
}

}  // namespace

// Returns how many results it has compared.
long ghost_ops(int threads) {
    return one({1}, 1, 1, threads) + one({3, 2}, 19, 7, threads) + one({5, 0, 9}, 1030, 33, threads) + one({}, 3, 2, threads);
}
