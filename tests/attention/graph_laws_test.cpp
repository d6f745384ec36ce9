#include <limen/attention/graph_attention.hpp>
#include <limen/attention/graph_attention_v2.hpp>

#include "../laws.hpp"
#include "graph_model.hpp"

using namespace limen;
using graphs::Kind;
using graphs::OnGraph;

namespace {

constexpr GraphAttentionConfig least{.d_in = 1, .d_head = 1};
constexpr GraphAttentionConfig heads{.d_in = 3, .d_head = 17, .heads = 3};
constexpr GraphAttentionConfig features{
    .d_in = 2, .d_head = 3, .heads = 4, .d_edge = 2, .slope = 0.5, .bias = false};
constexpr GraphAttentionConfig types{.d_in = 2, .d_head = 5, .heads = 3, .relations = 4};
constexpr GraphAttentionConfig both{
    .d_in = 2, .d_head = 8, .heads = 2, .concat = false, .d_edge = 3, .relations = 3};

constexpr Kind plain{};
constexpr Kind with_features{.d_edge = 2, .loops = true};
constexpr Kind with_types{.types = 3, .loops = true};
constexpr Kind with_all{.d_edge = 3, .types = 3, .keep = true, .gate = true};

/// The layer is not causal; making a graph asks for memory, running it does not.
template <template <GraphAttentionConfig, class> class L, GraphAttentionConfig C, Kind K>
void keeps_the_laws() {
  static_assert(check::names_every_member<L<C, float>>);
  const auto hold = [](auto scalar) {
    check::Options options{.causal = false};
    if (sizeof(scalar) == 4) options.slope = 0.25;  // steps of 1e-2 cross the kink of LeakyReLU
    Random random(3);
    const auto model = OnGraph<L<C, decltype(scalar)>, K>::initialized(random);
    const auto report = check::laws(model, options);
    INFO(report.text());
    REQUIRE(report.ok());
    REQUIRE(report.checks > 0);
  };
  hold(double());
  hold(float());
}

}  // namespace

TEST_CASE("GraphAttention keeps the laws of layers", "[attention][graph][laws]") {
  keeps_the_laws<GraphAttention, least, plain>();
  keeps_the_laws<GraphAttention, features, with_features>();
  keeps_the_laws<GraphAttention, types, with_types>();
  keeps_the_laws<GraphAttention, both, with_all>();
}

TEST_CASE("GraphAttentionV2 keeps the laws of layers", "[attention][graph][laws]") {
  keeps_the_laws<GraphAttentionV2, least, plain>();
  keeps_the_laws<GraphAttentionV2, heads, plain>();
  keeps_the_laws<GraphAttentionV2, features, with_features>();
  keeps_the_laws<GraphAttentionV2, types, with_types>();
  keeps_the_laws<GraphAttentionV2, both, with_all>();
}
