// Which candidates of a growing network to take (pcl_kernels/firefly_select/op.py): one sort and one walk.
#include "firefly_select.hpp"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "isa.hpp"

namespace pcl::PCL_ISA {

void firefly_select(const Candidates& all, bool* chosen) {
    std::vector<std::int64_t> order;
    for (std::int64_t i = 0; i < all.count; ++i) {
        chosen[i] = false;
        if (all.gain[i] > 0) order.push_back(i);  // NaN is not
    }
    std::sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
        return all.gain[i] > all.gain[j] || (all.gain[i] == all.gain[j] && i < j);
    });
    std::unordered_map<std::int64_t, std::int64_t> members;  // of the new layers that may be used
    std::int64_t taken = 0, left = all.budget;
    for (std::int64_t i : order) {
        std::int64_t* of_layer = nullptr;
        if (all.layer && all.layer[i] >= 0) {
            const auto known = members.find(all.layer[i]);
            if (known != members.end())
                of_layer = &known->second;
            else if (std::int64_t(members.size()) < all.layers)
                of_layer = &members[all.layer[i]];
            else
                continue;
        }
        const std::int64_t cost = all.cost ? all.cost[i] : 0;
        if (taken == all.neurons || cost < 0 || cost > left) break;
        left -= cost;
        ++taken;
        if (of_layer) ++*of_layer;
        chosen[i] = true;
    }
    for (std::int64_t i : order)
        if (chosen[i] && all.layer && all.layer[i] >= 0) chosen[i] = members[all.layer[i]] >= all.least;
}

}  // namespace pcl::PCL_ISA

#ifdef PCL_BASELINE
#include <nanobind/nanobind.h>

PCL_EVERY_ISA(void firefly_select(const Candidates& all, bool* chosen);)

namespace pcl {

void register_firefly_select(nanobind::module_& m) {
    using Address = std::uintptr_t;
    m.def("firefly_select", [](Address gain, Address cost, Address layer, std::int64_t count, std::int64_t neurons,
                               std::int64_t layers, std::int64_t budget, std::int64_t least, Address chosen) {
        nanobind::gil_scoped_release release;
        PCL_BEST(firefly_select)({reinterpret_cast<const double*>(gain), reinterpret_cast<const std::int64_t*>(cost),
                                  reinterpret_cast<const std::int64_t*>(layer), count, neurons, layers, budget, least},
                                 reinterpret_cast<bool*>(chosen));
    });
}

}  // namespace pcl
#endif
