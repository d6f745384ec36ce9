#include <limen/attention/row_attention.hpp>

#include <cmath>
#include <vector>

#include "gman_model.hpp"

using namespace limen;
using steps::noise;

namespace {

constexpr RowAttentionConfig over_nodes{
    .d_in = 3, .heads = 2, .d_head = 2, .nodes = 4, .over = Over::nodes};
constexpr RowAttentionConfig over_time{
    .d_in = 5, .heads = 3, .d_head = 3, .nodes = 3, .causal = true};

constexpr RowAttentionConfig one(Over over, bool causal = false) {
  return {.d_in = 1, .heads = 1, .d_head = 1, .nodes = 2, .over = over, .causal = causal};
}
constexpr RowAttentionConfig one_over_nodes = one(Over::nodes), one_over_time = one(Over::time),
                             one_causal = one(Over::time, true);

/// y of x [2 steps of 2 nodes], with q = relu(a x), k = v = relu(x), and W_1 = W_2 = 1.
template <RowAttentionConfig C>
void gives(double a, const Sequence<double, 1>& x, std::vector<double> expected) {
  RowAttention<C, double> layer;
  layer.qkv[0] = a;
  layer.qkv[1] = layer.qkv[2] = 1;
  get<0>(layer.output.layers).weight[0] = get<2>(layer.output.layers).weight[0] = 1;
  const auto y = forward(layer, x);
  for (Index t = 0; t < 4; ++t) {
    INFO("row " << t);
    REQUIRE(y(t, 0) == Approx(expected[static_cast<std::size_t>(t)]).epsilon(1e-6).margin(1e-12));
  }
}

}  // namespace

TEST_CASE("RowAttention keeps the laws of layers", "[attention][gman][laws]") {
  static_assert(check::names_every_member<RowAttention<over_nodes>>);
  steps::keeps_the_laws<steps::InSteps<RowAttention<over_nodes>, 4>>();
  steps::keeps_the_laws<steps::InSteps<RowAttention<over_time>, 3>>();
}

TEST_CASE("RowAttention of two steps and two nodes, by hand", "[attention][gman]") {
  // Nobody asks (q = 0): means of relu(x), over the step, over the node, over its past.
  const Sequence<double, 1> x{{1}, {3}, {5}, {-7}};
  gives<one_over_nodes>(0, x, {2, 2, 2.5, 2.5});
  gives<one_over_time>(0, x, {3, 1.5, 3, 1.5});
  gives<one_causal>(0, x, {1, 3, 3, 1.5});
  // q = relu(x): node 0 asks with 5 at step 1, p of its own value = 1 / (1 + e^-20); node 1 with 0.
  // At step 0: 1 against 1 and 5, p = 1 / (1 + e^-4) = 0.982014; 3 against 3 and 0: 0.999877.
  gives<one_over_time>(1, x, {4.928055, 2.999630, 5, 1.5});
}

TEST_CASE("A row listens to its group alone", "[attention][gman]") {
  // The row that changes, in [T][N]; who may notice is said by `same_group`.
  const auto check = [](auto layer, Index nodes, auto same_group) {
    using L = decltype(layer);
    Random random(2);
    layer = L::initialized(random);
    const Index offsets[] = {0, 3 * nodes, 3 * nodes, 5 * nodes}, changed = nodes + 1;
    auto x = noise<L::in>(5 * nodes, random);
    const auto before = layer.forward(x, from_rest(offsets));
    for (Index i = 0; i < L::in; ++i) x(changed, i) = 9 - x(changed, i);
    const auto after = layer.forward(x, from_rest(offsets));
    Index moved = 0;
    for (Index t = 0; t < x.rows(); ++t) {
      bool same = true;
      for (Index i = 0; i < L::out; ++i) same = same && before(t, i) == after(t, i);
      INFO("row " << t);
      if (!same_group(t, changed)) REQUIRE(same);
      moved += same ? 0 : 1;
    }
    REQUIRE(moved > 0);
  };
  check(RowAttention<over_nodes, double>(), 4,
        [](Index t, Index changed) { return t / 4 == changed / 4; });
  check(RowAttention<over_time, double>(), 3, [](Index t, Index changed) {
    return t < 9 && t % 3 == changed % 3 && t >= changed;  // of the first sequence, not before it
  });
}

TEST_CASE("Groups are the nodes of a step, or the steps of a node", "[attention][gman]") {
  const Index offsets[] = {0, 4, 4, 10};  // 2, 0 and 3 steps of 2 nodes
  const auto same = [](const Buffer<detail::RowGroup>& groups,
                       const std::vector<detail::RowGroup>& expected) {
    REQUIRE(groups.size() == static_cast<Index>(expected.size()));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto &a = groups[static_cast<Index>(i)], &b = expected[i];
      INFO("group " << i);
      REQUIRE((a.query == b.query && a.queries == b.queries && a.apart == b.apart));
      REQUIRE((a.key == b.key && a.keys == b.keys));
    }
  };
  same(detail::groups_of(Over::nodes, 2, from_rest(offsets), 10),
       {{0, 2, 0, 2, 1}, {2, 2, 2, 2, 1}, {4, 2, 4, 2, 1}, {6, 2, 6, 2, 1}, {8, 2, 8, 2, 1}});
  same(detail::groups_of(Over::time, 2, from_rest(offsets), 10),
       {{0, 2, 0, 2, 2}, {1, 2, 1, 2, 2}, {4, 3, 4, 3, 2}, {5, 3, 5, 3, 2}});
  same(detail::groups_of(Over::time, 2, {}, 0), {});
}

TEST_CASE("RowAttention refuses a sequence that ends amid a step", "[attention][gman]") {
  using L = RowAttention<over_nodes, double>;
  Random random(5);
  const auto layer = L::initialized(random);
  REQUIRE_THROWS_WITH(forward(layer, noise<3>(6, random)),
                      has_part("rows of sequence 0: wanted time steps of 4 nodes, found 6"));
  // Rows that would be whole steps together, in training, with a cache of before.
  const auto x = noise<3>(8, random);
  const auto dy = noise<4>(8, random);
  L::Cache cache;
  L first, second;
  forward(layer, Sequence(x), cache);
  const auto dx = backward(layer, dy, cache, first);
  const Index offsets[] = {0, 4, 10, 12};
  REQUIRE_THROWS_WITH(layer.forward(noise<3>(12, random), from_rest(offsets), cache),
                      has_part("rows of sequence 1: wanted time steps of 4 nodes, found 6"));
  const auto again = backward(layer, dy, cache, second);
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(dx.data()[i] == again.data()[i]);
}

static_assert(Trainable<RowAttention<over_time>> && !Streaming<RowAttention<over_time>>);
static_assert(Runs<RowAttention<over_nodes, Prepared<float>>> &&
              !Trainable<RowAttention<over_nodes, Prepared<float>>>);
