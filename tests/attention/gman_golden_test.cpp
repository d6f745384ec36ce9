#include <limen/attention/gman.hpp>

#include <memory>

#include "../goldens/golden.hpp"
#include "../goldens/graph_gman.hpp"

using namespace limen;

namespace {

constexpr GmanConfig least{.nodes = 1, .heads = 1, .d_head = 1, .horizon = 1, .slots = 2};
constexpr GmanConfig small{.nodes = 3, .heads = 2, .d_head = 3, .horizon = 2, .slots = 5};
constexpr GmanConfig deep{
    .nodes = 5, .heads = 3, .d_head = 2, .blocks = 2, .horizon = 3, .slots = 9, .causal = true};

/// All numbers of the model, in the order of visit.
template <class M, class F>
void each_number(M& model, F&& f) {
  std::size_t i = 0;
  for_each_tensor(
      [&](auto& tensor) {
        for (auto& value : tensor.flat()) f(i++, value);
      },
      model);
}

template <class M>
void check_as(const golden::Run& run, golden::Numbers parameters, golden::Numbers gradients,
              double tolerance) {
  using Real = typename M::Scalar;
  const auto model = std::make_unique<M>(), gradient = std::make_unique<M>();
  REQUIRE(static_cast<std::size_t>(parameter_count(*model)) == parameters.size());
  each_number(*model, [&](std::size_t i, Real& v) { v = static_cast<Real>(parameters[i]); });
  const Index rows = static_cast<Index>(run.x.size()) / M::in, past = rows - M::config.horizon;
  Sequence<Real, M::in> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(run.x[std::size_t(i)]);
  auto dy = Sequence<Real, M::out>::zeros(rows);
  for (std::size_t i = 0; i < run.dy.size(); ++i) {
    dy.row_data(past)[i] = static_cast<Real>(run.dy[i]);
  }
  typename M::Cache cache;
  const auto y = forward(*model, std::move(x), cache);
  golden::same("y", std::span(y.data() + past * M::out, run.y.size()), run.y, tolerance);
  golden::same("dx", backward(*model, dy, cache, *gradient), run.dx, tolerance);
  each_number(*gradient, [&](std::size_t i, Real& v) {
    INFO("parameter " << i << ": got " << v << ", expected " << gradients[i]);
    REQUIRE(std::abs(static_cast<double>(v) - gradients[i]) <=
            tolerance * (1 + std::abs(gradients[i])));
  });
}

template <GmanConfig C>
void agrees(const golden::Run& run, golden::Numbers parameters, golden::Numbers gradients) {
  check_as<Gman<C, double>>(run, parameters, gradients, 1e-10);
  check_as<Gman<C>>(run, parameters, gradients, 1e-3);
}

}  // namespace

TEST_CASE("Gman is what its equations give in PyTorch", "[attention][gman][golden]") {
  {
    using namespace goldens::graph::gman_least;
    agrees<::least>({x, y, dy, dx}, parameters, gradients);
  }
  {
    using namespace goldens::graph::gman_small;
    agrees<::small>({x, y, dy, dx}, parameters, gradients);
  }
  {
    using namespace goldens::graph::gman_deep;
    agrees<::deep>({x, y, dy, dx}, parameters, gradients);
  }
}
