// The launchers of csrc/cuda/ in Python, where they were built. They return at once; the device works behind.
#include <nanobind/nanobind.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef PCL_WITH_CUDA
extern "C" const char* pcl_cuda_error(int code);
extern "C" long pcl_cuda_simplex_qp_workspace(long batch, int k);
extern "C" int pcl_cuda_simplex_qp(const void* gram, int is_float, const double* sigma, long sigma_stride, double* lambda, double* gap, bool* active, int* pivots, int* status, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_cone_qp_workspace(long batch, int k);
extern "C" int pcl_cuda_cone_qp(const void* gram, int is_float, const double* b, long b_stride, double* v, double* gap, bool* active, int* pivots, int* status, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_cagrad_dual_workspace(long batch, int k);
extern "C" int pcl_cuda_cagrad_dual(const void* gram, int is_float, double c, const double* preference, long preference_stride, double* w, double* gap, bool* active, int* pivots, int* status, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_maxdo_workspace(long batch, int k);
extern "C" int pcl_cuda_maxdo(const void* gram, int is_float, double* w, double* gap, bool* active, int* pivots, int* status, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_nash_mtl_workspace(long batch, int k);
extern "C" int pcl_cuda_nash_mtl(const void* gram, int is_float, double alpha, const double* preference, long preference_stride, double* w, double* residual, int* status, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_imtl_g_workspace(long batch, int k);
extern "C" int pcl_cuda_imtl_g(const void* gram, int is_float, double* alpha, double* residual, int* status, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_pcgrad_workspace(long batch, int k);
extern "C" int pcl_cuda_pcgrad(const void* gram, int is_float, int one_gram, const long* order, long order_stride, int width, const double* target, long target_stride, double beta, double* moved, double* weights, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_elastic_factors_workspace(long batch, int k);
extern "C" int pcl_cuda_elastic_factors(const void* gram, int is_float, double* averages, double temperature, double floor, double keep, double take, double* sigma, long batch, int k, void* workspace, void* stream);
extern "C" long pcl_cuda_semidefinite_solve_workspace(long batch, int k);
extern "C" int pcl_cuda_semidefinite_solve(const double* a, const double* b, double* x, double cutoff, int rows, long batch, int k, void* workspace, void* stream);
#endif

namespace pcl {

#ifdef PCL_WITH_CUDA
namespace {

// Addresses come as integers, the rest as it is.
template <class T>
using FromPython = std::conditional_t<std::is_pointer_v<T>, std::uintptr_t, T>;

template <class T>
T to_native(FromPython<T> value) {
    if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(value);
    else return value;
}

template <class... Args>
void define(nanobind::module_& m, const std::string& op, long (*workspace)(long, int), int (*launch)(Args...)) {
    m.def(("cuda_" + op + "_workspace").c_str(), workspace);
    m.def(("cuda_" + op).c_str(), [op, launch](FromPython<Args>... args) {
        const int code = launch(to_native<Args>(args)...);
        if (code) throw std::runtime_error(op + ": launch failed: " + pcl_cuda_error(code));
    });
}

}  // namespace
#endif

void register_cuda(nanobind::module_& m) {
#ifdef PCL_WITH_CUDA
    define(m, "simplex_qp", &pcl_cuda_simplex_qp_workspace, &pcl_cuda_simplex_qp);
    define(m, "cone_qp", &pcl_cuda_cone_qp_workspace, &pcl_cuda_cone_qp);
    define(m, "cagrad_dual", &pcl_cuda_cagrad_dual_workspace, &pcl_cuda_cagrad_dual);
    define(m, "maxdo", &pcl_cuda_maxdo_workspace, &pcl_cuda_maxdo);
    define(m, "nash_mtl", &pcl_cuda_nash_mtl_workspace, &pcl_cuda_nash_mtl);
    define(m, "imtl_g", &pcl_cuda_imtl_g_workspace, &pcl_cuda_imtl_g);
    define(m, "pcgrad", &pcl_cuda_pcgrad_workspace, &pcl_cuda_pcgrad);
    define(m, "elastic_factors", &pcl_cuda_elastic_factors_workspace, &pcl_cuda_elastic_factors);
    define(m, "semidefinite_solve", &pcl_cuda_semidefinite_solve_workspace, &pcl_cuda_semidefinite_solve);
#else
    (void)m;
#endif
}

}  // namespace pcl
