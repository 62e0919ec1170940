// The launchers of csrc/cuda/ in Python, where they were built. They return at once; the device works behind.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef PCL_WITH_CUDA
extern "C" const char* pcl_cuda_error(int code);
extern "C" long pcl_cuda_simplex_qp_workspace(long batch, int k);
extern "C" int pcl_cuda_simplex_qp(const void* gram, int is_float, const double* sigma, long sigma_stride,
                                   double* lambda, double* gap, bool* active, int* pivots, int* status, long batch,
                                   int k, void* workspace, void* stream);
#endif

namespace pcl {

void register_cuda(pybind11::module_& m) {
#ifdef PCL_WITH_CUDA
    using Address = std::uintptr_t;
    m.def("cuda_simplex_qp_workspace", &pcl_cuda_simplex_qp_workspace);
    m.def(
        "cuda_simplex_qp",
        [](Address gram, bool is_float, Address sigma, long sigma_stride, Address out, Address gap, Address active,
           Address pivots, Address status, long batch, int k, Address workspace, Address stream) {
            const int code = pcl_cuda_simplex_qp(
                reinterpret_cast<const void*>(gram), is_float, reinterpret_cast<const double*>(sigma), sigma_stride,
                reinterpret_cast<double*>(out), reinterpret_cast<double*>(gap), reinterpret_cast<bool*>(active),
                reinterpret_cast<int*>(pivots), reinterpret_cast<int*>(status), batch, k,
                reinterpret_cast<void*>(workspace), reinterpret_cast<void*>(stream));
            if (code) throw std::runtime_error(std::string("simplex_qp: launch failed: ") + pcl_cuda_error(code));
        });
#else
    (void)m;
#endif
}

}  // namespace pcl
