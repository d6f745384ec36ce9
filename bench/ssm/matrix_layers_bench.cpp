// Mamba-2, retention, gated linear attention and the two DeltaNets, each as a layer is used.

#include <limen/ssm/delta_net.hpp>
#include <limen/ssm/gated_delta_net.hpp>
#include <limen/ssm/gated_linear_attention.hpp>
#include <limen/ssm/mamba2.hpp>
#include <limen/ssm/retnet.hpp>

#include "layer.hpp"

namespace {

using namespace limen;

template <Index D>
using Mamba2Of = Mamba2<Mamba2Config{.d_model = D}>;
template <Index D>
using RetNetOf = RetNet<RetNetConfig{.d_model = D, .n_heads = D / 128}>;
template <Index D>
using GatedOf = GatedLinearAttention<GatedLinearAttentionConfig{.d_model = D}>;
template <Index D>
using DeltaOf = DeltaNet<DeltaNetConfig{.d_model = D, .n_heads = D / 128}>;
template <Index D>
using GatedDeltaOf = GatedDeltaNet<GatedDeltaNetConfig{
    .d_model = D, .n_key_heads = D / 128, .n_value_heads = D / 64}>;

[[maybe_unused]] const bool registered = [] {
  layer_bench::add<Mamba2Of<768>, Mamba2Of<256>>("mamba2");
  layer_bench::add<RetNetOf<768>, RetNetOf<256>>("retnet");
  layer_bench::add<GatedOf<768>, GatedOf<256>>("gla");
  layer_bench::add<DeltaOf<768>, DeltaOf<256>>("delta");
  layer_bench::add<GatedDeltaOf<768>, GatedDeltaOf<256>>("gated_delta");
  return true;
}();

}  // namespace
