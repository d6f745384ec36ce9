// Back-propagation through time that is cut: states flow over the cut, gradients do not.

#include <limen/spiking/lif.hpp>

#include <cmath>
#include <memory>

#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>
#include <limen/spiking/leaky_integrator.hpp>
#include <limen/spiking/recurrent.hpp>
#include <limen/train/chunks.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr LifConfig hidden{
    .d_model = 9, .decay = 0.9, .threshold = 0.5, .learn_decay = Learned::each};
using Net =
    Sequential<Linear<LinearConfig{.d_in = 4, .d_out = 9}, double>, Recurrent<Lif<hidden, double>>,
               Linear<LinearConfig{.d_in = 9, .d_out = 2}, double>,
               LeakyIntegrator<LeakyIntegratorConfig{.d_model = 2}, double>>;

template <Index D>
Sequence<double, D> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

const Sequence<double, 2>& target() {
  static const auto rows = noise<2>(24, 8);
  return rows;
}

/// Σ (y - target)² / 2
Loss<double, 2> loss(SequenceView<double, 2> y, Index first) {
  Loss<double, 2> l{.value = 0, .dy = Sequence<double, 2>(y.rows())};
  for (Index t = 0; t < y.rows(); ++t) {
    for (Index c = 0; c < 2; ++c) {
      const double d = y(t, c) - target()(first + t, c);
      l.value += d * d / 2;
      l.dy(t, c) = d;
    }
  }
  return l;
}

double largest_difference(const Net& a, const Net& b) {
  double largest = 0;
  for_each_tensor(
      [&](const auto& p, const auto& q) {
        for (Index i = 0; i < p.size; ++i) largest = std::max(largest, std::abs(p[i] - q[i]));
      },
      a, b);
  return largest;
}

struct Result {
  double loss;
  std::unique_ptr<Net> gradient = std::make_unique<Net>();
  Net::State state{};
};

Result in_chunks(const Net& net, Index rows, Index window) {
  Result r;
  r.loss = add_gradient_in_chunks(net, noise<4>(24, 7), r.state, {.rows = rows, .window = window},
                                  loss, *r.gradient);
  return r;
}

}  // namespace

TEST_CASE("A spiking network in chunks computes what it computes in one piece",
          "[spiking][truncation]") {
  Random random(3);
  const Net net = Net::initialized(random);
  const auto whole = in_chunks(net, 24, 1);
  REQUIRE(whole.loss > 0);
  for (const Index rows : {1, 5, 8}) {
    INFO("chunks of " << rows);
    const auto all = in_chunks(net, rows, 24), cut = in_chunks(net, rows, 1);
    REQUIRE(std::abs(all.loss - whole.loss) < 1e-12 * whole.loss);
    REQUIRE(std::abs(cut.loss - whole.loss) < 1e-12 * whole.loss);
    REQUIRE(largest_difference(*all.gradient, *whole.gradient) < 1e-11);
    REQUIRE(largest_difference(*cut.gradient, *whole.gradient) > 1e-3);
    const auto wider = in_chunks(net, rows, 2);
    REQUIRE(largest_difference(*wider.gradient, *cut.gradient) > 1e-4);
  }
}

TEST_CASE("A cut is where the gradient of the state is zero", "[spiking][truncation]") {
  using L = Lif<LifConfig{.d_model = 1, .decay = 0.5, .learn_decay = Learned::each}, double>;
  Random random(1);
  const L layer = L::initialized(random);
  const Sequence<double, 1> x{{0.75}, {0.75}, {0.75}, {0.75}}, ones{{1}, {1}, {1}, {1}};
  L by_hand, in_chunks;
  typename L::State state{}, d_state{};
  L::Cache cache;
  for (const Index first : {0, 2}) {
    layer.forward(middle_rows(x, first, 2).copy(), state, cache);
    d_state = {};
    layer.backward(middle_rows(ones, first, 2), d_state, cache, by_hand);
  }
  typename L::State carried{};
  add_gradient_in_chunks(
      layer, x, carried, {.rows = 2},
      [&](SequenceView<double, 1> y, Index) {
        Loss<double, 1> l{.value = 0, .dy = Sequence<double, 1>(y.rows())};
        for (Index t = 0; t < y.rows(); ++t) l.dy(t, 0) = 1;
        return l;
      },
      in_chunks);
  REQUIRE(in_chunks.decay[0] == by_hand.decay[0]);
  REQUIRE(in_chunks.decay[0] != 0);
  REQUIRE(carried.v[0] == state.v[0]);
  REQUIRE(carried.v[0] == 0.15625);
}
