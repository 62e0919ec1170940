// What the build facts ask of the CUDA runtime. It is linked statically, so that the module loads where
// there is no CUDA at all; then the answer is 0.
#include <cuda_runtime_api.h>

extern "C" int pcl_cuda_device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();  // leave no error behind for the next caller to trip over
        return 0;
    }
    return count;
}

extern "C" const char* pcl_cuda_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
