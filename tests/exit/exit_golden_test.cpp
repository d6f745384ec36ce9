// Losses, gradients and layers against what PyTorch differentiates: tests/goldens/exit.py.

#include <limen/compose/sequential.hpp>
#include <limen/exit/adaptive_computation.hpp>
#include <limen/exit/early_exit.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/exit/jei_loss.hpp>
#include <limen/exit/ponder.hpp>
#include <limen/nn/gru.hpp>

#include "../compose/layers.hpp"
#include "../goldens/exit_layers.hpp"
#include "../goldens/exit_losses.hpp"
#include "../goldens/golden.hpp"

using namespace limen;
using golden::rows_of;
using golden::same;
using parts::Bend;
using parts::Map;

namespace {

constexpr std::span<const int> labels(goldens::exit_losses::labels);

template <class Real>
constexpr double tolerance = sizeof(Real) == 8 ? 1e-10 : 3e-5;

template <class LossOf>
void same_loss(const char* what, const LossOf& loss, golden::Numbers value, golden::Numbers dy,
               double tolerance) {
  INFO(what);
  REQUIRE(loss.value == Approx(value[0]).epsilon(tolerance));
  same("dy", std::span(loss.dy.data(), dy.size()), dy, tolerance);
}

}  // namespace

TEMPLATE_TEST_CASE("Joint and distilled losses and their gradients are PyTorch's",
                   "[exit][loss][golden]", double, float) {
  namespace g = goldens::exit_losses;
  const auto y = rows_of<TestType, 12>(g::y);
  ExitLossOptions<3> options{.weights = {0.5, 1, 2}};
  same_loss("joint", exit_loss<3>(y, labels, options), g::joint, g::d_joint, tolerance<TestType>);
  options.distill = 0.4;
  options.temperature = 2.5;
  same_loss("distilled", exit_loss<3>(y, labels, options), g::distilled, g::d_distilled,
            tolerance<TestType>);
}

TEMPLATE_TEST_CASE("Losses of gates and of the heads they choose between are PyTorch's",
                   "[exit][jei][golden]", double, float) {
  namespace g = goldens::exit_losses;
  const auto y = rows_of<TestType, 12>(g::y);
  const SequenceView<TestType, 12> rows(y);
  ExitGates<2, TestType> gates, gradient;
  for (Index i = 0; i < 8; ++i) gates.weight[i] = static_cast<TestType>(g::w[i]);
  for (Index i = 0; i < 2; ++i) gates.bias[i] = static_cast<TestType>(g::b[i]);
  const JeiOptions<3> options{.cost = {.2, .6, 1}, .lambda = 0.7, .balance = {2, 3}};
  const auto loss = jei_gate_loss(gates, rows, labels, options, gradient);
  REQUIRE(loss.value == Approx(g::gate_loss[0]).epsilon(tolerance<TestType>));
  same("dw", gradient.weight.flat(), g::dw, tolerance<TestType>);
  same("db", gradient.bias.flat(), g::db, tolerance<TestType>);
  const auto head = [&](JeiNormalise normalise, golden::Numbers value, golden::Numbers dy) {
    const auto found = jei_head_loss(gates, y, labels, normalise);
    same_loss("heads", found, value, dy, tolerance<TestType>);
  };
  head(JeiNormalise::none, g::head_plain, g::d_head_plain);
  head(JeiNormalise::detached_ratio, g::head_ratio, g::d_head_ratio);
}

TEMPLATE_TEST_CASE("The ponder loss and its gradient are PyTorch's", "[exit][ponder][golden]",
                   double, float) {
  namespace g = goldens::exit_losses;
  const auto y = rows_of<TestType, 30>(g::steps);
  PonderLossOptions options{.beta = 0.3, .prior = 0.2};
  same_loss("kl of p", ponder_loss<6>(y, labels, options), g::ponder, g::d_ponder,
            tolerance<TestType>);
  options.direction = PonderPrior::kl_of_prior;
  same_loss("kl of the prior", ponder_loss<6>(y, labels, options), g::ponder_reverse,
            g::d_ponder_reverse, tolerance<TestType>);
}

