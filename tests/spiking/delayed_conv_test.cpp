#include <limen/spiking/delayed_conv.hpp>

#include <cmath>
#include <memory>
#include <utility>

#include "../goldens/golden.hpp"
#include "../goldens/spiking_io.hpp"
#include "laws.hpp"

using namespace limen;
namespace io = goldens::spiking_io;

namespace {

constexpr DelayedConv2dConfig config{
    .image = {3, 4}, .d_in = 2, .d_out = 3, .kernel = {3, 5}, .longest = 2};
using Stamps = DelayedConv2d<config, double>;

template <Index D>
Sequence<double, D> events(Index rows, double rate) {
  Random random(5);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.uniform() < rate ? 1 : 0;
  return x;
}

}  // namespace

static_assert(Layer<Stamps> && Streaming<Stamps>);
static_assert(std::is_trivially_copyable_v<Stamps::State>);

TEMPLATE_TEST_CASE_SIG(
    "DelayedConv2d keeps the laws of layers", "[spiking][delays][laws]",
    ((DelayedConv2dConfig C), C),
    (DelayedConv2dConfig{.d_in = 1, .d_out = 1, .kernel = {1, 1}, .longest = 0}),
    (DelayedConv2dConfig{.image = {2, 3}, .d_in = 1, .d_out = 3, .kernel = {1, 3}, .longest = 3}),
    (DelayedConv2dConfig{
        .image = {3, 2}, .d_in = 2, .d_out = 2, .kernel = {5, 3}, .longest = 1, .bias = false})) {
  static_assert(check::names_every_member<DelayedConv2d<C>>);
  laws::hold_in_double_and_float<DelayedConv2d<C>>({.state_has_slope = false});
}

TEST_CASE("An event is stamped on the frames to come: a case by hand", "[spiking][delays]") {
  constexpr DelayedConv2dConfig c{
      .image = {1, 4}, .d_in = 1, .d_out = 1, .kernel = {1, 3}, .longest = 1, .bias = false};
  DelayedConv2d<c, double> layer;
  const double stamp[] = {1, 2, 4, 10, 20, 40};  // now, and a step later
  for (Index k = 0; k < 6; ++k) layer.weight[k] = stamp[k];
  const auto y = forward(layer, Sequence<double, 4>{{0, 0, 0, 1}, {1, 0, 0, 0}, {0, 0, 0, 0}});
  const double expected[3][4] = {{0, 0, 1, 2}, {2, 4, 10, 20}, {20, 40, 0, 0}};
  for (Index t = 0; t < 3; ++t) {
    for (Index q = 0; q < 4; ++q) REQUIRE(y(t, q) == expected[t][q]);
  }
}

TEST_CASE("Outputs and gradients are those of PyTorch's conv3d", "[spiking][delays][golden]") {
  using namespace io::conv3d;
  golden::check_in_double_and_float<Stamps>({x, y, dy, dx}, {{w, d_w}, {b, d_b}});
}

TEST_CASE("Stamps are the ring of their synapses, and of what pruning left", "[spiking][delays]") {
  constexpr DelayConfig ring{.d_in = Stamps::in, .d_out = Stamps::out, .longest = config.longest};
  Random random(3);
  auto layer = Stamps::initialized(random);
  layer.bias = {};
  const auto x = events<Stamps::in>(20, 0.2);
  for (const Index count : {layer.weight.size, Index{17}, Index{0}}) {
    prune(layer, count);
    Index left = 0;
    for (const double w : layer.weight.flat()) left += w != 0;
    REQUIRE(left == count);
    const auto y = forward(layer, x);
    auto lines = DelayLines<ring, double>::from(synapses_of(layer));
    REQUIRE(lines);
    const auto by_list = forward(*lines, x);
    for (Index i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(y.data()[i] - by_list.data()[i]) < 1e-14);
    }
  }
}

TEST_CASE("Of weights pruned, the strongest stay", "[spiking][delays]") {
  constexpr DelayedConv2dConfig c{
      .image = {1, 1}, .d_in = 1, .d_out = 1, .kernel = {1, 1}, .longest = 3, .bias = false};
  DelayedConv2d<c, double> layer;
  const double weights[] = {1, -3, 2, 2}, expected[] = {0, -3, 2, 0};
  for (Index k = 0; k < 4; ++k) layer.weight[k] = weights[k];
  prune(layer, 2);
  for (Index k = 0; k < 4; ++k) REQUIRE(layer.weight[k] == expected[k]);
}

TEST_CASE("Frames on their way are carried over a cut, and so is their gradient",
          "[spiking][delays]") {
  constexpr Index T = 9;
  Random random(2);
  const auto layer = Stamps::initialized(random);
  const auto x = events<Stamps::in>(T, 0.3);
  Sequence<double, Stamps::out> dy(T);
  for (Index i = 0; i < dy.size(); ++i) dy.data()[i] = random.normal();
  Stamps::Cache whole;
  Stamps gradient;
  const auto y = forward(layer, Sequence<double, Stamps::in>(x), whole);
  const auto dx = backward(layer, dy, whole, gradient);
  for (const Index cut : {1, 4, 8}) {  // shorter and longer than the ring
    Stamps::Cache head, tail;
    Stamps summed;
    Stamps::State state{}, d_state{};
    layer.forward(middle_rows(x, 0, cut).copy(), state, head);
    const auto y_tail = layer.forward(middle_rows(x, cut, T - cut).copy(), state, tail);
    for (Index t = cut; t < T; ++t) {
      for (Index k = 0; k < Stamps::out; ++k) REQUIRE(y_tail(t - cut, k) == y(t, k));
    }
    layer.backward(middle_rows(dy, cut, T - cut), d_state, tail, summed);
    const auto dx_head = layer.backward(middle_rows(dy, 0, cut), d_state, head, summed);
    for (Index t = 0; t < cut; ++t) {
      for (Index k = 0; k < Stamps::in; ++k) {
        REQUIRE(std::abs(dx_head(t, k) - dx(t, k)) < 1e-13);
      }
    }
    for (Index k = 0; k < layer.weight.size; ++k) {
      REQUIRE(std::abs(summed.weight[k] - gradient.weight[k]) < 1e-12);
    }
  }
}
