// S4D, S5, Griffin, gated associative memory and the multi-path block, each as a layer is used.

#include <limen/ssm/gated_associative_memory.hpp>
#include <limen/ssm/griffin.hpp>
#include <limen/ssm/mamba.hpp>
#include <limen/ssm/multi_path.hpp>
#include <limen/ssm/s4d.hpp>
#include <limen/ssm/s5.hpp>

#include "layer.hpp"

namespace {

using namespace limen;

template <Index D>
using S4dOf = S4d<S4dConfig{.d = D}>;
template <Index D>
using S5Of = S5<S5Config{.d = D, .d_state = 128}>;
template <Index D>
using GriffinOf = Griffin<GriffinConfig{.d_model = D, .heads = 8}>;
template <Index D>
using MemoryOf = GatedAssociativeMemory<GatedAssociativeMemoryConfig{.d_model = D, .slots = 512}>;
template <Index D>
using PathsOf = MultiPath<MultiPathConfig{}, Mamba<MambaConfig{.d_model = D}>>;

[[maybe_unused]] const bool registered = [] {
  layer_bench::add<S4dOf<768>, S4dOf<256>>("s4d");
  layer_bench::add<S5Of<768>, S5Of<256>>("s5");
  layer_bench::add<GriffinOf<768>, GriffinOf<256>>("griffin");
  layer_bench::add<MemoryOf<768>, MemoryOf<256>>("gam");
  layer_bench::add<PathsOf<768>, PathsOf<256>>("multi_path");
  return true;
}();

}  // namespace
