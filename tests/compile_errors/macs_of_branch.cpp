// How much work a branch is depends on where the rows go.
// expect: macs: the work of this layer depends on its data; measure it instead
#include <limen/compose/sequential.hpp>
#include <limen/compose/switch.hpp>
#include <limen/core/macs.hpp>
#include <limen/nn/linear.hpp>

using Map = limen::Linear<limen::LinearConfig{.d_in = 4, .d_out = 4}>;

static_assert(limen::macs<limen::Sequential<Map, limen::Switch<Map, Map>>>(1) > 0);
