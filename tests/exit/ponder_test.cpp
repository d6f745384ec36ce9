#include <limen/exit/ponder.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/nn/min_gru.hpp>

#include <vector>

#include "../compose/layers.hpp"
#include "../laws.hpp"
#include "scripted.hpp"

using namespace limen;
using namespace parts;

namespace {

template <Index I, Index E, Index O>
using Thinker =
    Sequential<MinGru<MinGruConfig{.d_in = I, .d_hidden = E, .candidate = Candidate::plain}>,
               Map<E, O>>;

double logit(double p) { return std::log(p / (1 - p)); }
/// Of class 0 over class 1, with this cross entropy.
double wrong_by(double loss) { return -std::log(std::expm1(loss)); }

}  // namespace

TEMPLATE_TEST_CASE("Ponder keeps the laws of layers", "[exit][ponder][laws]",
                   (Ponder<PonderConfig{.most = 1}, Thinker<1, 1, 2>>),
                   (Ponder<PonderConfig{.most = 4}, Thinker<3, 5, 4>>),
                   (Ponder<PonderConfig{.most = 3}, Thinker<2, 17, 3>>)) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("Halting 0.25, 0.5, 1 has a loss and a gradient that are known", "[exit][ponder]") {
  const Sequence<double, 9> y{
      {wrong_by(1), 0, logit(.25), wrong_by(.5), 0, logit(.5), wrong_by(.2), 0, 7}};
  const std::vector<int> labels{0};
  const auto loss = ponder_loss<3>(y, labels, {.beta = .1, .prior = .5});
  REQUIRE(loss.value == Approx(.538221).epsilon(1e-5));
  REQUIRE(loss.dy(0, 2) == Approx(.094778).epsilon(1e-4));
  REQUIRE(loss.dy(0, 5) == Approx(.043253).epsilon(1e-4));
  REQUIRE(loss.dy(0, 8) == 0);
  const double p[] = {.25, .375, .375}, wrong[] = {1, .5, .2};
  for (Index n = 0; n < 3; ++n) {  // p_n (softmax - 1)
    REQUIRE(loss.dy(0, 3 * n) == Approx(p[n] * (std::exp(-wrong[n]) - 1)));
  }
  double task = 0;
  for (int n = 0; n < 3; ++n) task += p[n] * wrong[n];
  REQUIRE((loss.value - task) / .1 == Approx(.257211).epsilon(1e-5));
  const auto reverse =
      ponder_loss<3>(y, labels, {.beta = .1, .prior = .5, .direction = PonderPrior::kl_of_prior});
  REQUIRE((reverse.value - task) / .1 == Approx(.256824).epsilon(1e-5));
}

TEST_CASE("The gradient of the ponder loss is its slope", "[exit][ponder]") {
  Random random(5);
  Sequence<double, 20> y(4);
  for (Index i = 0; i < y.size(); ++i) y.data()[i] = 2 * random.normal();
  const std::vector<int> labels{1, -1, 0, 2};
  for (const auto direction : {PonderPrior::kl_of_p, PonderPrior::kl_of_prior}) {
    const PonderLossOptions options{.beta = 0.7, .prior = 0.3, .direction = direction};
    const auto loss = ponder_loss<5>(y, labels, options);
    for (Index i = 0; i < y.size(); ++i) {
      const double before = y.data()[i], h = 1e-6;
      y.data()[i] = before + h;
      const double above = ponder_loss<5>(y, labels, options).value;
      y.data()[i] = before - h;
      const double below = ponder_loss<5>(y, labels, options).value;
      y.data()[i] = before;
      INFO("element " << i);
      REQUIRE(loss.dy.data()[i] == Approx((above - below) / (2 * h)).margin(1e-8));
    }
  }
}

TEST_CASE("Halting that is certain, or never comes, has a finite loss", "[exit][ponder]") {
  for (const double a : {-2000.0, 2000.0}) {
    const Sequence<double, 9> y{{1, 0, a, 1, 0, a, 1, 0, a}};
    const auto loss = ponder_loss<3>(y, std::vector<int>{0});
    REQUIRE(std::isfinite(loss.value));
    for (Index i = 0; i < 9; ++i) REQUIRE(std::isfinite(loss.dy(0, i)));
  }
}

TEST_CASE("A row stops at the median, where it is likely, or by its own coin", "[exit][ponder]") {
  using Net = Ponder<PonderConfig{.most = 3}, Scripted<3, 3>>;
  Net net;
  const double lambda[] = {.25, .5, .9};
  for (Index n = 0; n < 3; ++n) {
    net.inner.table(n, 0) = static_cast<double>(n + 1);
    net.inner.table(n, 2) = logit(lambda[n]);
  }
  net.inner.table(1, 2) = logit(.4);  // p = .25, .3: the median is at step 2, nothing likely
  const auto x = Sequence<double, 1>::zeros(4000);
  REQUIRE(net.run(x).steps[7] == 2);
  REQUIRE(net.run(x).y(7, 0) == 2);
  REQUIRE(net.run(x, Halting::likely).steps[7] == 3);
  const Random random(9);
  const auto sampled = net.run(x, Halting::sample, &random);
  double share[4] = {};
  for (const Index n : sampled.steps) share[n] += 1 / 4000.0;
  REQUIRE(share[1] == Approx(.25).margin(.03));
  REQUIRE(share[2] == Approx(.30).margin(.03));
  REQUIRE(share[3] == Approx(.45).margin(.03));
  // the coin belongs to the row, not to the batch
  const auto few = net.run(SequenceView<double, 1>(x).middle_rows(0, 10), Halting::sample, &random);
  for (Index t = 0; t < 10; ++t) REQUIRE(few.steps[t] == sampled.steps[t]);
}

TEST_CASE("A row stops at the step at which half of its chances are spent", "[exit][ponder]") {
  Ponder<PonderConfig{.most = 3}, Scripted<3, 2>> net;  // logit 0: halting 1/2
  REQUIRE(net.run(Sequence<double, 1>::zeros(1)).steps[0] == 1);
  REQUIRE(net.run(Sequence<double, 1>::zeros(1), Halting::likely).steps[0] == 1);
}

TEST_CASE("What runs is the step of the training forward at which it stopped", "[exit][ponder]") {
  using Net = Ponder<PonderConfig{.most = 6}, Thinker<3, 8, 4>>;
  Random random(4);
  auto learned = Net::initialized(random);
  for_each_tensor(
      [](auto& w) {
        for (auto& v : w.flat()) v *= 3;
      },
      learned);
  const auto net = prepare(learned);
  const auto x = noise<float, 3>(50, random);
  const auto all = forward(net, x);
  const auto answer = net.run(x);
  bool differ = false;
  for (Index t = 0; t < 50; ++t) {
    differ = differ || answer.steps[t] != answer.steps[0];
    for (Index c = 0; c < 3; ++c) {
      REQUIRE(answer.y(t, c) == Approx(all(t, 4 * (answer.steps[t] - 1) + c)).margin(1e-5));
    }
  }
  REQUIRE(differ);
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Priors outside of 0 to 1 are errors, and so is a coin without a generator",
          "[exit][ponder]") {
  const Sequence<double, 4> y(1);
  const std::vector<int> labels{0};
  REQUIRE_THROWS_WITH(ponder_loss<2>(y, labels, {.prior = 1}), has_part("between 0 and 1"));
  const Ponder<PonderConfig{.most = 2}, Scripted<2, 2>> net;
  REQUIRE_THROWS_WITH(net.run(Sequence<double, 1>(1), Halting::sample), has_part("random"));
}
#endif
