// Rows of elements of any dtype, as the ghost Gramian reads them.
#pragma once

#include <cstdint>

namespace pcl {

using Size = std::int64_t;

struct RowsOf {
    const void* at;
    int dtype;           // see gradients.hpp
    Size columns, step;  // elements of a row, and from one row to the next
};

}  // namespace pcl
