// A tensor whose rows and columns are chosen anew: out[r, c, :] = row_scale[r] column_scale[c] src(rows[r], columns[c], :)
// of the blocks src = [[old, right], [below, corner]].
#pragma once

#include <cstdint>

namespace pcl {

struct Regrown {
    const char *old, *below, *right;  // [height, width, inner], [more, width, inner], [tall, wide, inner]; contiguous
    char* out;                        // [out_rows, out_columns, inner]
    const std::int64_t *rows, *columns;        // indices; -1 is zeros, null all of `old` as they are
    const double *row_scale, *column_scale;    // or null
    std::int64_t height, width, inner, more, tall, wide, out_rows, out_columns;
    int dtype;  // of gradients.hpp; looked at only where a scale is not 1
    std::int64_t bytes;  // of an element
};

}  // namespace pcl
