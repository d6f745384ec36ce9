#include <limen/attention/graph_attention.hpp>
#include <limen/attention/graph_attention_v2.hpp>
#include <limen/attention/graph_block.hpp>

#include <span>
#include <vector>

#include "../goldens/golden.hpp"
#include "../goldens/graph_attention.hpp"
#include "../goldens/graph_block.hpp"

using namespace limen;

namespace {

constexpr GraphAttentionConfig least{.d_in = 1, .d_head = 1};
constexpr GraphAttentionConfig heads{.d_in = 5, .d_head = 6, .heads = 3, .slope = 0.4};
constexpr GraphAttentionConfig mean{
    .d_in = 3, .d_head = 17, .heads = 2, .concat = false, .bias = false};
constexpr GraphAttentionConfig edges{.d_in = 4, .d_head = 4, .heads = 4, .d_edge = 3};
constexpr GraphAttentionConfig bare{.d_in = 2, .d_head = 3, .heads = 2, .d_edge = 2};

struct Edges {
  std::span<const int> from, to;
  bool loops = false;
  golden::Numbers features = {}, d_features = {};
};

/// A layer that finds its graph itself, as golden::check knows of none.
template <class L>
struct Placed : L {
  static inline const GraphRun* run = nullptr;
  template <class T>
  using with_scalar = Placed<typename L::template with_scalar<T>>;
  using Real = typename L::Scalar;
  using State = NoState;

  static Batch<NoState> here(Batch<NoState> batch, Context& context) {
    context.graph = run;
    batch.context = &context;
    return batch;
  }
  Sequence<Real, L::out> forward(Sequence<Real, L::in> x, Batch<NoState> batch,
                                 typename L::Cache& cache) const {
    Context context;
    return L::forward(std::move(x), here(batch, context), cache);
  }
  Sequence<Real, L::out> forward(SequenceView<Real, L::in> x, Batch<NoState> batch) const {
    Context context;
    return L::forward(x, here(batch, context));
  }
  Sequence<Real, L::in> backward(SequenceView<Real, L::out> dy, Batch<NoState> batch,
                                 const typename L::Cache& cache, Placed& gradient) const {
    Context context;
    return L::backward(dy, here(batch, context), cache, gradient);
  }
};

template <class L, class Real>
void check_as(const Edges& e, const golden::Run& run,
              std::initializer_list<golden::Parameter> parameters, double tolerance) {
  std::vector<Edge> list;
  for (std::size_t i = 0; i < e.from.size(); ++i) list.push_back({e.from[i], e.to[i]});
  const auto count = static_cast<Index>(list.size());
  const Index nodes = static_cast<Index>(run.x.size()) / L::in;
  const Graph graph = Graph::make(nodes, list, {.self_loops = e.loops}).value();
  std::vector<Real> f(e.features.begin(), e.features.end()), df(f.size());
  EdgeValues<Real> values;
  constexpr Index width = L::config.d_edge;
  values.features = {f.data(), count, width, width};
  if (width > 0) values.d_features = {df.data(), count, width, width};
  GraphRun here{.graph = &graph};
  if constexpr (sizeof(Real) == 4) {
    here.floats = values;
  } else {
    here.doubles = values;
  }
  using M = Placed<typename L::template with_scalar<Real>>;
  M::run = &here;
  golden::check<M>(run, parameters, tolerance);
  golden::same("features", df, e.d_features, tolerance);
}

template <class L>
void agrees(const Edges& e, const golden::Run& run,
            std::initializer_list<golden::Parameter> parameters) {
  check_as<L, double>(e, run, parameters, 1e-10);
  check_as<L, float>(e, run, parameters, 2e-5);
}

}  // namespace

TEST_CASE("GraphAttention is GATConv of PyTorch Geometric", "[attention][graph][golden]") {
  {
    using namespace goldens::graph::gat_least;
    agrees<GraphAttention<::least>>(
        {from, to, false}, {x, y, dy, dx},
        {{lin_weight, d_lin_weight}, {att_src, d_att_src}, {att_dst, d_att_dst}, {bias, d_bias}});
  }
  {
    using namespace goldens::graph::gat_heads;
    agrees<GraphAttention<::heads>>(
        {from, to, true}, {x, y, dy, dx},
        {{lin_weight, d_lin_weight}, {att_src, d_att_src}, {att_dst, d_att_dst}, {bias, d_bias}});
  }
  {
    using namespace goldens::graph::gat_mean;
    agrees<GraphAttention<::mean>>(
        {from, to, true}, {x, y, dy, dx},
        {{lin_weight, d_lin_weight}, {att_src, d_att_src}, {att_dst, d_att_dst}});
  }
  {
    using namespace goldens::graph::gat_edges;
    agrees<GraphAttention<::edges>>({from, to, true, features, d_features}, {x, y, dy, dx},
                                    {{lin_weight, d_lin_weight},
                                     {att_src, d_att_src},
                                     {att_dst, d_att_dst},
                                     {att_edge, d_att_edge},
                                     {lin_edge_weight, d_lin_edge_weight},
                                     {bias, d_bias}});
  }
  {
    using namespace goldens::graph::gat_bare;
    agrees<GraphAttention<::bare>>({from, to, false, features, d_features}, {x, y, dy, dx},
                                   {{lin_weight, d_lin_weight},
                                    {att_src, d_att_src},
                                    {att_dst, d_att_dst},
                                    {att_edge, d_att_edge},
                                    {lin_edge_weight, d_lin_edge_weight},
                                    {bias, d_bias}});
  }
}

