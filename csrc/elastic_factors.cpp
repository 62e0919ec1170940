// EMGD's elastic factors for a batch of Gramians: cuda/elastic_factors.cuh on a warp of one lane.
#include "cuda/elastic_factors.cuh"

#include <vector>

#include "isa.hpp"

namespace pcl::PCL_ISA {

// Returns -1, or 8n + status for the first problem n that was refused; then no average has changed.
long elastic_factors(const void* gram, bool is_float, double* averages, double temperature, double floor, double keep,
                     double take, double* sigma, long batch, int k) {
    const warp::ElasticBatch all{{gram, is_float, batch, k}, averages, temperature, floor, keep, take, sigma};
    std::vector<double> room(2 * k);
    for (long n = 0; n < batch && batch > 1; ++n) {
        const Status status = warp::elastic_scores(all, n, room.data(), room.data() + k);
        if (refused(status)) return 8 * n + long(status);
    }
    for (long n = 0; n < batch; ++n) {
        const Status status = warp::elastic_factors(all, n, room.data(), room.data() + k);
        if (refused(status)) return 8 * n + long(status);
    }
    return -1;
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(long elastic_factors(const void* gram, bool is_float, double* averages, double temperature, double floor,
                                   double keep, double take, double* sigma, long batch, int k);)

namespace pcl {

void register_elastic_factors(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("elastic_factors", [](Address gram, bool is_float, Address averages, double temperature, double floor,
                                double keep, double take, Address sigma, long batch, int k) {
        return PCL_BEST(elastic_factors)(reinterpret_cast<const void*>(gram), is_float,
                                         reinterpret_cast<double*>(averages), temperature, floor, keep, take,
                                         reinterpret_cast<double*>(sigma), batch, k);
    });
}

}  // namespace pcl
#endif
