#include <limen/attention/gman.hpp>

#include <cmath>

#include "gman_model.hpp"

using namespace limen;

namespace {

constexpr GmanConfig deep{
    .nodes = 3, .heads = 2, .d_head = 2, .blocks = 2, .horizon = 2, .slots = 7, .causal = true};
using M = Gman<deep, double>;
using Places = detail::GmanEmbedding<M>;
constexpr Index N = M::N, D = M::D;

}  // namespace

TEST_CASE("Where and when are added for every step and node that is asked for",
          "[attention][gman]") {
  Random random(2);
  auto model = M::initialized(random);
  fill_normal(model.times_bias, 1, random);
  fill_normal(model.times_out.bias, 1, random);
  const Index offsets[] = {0, 4, 5};
  const auto x = steps::readings<M>(5, random);
  const detail::GmanPlan plan(N, 2, from_rest(offsets), 5);
  Places::Cache cache;
  REQUIRE(Places{model}.read_times(x, cache));
  Sequence<double, D> past, future;
  const auto through = [](const auto& layer, auto h, Batch<NoState>, auto&) {
    using L = std::remove_cvref_t<decltype(layer)>;
    return layer.forward(SequenceView<double, L::in>(h), {});
  };
  Places{model}.run(plan, cache, through, past, future);

  // FC of ones and zeros, for day and slot, written out.
  Sequence<double, D> at(N);
  for (Index i = 0; i < at.size(); ++i) at.data()[i] = model.nodes[i];
  const auto where = forward(model.node_fc, at);
  const auto e = [&](Index t, Index n, Index c) {
    double when = model.times_out.bias[c];
    for (Index h = 0; h < D; ++h) {
      double sum = model.times_bias[h];
      for (Index k = 0; k < M::Days; ++k)
        sum += (static_cast<Index>(x(t, N)) == k) * model.times(k, h);
      for (Index k = 0; k < 7; ++k)
        sum += (static_cast<Index>(x(t, N + 1)) == k) * model.times(M::Days + k, h);
      when += model.times_out.weight(c, h) * std::max(sum, 0.0);
    }
    return where(n, c) + when;
  };
  const auto check = [&](const Sequence<double, D>& found, std::initializer_list<Index> of) {
    REQUIRE(found.rows() == static_cast<Index>(of.size()) * N);
    for (Index i = 0; i < found.rows(); ++i) {
      for (Index c = 0; c < D; ++c) {
        REQUIRE(std::abs(found(i, c) - e(of.begin()[i / N], i % N, c)) < 1e-12);
      }
    }
  };
  check(past, {0, 1});
  check(future, {2, 3, 4});
}

TEST_CASE("Times that are none are errors", "[attention][gman]") {
  Random random(5);
  const M model = M::initialized(random);
  auto x = steps::readings<M>(6, random);
  M::Cache cache;
  M first, second;
  const auto dy = steps::noise<M::out>(6, random);
  forward(model, Sequence(x), cache);
  const auto dx = backward(model, dy, cache, first);
  const auto says = [&](const std::string& what) {
    REQUIRE_THROWS_WITH(forward(model, x), has_part(what));
    auto more = Sequence<double, M::in>::zeros(8);
    copy_rows(x.matrix(), more.matrix().middle_rows(0, 6));
    REQUIRE_THROWS_WITH(forward(model, std::move(more), cache), has_part(what));
  };
  x(4, N + 1) = 7;
  says("Gman: slot of row 4: wanted a whole number from 0 to 6, found 7");
  x(4, N + 1) = 1;
  x(2, N) = 1.5;
  says("Gman: day of row 2: wanted a whole number from 0 to 6, found 1.5");
  x(2, N) = -1;
  says("Gman: day of row 2");
  x(2, N) = std::nan("");
  says("Gman: day of row 2");
  // The cache is that of the forward that went well.
  const auto again = backward(model, dy, cache, second);
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(dx.data()[i] == again.data()[i]);
}