TEST_CASE("GraphAttentionV2 is GATv2Conv of PyTorch Geometric", "[attention][graph][golden]") {
  {
    using namespace goldens::graph::gatv2_least;
    agrees<GraphAttentionV2<::least>>({from, to, false}, {x, y, dy, dx},
                                      {{lin_l_weight, d_lin_l_weight},
                                       {lin_l_bias, d_lin_l_bias},
                                       {lin_r_weight, d_lin_r_weight},
                                       {lin_r_bias, d_lin_r_bias},
                                       {att, d_att},
                                       {bias, d_bias}});
  }
  {
    using namespace goldens::graph::gatv2_heads;
    agrees<GraphAttentionV2<::heads>>({from, to, true}, {x, y, dy, dx},
                                      {{lin_l_weight, d_lin_l_weight},
                                       {lin_l_bias, d_lin_l_bias},
                                       {lin_r_weight, d_lin_r_weight},
                                       {lin_r_bias, d_lin_r_bias},
                                       {att, d_att},
                                       {bias, d_bias}});
  }
  {
    using namespace goldens::graph::gatv2_mean;
    agrees<GraphAttentionV2<::mean>>(
        {from, to, true}, {x, y, dy, dx},
        {{lin_l_weight, d_lin_l_weight}, {lin_r_weight, d_lin_r_weight}, {att, d_att}});
  }
  {
    using namespace goldens::graph::gatv2_edges;
    agrees<GraphAttentionV2<::edges>>({from, to, true, features, d_features}, {x, y, dy, dx},
                                      {{lin_l_weight, d_lin_l_weight},
                                       {lin_l_bias, d_lin_l_bias},
                                       {lin_r_weight, d_lin_r_weight},
                                       {lin_r_bias, d_lin_r_bias},
                                       {att, d_att},
                                       {lin_edge_weight, d_lin_edge_weight},
                                       {bias, d_bias}});
  }
  {
    using namespace goldens::graph::gatv2_bare;
    agrees<GraphAttentionV2<::bare>>({from, to, false, features, d_features}, {x, y, dy, dx},
                                     {{lin_l_weight, d_lin_l_weight},
                                      {lin_l_bias, d_lin_l_bias},
                                      {lin_r_weight, d_lin_r_weight},
                                      {lin_r_bias, d_lin_r_bias},
                                      {att, d_att},
                                      {lin_edge_weight, d_lin_edge_weight},
                                      {bias, d_bias}});
  }
}

TEST_CASE("GraphBlock is what its equations give in PyTorch", "[attention][graph][golden]") {
  {
    namespace g = goldens::graph::block_bare;
    agrees<GraphBlock<GraphBlockConfig{.d_model = 4, .heads = 2, .widening = 1}>>(
        {g::from, g::to}, {g::x, g::y, g::dy, g::dx},
        {{g::norm_weight, g::d_norm_weight},
         {g::norm_bias, g::d_norm_bias},
         {g::q_weight, g::d_q_weight},
         {g::q_bias, g::d_q_bias},
         {g::k_weight, g::d_k_weight},
         {g::k_bias, g::d_k_bias},
         {g::v_weight, g::d_v_weight},
         {g::v_bias, g::d_v_bias},
         {g::ffn_norm_weight, g::d_ffn_norm_weight},
         {g::ffn_norm_bias, g::d_ffn_norm_bias},
         {g::ffn_in_weight, g::d_ffn_in_weight},
         {g::ffn_in_bias, g::d_ffn_in_bias},
         {g::ffn_out_weight, g::d_ffn_out_weight},
         {g::ffn_out_bias, g::d_ffn_out_bias}});
  }
  {
    namespace g = goldens::graph::block_edges;
    agrees<GraphBlock<GraphBlockConfig{.d_model = 6, .heads = 3, .d_edge = 3, .widening = 2}>>(
        {g::from, g::to, false, g::features, g::d_features}, {g::x, g::y, g::dy, g::dx},
        {{g::norm_weight, g::d_norm_weight},
         {g::norm_bias, g::d_norm_bias},
         {g::edge_norm_weight, g::d_edge_norm_weight},
         {g::edge_norm_bias, g::d_edge_norm_bias},
         {g::q_weight, g::d_q_weight},
         {g::q_bias, g::d_q_bias},
         {g::k_weight, g::d_k_weight},
         {g::k_bias, g::d_k_bias},
         {g::v_weight, g::d_v_weight},
         {g::v_bias, g::d_v_bias},
         {g::edge_k_weight, g::d_edge_k_weight},
         {g::edge_k_bias, g::d_edge_k_bias},
         {g::edge_v_weight, g::d_edge_v_weight},
         {g::edge_v_bias, g::d_edge_v_bias},
         {g::ffn_norm_weight, g::d_ffn_norm_weight},
         {g::ffn_norm_bias, g::d_ffn_norm_bias},
         {g::ffn_in_weight, g::d_ffn_in_weight},
         {g::ffn_in_bias, g::d_ffn_in_bias},
         {g::ffn_out_weight, g::d_ffn_out_weight},
         {g::ffn_out_bias, g::d_ffn_out_bias}});
  }
}
