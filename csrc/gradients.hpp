// The gradients of k tasks as the kernels see them: for every parameter k addresses, never one k x m matrix.
//
// Columns of all parameters are counted through, 0 .. columns, as if the parameters lay side by side. A kernel
// asks for a range of columns and gets it piece by piece, each piece inside one parameter. So its results do not
// depend on how the columns are cut into parameters.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace pcl {

enum Dtype : int { f32 = 0, f64 = 1, f16 = 2, bf16 = 3 };

inline constexpr int dtype_bytes[] = {4, 8, 2, 2};

struct Gradients {
    int tasks;
    std::vector<std::uintptr_t> address;  // [parameter][task]; 0 is a gradient of zeros
    std::vector<std::int64_t> start;      // first column of each parameter, then the number of columns
    std::vector<int> dtype;               // [parameter]

    Gradients(int tasks_, std::vector<std::uintptr_t> address_, const std::vector<std::int64_t>& size,
              std::vector<int> dtype_)
        : tasks(tasks_), address(std::move(address_)), start(1, 0), dtype(std::move(dtype_)) {
        start.reserve(size.size() + 1);
        for (std::int64_t n : size) start.push_back(start.back() + n);
    }

    std::int64_t columns() const { return start.back(); }
};

// Part of one parameter: `size` elements from element `offset` on, at distance `at` from the asked range's start.
struct Piece {
    std::int64_t parameter = 0, offset = 0, at = 0, size = 0;
};

// Walks over the pieces of the column range [lo, hi).
class Pieces {
public:
    Pieces(const Gradients& g, std::int64_t lo, std::int64_t hi) : g_(g), lo_(lo), hi_(hi), column_(lo) {
        parameter_ = std::upper_bound(g.start.begin(), g.start.end(), lo) - g.start.begin() - 1;
    }

    bool next(Piece& piece) {
        if (column_ >= hi_) return false;
        while (g_.start[parameter_ + 1] <= column_) ++parameter_;  // steps over empty parameters
        const std::int64_t end = std::min(hi_, g_.start[parameter_ + 1]);
        piece = {parameter_, column_ - g_.start[parameter_], column_ - lo_, end - column_};
        column_ = end;
        return true;
    }

private:
    const Gradients& g_;
    std::int64_t lo_, hi_, column_, parameter_;
};

}  // namespace pcl
