// PCL_BOTH marks functions that run on the processor and on the GPU.
#pragma once

#ifdef __CUDACC__
#define PCL_BOTH __host__ __device__ inline
#else
#define PCL_BOTH inline
#endif
