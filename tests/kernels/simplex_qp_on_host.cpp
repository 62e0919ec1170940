// The device code of csrc/cuda/simplex_qp.cuh on the processor, for tests where there is no GPU: as a warp of one
// lane, or, compiled with -DPCL_WARP='"warp_of_threads.hpp"', as a warp of threads.
#include <thread>
#include <vector>

#include "cuda/simplex_qp.cuh"

extern "C" void simplex_qp_on_host(const void* gram, int is_float, const double* sigma, long sigma_stride,
                                   double* lambda, double* gap, bool* active, int* pivots, int* status, long batch,
                                   int k) {
    using namespace pcl::warp;
    const SimplexBatch all{gram, is_float != 0, sigma, sigma_stride, lambda, {gap, active, pivots, status}, batch, k};
    std::vector<double> fast(SimplexMemory::fast(k)), global(SimplexMemory::global(k));
    const auto lane_program = [&] {
        for (long b = 0; b < batch; ++b) simplex_qp(all, b, fast.data(), global.data());
    };
#ifdef PCL_WARP
    Warp warp;
    pthread_barrier_init(&warp.barrier, nullptr, LANES);
    the_warp = &warp;
    std::vector<std::thread> lanes;
    for (int l = 0; l < LANES; ++l) lanes.emplace_back([&, l] { this_lane = l, lane_program(); });
    for (std::thread& t : lanes) t.join();
    pthread_barrier_destroy(&warp.barrier);
#else
    lane_program();
#endif
}

#ifdef PCL_WARP_MAIN
// For a sanitizer: dependent, equal and nearly opposite gradients, the last of which need double-doubles. Prints
// the largest violation of σᵀλ = 1, λ >= 0 and (but for the last, where rounding blurs it) of the optimality.
#include <cstdio>
#include <random>

int main() {
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal;
    double worst = 0;
    for (int family = 0; family < 3; ++family)
        for (int k : {1, 2, 3, 6, 9, 14}) {
            const int batch = 4, m = k / 2 + 1;  // rank-deficient from k = 3
            std::vector<double> G(batch * k * k), J(k * m), lambda(batch * k), gap(batch), sigma(k, 0.5);
            for (int b = 0; b < batch; ++b) {
                for (double& a : J) a = normal(random);
                for (int i = 1; i < k; ++i)
                    for (int c = 0; c < m; ++c) {
                        if (family == 1) J[i * m + c] = J[i % 2 * m + c];
                        if (family == 2) J[i * m + c] = (i % 2 ? -1 : 1) * J[c] + 1e-8 * J[i * m + c];
                    }
                for (int i = 0; i < k; ++i)
                    for (int j = 0; j < k; ++j)
                        for (int c = 0; c < m; ++c) G[(b * k + i) * k + j] += J[i * m + c] * J[j * m + c];
            }
            std::vector<char> active(batch * k);
            std::vector<int> pivots(batch), status(batch);
            simplex_qp_on_host(G.data(), 0, sigma.data(), 0, lambda.data(), gap.data(),
                               reinterpret_cast<bool*>(active.data()), pivots.data(), status.data(), batch, k);
            for (int b = 0; b < batch; ++b) {
                double best = G[b * k * k], total = 0;
                for (int i = 0; i < k; ++i) {
                    best = std::fmin(best, G[(b * k + i) * k + i]);
                    total += 0.5 * lambda[b * k + i];
                    worst = std::fmax(worst, -lambda[b * k + i]);
                }
                worst = std::fmax(worst, std::fabs(total - 1));
                if (family < 2) worst = std::fmax(worst, gap[b] / (best / 0.25) + (status[b] != 0));
            }
        }
    std::printf("%.3e\n", worst);
}
#endif
