#include <limen/spiking/dcls.hpp>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "../goldens/golden.hpp"
#include "../goldens/spiking_io.hpp"
#include "laws.hpp"

using namespace limen;
namespace io = goldens::spiking_io;

static_assert(Layer<Dcls<DclsConfig{.d_in = 2, .d_out = 3, .width = 5}>>);
static_assert(Streaming<prepared_form<Dcls<DclsConfig{.d_in = 2, .d_out = 3, .width = 5}>>>);

TEMPLATE_TEST_CASE_SIG(
    "Dcls keeps the laws of layers", "[spiking][dcls][laws]", ((DclsConfig C), C),
    (DclsConfig{.d_in = 1, .d_out = 1, .width = 3, .spread = 1}),
    (DclsConfig{.d_in = 3, .d_out = 4, .width = 9, .taps = 2, .spread = 0.8, .learn_spread = true}),
    (DclsConfig{.d_in = 3,
                .d_out = 2,
                .width = 7,
                .taps = 2,
                .kernel = DclsKernel::triangle,
                .spread = 0.6,
                .learn_spread = true,
                .bias = false})) {
  static_assert(check::names_every_member<Dcls<C>>);
  // The wide differences of float leave the neighbourhood of a narrow kernel.
  spiking::twin_keeps_the_laws<Dcls<C>>({.state_has_slope = false}, true);
}

TEST_CASE("A kernel of five taps around its middle", "[spiking][dcls]") {
  constexpr DclsConfig c{.d_in = 1, .d_out = 1, .width = 5, .bias = false};
  Dcls<c, double> layer;
  layer.weight[0] = 1;
  set_spread(layer, 0.23);  // σ = 0.5
  const auto conv = layer.conv();
  const double expected[] = {0.000264, 0.106451, 0.786571, 0.106451, 0.000264};
  for (Index n = 0; n < 5; ++n) REQUIRE(std::abs(conv.weight[n] - expected[n]) < 5e-7);
}

namespace {

template <DclsConfig C>
void agrees(const golden::Run& run, golden::Parameters parameters, golden::Numbers kernel) {
  golden::check_in_double_and_float<Dcls<C>>(run, parameters);
  const auto layer = golden::layer_of<Dcls<C, double>>(parameters);
  golden::same("kernel", layer->conv().weight.flat(), kernel, 1e-10);
}

constexpr DclsConfig of(DclsKernel kernel, Index taps) {
  return {.d_in = 3,
          .d_out = 2,
          .width = 9,
          .taps = taps,
          .kernel = kernel,
          .learn_spread = kernel != DclsKernel::linear,
          .bias = false};
}

/// The linear kernel has a statistic in place of a spread, which no golden names.
template <Index Taps>
void agrees_linear(const golden::Run& run, golden::Parameters p, golden::Numbers kernel) {
  agrees<of(DclsKernel::linear, Taps)>(run, p, kernel);
}

}  // namespace

TEST_CASE("Kernels, outputs and gradients are those of the package dcls",
          "[spiking][dcls][golden]") {
  {
    using namespace io::dcls_gaussian_1;
    agrees<of(DclsKernel::gaussian, 1)>({x, y, dy, dx}, {{w, d_w}, {p, d_p}, {sig, d_sig}}, kernel);
  }
  {
    using namespace io::dcls_gaussian_3;
    agrees<of(DclsKernel::gaussian, 3)>({x, y, dy, dx}, {{w, d_w}, {p, d_p}, {sig, d_sig}}, kernel);
  }
  {
    using namespace io::dcls_linear_1;
    agrees_linear<1>({x, y, dy, dx}, {{w, d_w}, {p, d_p}}, kernel);
  }
  {
    using namespace io::dcls_linear_3;
    agrees_linear<3>({x, y, dy, dx}, {{w, d_w}, {p, d_p}}, kernel);
  }
  {
    using namespace io::dcls_triangle_1;
    agrees<of(DclsKernel::triangle, 1)>({x, y, dy, dx}, {{w, d_w}, {p, d_p}, {sig, d_sig}}, kernel);
  }
  {
    using namespace io::dcls_triangle_3;
    agrees<of(DclsKernel::triangle, 3)>({x, y, dy, dx}, {{w, d_w}, {p, d_p}, {sig, d_sig}}, kernel);
  }
}