namespace {
template <EarlyExitConfig C>
using Net = EarlyExitWith<C, Map<3, 5>, Bend<5>, Exit<Map<5, 2>>, Map<5, 5>, Bend<5>,
                          Exit<Map<5, 2>>, Map<5, 5>, Bend<5>, Exit<Map<5, 2>>>;
constexpr GruConfig unit{.d_in = 3, .d_hidden = 4};
}  // namespace

TEST_CASE("Gradients of all heads, with equilibrium and without, are PyTorch's",
          "[exit][early_exit][golden]") {
  {
    namespace g = goldens::exit_layers::plain;
    golden::check_in_double_and_float<Net<EarlyExitConfig{}>>({g::x, g::y, g::dy, g::dx},
                                                              {{g::w0, g::d_w0},
                                                               {g::b0, g::d_b0},
                                                               {g::h0, g::d_h0},
                                                               {g::c0, g::d_c0},
                                                               {g::w1, g::d_w1},
                                                               {g::b1, g::d_b1},
                                                               {g::h1, g::d_h1},
                                                               {g::c1, g::d_c1},
                                                               {g::w2, g::d_w2},
                                                               {g::b2, g::d_b2},
                                                               {g::h2, g::d_h2},
                                                               {g::c2, g::d_c2}});
  }
  namespace g = goldens::exit_layers::even;
  golden::check_in_double_and_float<Net<EarlyExitConfig{.equilibrium = true}>>(
      {g::x, g::y, g::dy, g::dx}, {{g::w0, g::d_w0},
                                   {g::b0, g::d_b0},
                                   {g::h0, g::d_h0},
                                   {g::c0, g::d_c0},
                                   {g::w1, g::d_w1},
                                   {g::b1, g::d_b1},
                                   {g::h1, g::d_h1},
                                   {g::c1, g::d_c1},
                                   {g::w2, g::d_w2},
                                   {g::b2, g::d_b2},
                                   {g::h2, g::d_h2},
                                   {g::c2, g::d_c2}});
}

TEST_CASE("A GRU that thinks as long as it wants is PyTorch's, price and gradients included",
          "[exit][act][golden]") {
  using Act = AdaptiveComputation<AdaptiveComputationConfig{.most = 6, .tau = 0.05}, Gru<unit>>;
  namespace g = goldens::exit_layers::act;
  golden::check_in_double_and_float<Act>({g::x, g::y, g::dy, g::dx},
                                         {{g::weight_ih, g::d_weight_ih},
                                          {g::weight_hh, g::d_weight_hh},
                                          {g::bias_ih, g::d_bias_ih},
                                          {g::bias_hh, g::d_bias_hh},
                                          {g::halt, g::d_halt},
                                          {g::urgency, g::d_urgency}});
  const auto act = golden::layer_of<Act::with_scalar<double>>({{g::weight_ih, {}},
                                                               {g::weight_hh, {}},
                                                               {g::bias_ih, {}},
                                                               {g::bias_hh, {}},
                                                               {g::halt, {}},
                                                               {g::urgency, {}}});
  Act::with_scalar<double>::Cache cache;
  forward(*act, rows_of<double, 3>(g::x), cache);
  namespace s = goldens::exit_layers::act_steps;
  for (Index t = 0; t < 7; ++t) REQUIRE(cache.steps[t] == s::steps[t]);
  REQUIRE(*std::min_element(std::begin(s::steps), std::end(s::steps)) <
          *std::max_element(std::begin(s::steps), std::end(s::steps)));
  REQUIRE(cache.ponder == Approx(s::ponder[0]).epsilon(1e-12));
}

TEST_CASE("All steps of a GRU that ponders are PyTorch's", "[exit][ponder][golden]") {
  namespace g = goldens::exit_layers::pondering;
  golden::check_in_double_and_float<
      Ponder<PonderConfig{.most = 4}, Sequential<Gru<unit>, Map<4, 5>>>>(
      {g::x, g::y, g::dy, g::dx}, {{g::weight_ih, g::d_weight_ih},
                                   {g::weight_hh, g::d_weight_hh},
                                   {g::bias_ih, g::d_bias_ih},
                                   {g::bias_hh, g::d_bias_hh},
                                   {g::w, g::d_w},
                                   {g::b, g::d_b}});
}
