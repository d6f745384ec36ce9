#include <limen/exit/adaptive_computation.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/nn/min_gru.hpp>

#include "../compose/layers.hpp"
#include "../laws.hpp"
#include "scripted.hpp"

using namespace limen;
using namespace parts;

namespace {

template <Index I, Index E>
using Unit =
    MinGru<MinGruConfig{.d_in = I, .d_hidden = E, .candidate = Candidate::plain, .bias = true}>;
// ε is also how far y jumps where a row takes one step more, which slopes in float would see.
constexpr AdaptiveComputationConfig free_of_charge{.most = 6, .epsilon = 1e-4};

double logit(double p) { return std::log(p / (1 - p)); }

}  // namespace

TEMPLATE_TEST_CASE("AdaptiveComputation keeps the laws of layers", "[exit][act][laws]",
                   (AdaptiveComputation<free_of_charge, Unit<1, 1>>),
                   (AdaptiveComputation<free_of_charge, Unit<3, 17>>),
                   (AdaptiveComputation<AdaptiveComputationConfig{.most = 1}, Unit<2, 3>>),
                   (AdaptiveComputation<free_of_charge, Sequential<Unit<4, 5>, Map<5, 8>>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("Halting 0.2, 0.3, 0.4, 0.6 stops at the fourth step, which gets what is left",
          "[exit][act]") {
  using Net = AdaptiveComputation<AdaptiveComputationConfig{.most = 5, .tau = 0.1}, Scripted<5, 2>>;
  Net net;
  const double s[] = {1, 2, 4, 3, 100}, lambda[] = {.2, .3, .4, .6, .5};
  for (Index n = 0; n < 5; ++n) {
    net.inner.table(n, 0) = s[n];
    net.inner.table(n, 1) = logit(lambda[n]);
  }
  net.halt[1] = 1;  // the second number is the logit
  Net::Cache cache;
  Net gradient;
  const auto y = forward(net, Sequence<double, 1>{{0}}, cache);
  REQUIRE(y(0, 0) == Approx(2.7));
  REQUIRE(cache.steps[0] == 4);
  REQUIRE(cache.ponder == Approx(4.1));
  backward(net, Sequence<double, 2>{{1, 0}}, cache, gradient);
  const double p[] = {.2, .3, .4, .1, 0}, d_lambda[] = {-2.1, -1.1, .9, 0, 0};
  double db = 0;
  for (Index n = 0; n < 5; ++n) {
    INFO("step " << n + 1);
    const double da = d_lambda[n] * lambda[n] * (1 - lambda[n]);
    REQUIRE(gradient.inner.table(n, 0) == Approx(p[n]).margin(1e-14));
    REQUIRE(gradient.inner.table(n, 1) == Approx(da).margin(1e-14));
    db += da;
  }
  REQUIRE(gradient.urgency[0] == Approx(db));
}

TEST_CASE("Rows stop for themselves, at the latest after the last step", "[exit][act]") {
  using Net =
      AdaptiveComputation<AdaptiveComputationConfig{.most = 8}, Unit<3, 6>>::with_scalar<double>;
  Random random(3);
  auto net = Net::initialized(random);
  for (double& w : net.halt.flat()) w *= 8;
  net.urgency[0] = -2;
  const auto x = noise<double, 3>(40, random);
  Net::Cache cache;
  const auto y = forward(net, Sequence<double, 3>(x), cache);
  const auto [least, greatest] = std::minmax_element(cache.steps.begin(), cache.steps.end());
  REQUIRE(*least < *greatest);
  REQUIRE(*greatest == 8);
  NoState none;
  for (Index t = 0; t < 40; ++t) {  // together, alone, and for training
    const auto alone = net.step(x.row(t), none);
    const auto together = forward(net, x);
    for (Index d = 0; d < 6; ++d) {
      REQUIRE(alone[d] == Approx(y(t, d)));
      REQUIRE(alone[d] == Approx(together(t, d)));
    }
  }
}

TEST_CASE("Thinking costs what it says", "[exit][act]") {
  using Net = AdaptiveComputation<AdaptiveComputationConfig{.most = 8, .tau = 0.3},
                                  Unit<3, 6>>::with_scalar<double>;
  Random random(3);
  auto net = Net::initialized(random);
  net.urgency[0] = -1;
  const auto x = noise<double, 3>(9, random);
  Net::Cache cache;
  Net gradient;
  forward(net, Sequence<double, 3>(x), cache);
  backward(net, Sequence<double, 6>::zeros(9), cache, gradient);  // nothing but the price
  const auto cost = [&] {
    Net::Cache c;
    forward(net, Sequence<double, 3>(x), c);
    return 0.3 * c.ponder;
  };
  for_each_tensor(
      [&](auto& w, const auto& d) {
        for (Index i = 0; i < w.size; ++i) {
          const double before = w[i], h = 1e-6;
          w[i] = before + h;
          const double above = cost();
          w[i] = before - h;
          const double below = cost();
          w[i] = before;
          REQUIRE(d[i] == Approx((above - below) / (2 * h)).margin(1e-7));
        }
      },
      net, gradient);
}

TEST_CASE("A row stops where its halting reaches 1 - epsilon, not only beyond it", "[exit][act]") {
  using Net =
      AdaptiveComputation<AdaptiveComputationConfig{.most = 5, .epsilon = 0.5}, Scripted<5, 1>>;
  Net net;  // no weight, no urgency: λ = 1/2
  for (Index n = 0; n < 5; ++n) net.inner.table(n, 0) = static_cast<double>(n + 1);
  Net::Cache cache;
  REQUIRE(forward(net, Sequence<double, 1>{{0}}, cache)(0, 0) == 1);
  REQUIRE(cache.steps[0] == 1);
}