TEST_CASE("A rounded network is a ring of delays, and the limit of narrow kernels",
          "[spiking][dcls]") {
  constexpr DclsConfig c{.d_in = 4, .d_out = 3, .width = 7, .taps = 2};
  constexpr DelayConfig d{.d_in = 4, .d_out = 3, .longest = 6, .bias = true};
  Random random(6);
  auto layer = Dcls<c, double>::initialized(random);
  layer.position[0] = 3;   // the shortest delay there is
  layer.position[1] = -3;  // and the longest
  layer.position[2] = 2.5;
  layer.position[3] = 3.49;
  layer.position[4] = -9;  // out of the kernel, as a step of an optimizer may leave it
  const auto synapses = synapses_of(layer);
  const Index delays[] = {0, 6, 1, 0, 6};
  for (std::size_t k = 0; k < 5; ++k) REQUIRE(synapses[k].delay == delays[k]);
  auto ring = DelayLines<d, double>::from(synapses, layer.bias.flat());
  REQUIRE(ring);
  clamp_positions(layer);
  REQUIRE(layer.position[3] == 3);
  REQUIRE(layer.position[4] == -3);
  for (double& p : layer.position.flat()) p = std::nearbyint(p);
  set_spread(layer, 0);
  Sequence<double, 4> x(30);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.uniform() < 0.3 ? 1 : 0;
  const auto y = forward(*ring, x);
  // σ cannot be below 0.27, where a neighbour still has a thousandth; the linear kernel has none.
  constexpr DclsConfig exact{
      .d_in = 4, .d_out = 3, .width = 7, .taps = 2, .kernel = DclsKernel::linear};
  Dcls<exact, double> straight;
  straight.weight = layer.weight;
  straight.position = layer.position;
  straight.bias = layer.bias;
  const auto smooth = forward(layer, x), same = forward(straight, x);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(same.data()[i] - y.data()[i]) < 2e-6);
    REQUIRE(std::abs(smooth.data()[i] - y.data()[i]) < 2e-2);
  }
}

TEST_CASE("Positions that are no numbers are refused", "[spiking][dcls]") {
  constexpr DclsConfig c{.d_in = 1, .d_out = 1, .width = 3};
  Dcls<c, double> layer;
  layer.position[0] = std::nan("");
  REQUIRE_THROWS_AS(synapses_of(layer), Exception);
}

TEST_CASE("A width goes from one to the other in a quarter of the training", "[spiking][dcls]") {
  const DclsWidth width{.from = 12.5, .to = 0.23, .share = 0.25};
  REQUIRE(width.at(0) == 12.5);
  REQUIRE(std::abs(width.at(0.125) - std::sqrt(12.5 * 0.23)) < 1e-12);
  REQUIRE(std::abs(width.at(0.25) - 0.23) < 1e-12);
  REQUIRE(width.at(0.25) == width.at(1));
  REQUIRE(DclsWidth{.share = 0}.at(0) == 0.23);
}

TEST_CASE("Learning moves a delay to where it is", "[spiking][dcls]") {
  constexpr DclsConfig c{.d_in = 1, .d_out = 1, .width = 15, .bias = false};
  constexpr Index delay = 3;
  Random random(1);
  Dcls<c, double> layer;
  layer.weight[0] = 1;
  layer.position[0] = -5;  // a delay of 12
  Sequence<double, 1> x(60);
  for (Index t = 0; t < 60; ++t) x(t, 0) = random.uniform() < 0.15 ? 1 : 0;
  const DclsWidth width{.from = 5, .to = 0.23, .share = 0.6};
  constexpr int steps = 400;
  for (int step = 0; step < steps; ++step) {
    set_spread(layer, width.at(static_cast<double>(step) / steps));
    Dcls<c, double>::Cache cache;
    Dcls<c, double> gradient;
    auto e = forward(layer, Sequence<double, 1>(x), cache);
    for (Index t = 0; t < 60; ++t) e(t, 0) -= t >= delay ? x(t - delay, 0) : 0;
    backward(layer, e, cache, gradient);
    const double d = gradient.position[0];
    layer.position[0] -= 0.1 * d / (std::abs(d) + 1e-2);
    clamp_positions(layer);
  }
  REQUIRE(synapses_of(layer)[0].delay == delay);
}
