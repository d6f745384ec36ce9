#include <limen/attention/gman_parts.hpp>

#include <string>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

std::vector<Index> numbers(const Buffer<Index>& x) { return {x.begin(), x.end()}; }

}  // namespace

TEST_CASE("The last steps of each sequence are its future, all before its past",
          "[attention][gman]") {
  const Index offsets[] = {0, 3, 4, 4, 9};  // steps of 2 nodes; 2 steps are foretold
  const detail::GmanPlan plan(2, 2, from_rest(offsets), 9);
  REQUIRE(numbers(plan.past) == std::vector<Index>{0, 2, 2, 2, 8});
  REQUIRE(numbers(plan.future) == std::vector<Index>{0, 4, 6, 6, 10});
  REQUIRE(numbers(plan.past_row) == std::vector<Index>{0, 4, 5, 6});
  REQUIRE(numbers(plan.future_row) == std::vector<Index>{1, 2, 3, 7, 8});
  // {query, queries, key, keys, apart}: a sequence of one step listens to none, an empty one has no
  // groups.
  const detail::RowGroup expected[] = {{0, 2, 0, 1, 2}, {1, 2, 1, 1, 2}, {4, 1, 2, 0, 2},
                                       {5, 1, 3, 0, 2}, {6, 2, 2, 3, 2}, {7, 2, 3, 3, 2}};
  REQUIRE(plan.nodes().size() == 6);
  for (std::size_t i = 0; i < 6; ++i) {
    INFO("group " << i);
    const auto &a = plan.nodes()[i], &b = expected[i];
    REQUIRE((a.query == b.query && a.queries == b.queries && a.apart == b.apart));
    REQUIRE((a.key == b.key && a.keys == b.keys));
  }
}

TEST_CASE("A plan of no rows has neither past nor future", "[attention][gman]") {
  const detail::GmanPlan plan(3, 2, {}, 0);
  REQUIRE(numbers(plan.past) == std::vector<Index>{0, 0});
  REQUIRE(numbers(plan.future) == std::vector<Index>{0, 0});
  REQUIRE((plan.past_row.size() == 0 && plan.future_row.size() == 0));
  REQUIRE(plan.nodes().empty());
}

TEST_CASE("Values of steps are walked step by step, node by node", "[attention][gman]") {
  Buffer<Index> steps(2);
  steps[0] = 4;
  steps[1] = 7;
  std::vector<std::vector<Index>> seen;
  detail::each_value(steps, 3, [&](Index i, Index t, Index n) { seen.push_back({i, t, n}); });
  REQUIRE(seen == std::vector<std::vector<Index>>{
                      {0, 4, 0}, {1, 4, 1}, {2, 4, 2}, {3, 7, 0}, {4, 7, 1}, {5, 7, 2}});
}

TEST_CASE("Blocks of a stack are named by their positions", "[attention][gman]") {
  using Part = Linear<LinearConfig{.d_in = 2, .d_out = 1}, double>;
  detail::BlockStack<Part, 2> stack;
  stack.at[1].weight[0] = 3;
  std::vector<std::string> names;
  double sum = 0;
  for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        names.push_back(name);
        for (const double x : tensor.flat()) sum += x;
      },
      stack);
  REQUIRE(names == std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias"});
  REQUIRE(sum == 3);
}

TEST_CASE("A part that looks at each row by itself is not told of sequences", "[attention][gman]") {
  constexpr GmanConfig c{.nodes = 1, .heads = 1, .d_head = 2, .horizon = 1, .slots = 1};
  const Index offsets[] = {0, 1, 4};
  const auto rows = from_rest(offsets);
  REQUIRE(detail::rows_for<GmanBlock<c>>(rows).count() == 2);
  using Two = detail::TwoLinear<2, 2, 2, float>;
  static_assert(std::is_same_v<decltype(detail::rows_for<Two>(rows)), Batch<Two::State>>);
  REQUIRE(detail::rows_for<Two>(rows).count() == 1);
}
