// What spikes say: running readouts, decisions, losses.

#include <limen/spiking/decisions.hpp>
#include <limen/spiking/spike_loss.hpp>
#include <limen/spiking/spike_readout.hpp>
#include <memory>
#include <string>
#include <vector>

#include "../goldens/golden.hpp"
#include "../goldens/spiking_io.hpp"
#include "laws.hpp"

using namespace limen;
namespace io = goldens::spiking_io;

namespace {

template <class F>
bool refused(F f) {
  try {
    f();
  } catch (const Exception&) {
    return true;
  }
  return false;
}

template <Readout K, Index D>
using Read = SpikeReadout<SpikeReadoutConfig{.d_model = D, .kind = K}, double>;

const Sequence<double, 2> train{{0, 0}, {1, 0}, {0, 0}, {1, 1}};

/// Chunks of a sequence, with the gradients of states carried back, give what it gives in one.
template <class L>
void chunks_give_the_whole_gradient() {
  const L layer;
  Random random(3);
  Sequence<double, L::D> x(11), dy(11);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.uniform() < 0.3 ? random.normal() : 0;
  for (Index i = 0; i < x.size(); ++i) dy.data()[i] = random.normal();
  typename L::Cache whole, head, tail;
  L gradient;
  const auto y = forward(layer, Sequence<double, L::D>(x), whole);
  const auto dx = backward(layer, dy, whole, gradient);
  typename L::State state{}, d_state{};
  const auto y_head = layer.forward(middle_rows(x, 0, 4).copy(), state, head);
  const auto y_tail = layer.forward(middle_rows(x, 4, 7).copy(), state, tail);
  const auto dx_tail = layer.backward(middle_rows(dy, 4, 7), d_state, tail, gradient);
  const auto dx_head = layer.backward(middle_rows(dy, 0, 4), d_state, head, gradient);
  for (Index t = 0; t < 11; ++t) {
    for (Index c = 0; c < L::D; ++c) {
      REQUIRE((t < 4 ? y_head(t, c) : y_tail(t - 4, c)) == y(t, c));
      REQUIRE(std::abs((t < 4 ? dx_head(t, c) : dx_tail(t - 4, c)) - dx(t, c)) < 1e-14);
    }
  }
}

}  // namespace

static_assert(Layer<Read<Readout::count, 3>>);

TEMPLATE_TEST_CASE_SIG("SpikeReadout keeps the laws of layers", "[spiking][spike_readout][laws]",
                       ((SpikeReadoutConfig C), C), (SpikeReadoutConfig{.d_model = 1}),
                       (SpikeReadoutConfig{.d_model = 17, .kind = Readout::mean}),
                       (SpikeReadoutConfig{.d_model = 3, .kind = Readout::weighted, .keep = 0.7})) {
  laws::hold_in_double_and_float<SpikeReadout<C>>({.state_has_slope = false});
}

TEMPLATE_TEST_CASE_SIG("Readouts that choose keep the laws of layers",
                       "[spiking][spike_readout][laws]", ((SpikeReadoutConfig C), C),
                       (SpikeReadoutConfig{.d_model = 9, .kind = Readout::max}),
                       (SpikeReadoutConfig{.d_model = 5, .kind = Readout::farthest})) {
  // The wide differences of float may cross a tie.
  spiking::twin_keeps_the_laws<SpikeReadout<C, double>>({.state_has_slope = false}, true);
}

TEST_CASE("The time of a first spike keeps all laws but that of a slope",
          "[spiking][spike_readout][laws]") {
  constexpr SpikeReadoutConfig c{.d_model = 9, .kind = Readout::first_spike};
  laws::hold_in_double_and_float<SpikeReadout<c>>({.slope = 1e300, .state_has_slope = false});
}

TEST_CASE("Gradients of readouts pass through states", "[spiking][spike_readout]") {
  chunks_give_the_whole_gradient<Read<Readout::count, 5>>();
  chunks_give_the_whole_gradient<Read<Readout::mean, 5>>();
  chunks_give_the_whole_gradient<Read<Readout::weighted, 5>>();
  chunks_give_the_whole_gradient<Read<Readout::max, 5>>();
  chunks_give_the_whole_gradient<Read<Readout::farthest, 5>>();
  chunks_give_the_whole_gradient<Read<Readout::first_spike, 5>>();
}

TEST_CASE("Readouts of a train by hand", "[spiking][spike_readout]") {
  const auto column = [](const Sequence<double, 2>& y, Index c) {
    return std::vector<double>{y(0, c), y(1, c), y(2, c), y(3, c)};
  };
  using V = std::vector<double>;
  REQUIRE(column(forward(Read<Readout::count, 2>{}, train), 0) == V{0, 1, 1, 2});
  REQUIRE(column(forward(Read<Readout::mean, 2>{}, train), 0) == V{0, 0.5, 1.0 / 3, 0.5});
  REQUIRE(column(forward(Read<Readout::first_spike, 2>{}, train), 0) == V{1, 1, 1, 1});
  REQUIRE(column(forward(Read<Readout::first_spike, 2>{}, train), 1) == V{1, 2, 3, 3});
  const Sequence<double, 2> membrane{{-3, -1}, {-2, -1}, {-2, -4}, {-5, 0}};
  REQUIRE(column(forward(Read<Readout::max, 2>{}, membrane), 0) == V{-3, -2, -2, -2});
  REQUIRE(column(forward(Read<Readout::farthest, 2>{}, membrane), 0) == V{-3, -3, -3, -5});
  REQUIRE(column(forward(Read<Readout::farthest, 2>{}, membrane), 1) == V{-1, -1, -4, -4});
  const Sequence<double, 2> equals{
      {2, 0}, {-2, 1}, {2, -1}, {-2, 1}};  // the one below 0, and it stays
  REQUIRE(column(forward(Read<Readout::farthest, 2>{}, equals), 0) == V{2, -2, -2, -2});
  REQUIRE(column(forward(Read<Readout::farthest, 2>{}, equals), 1) == V{0, 1, -1, -1});
  constexpr SpikeReadoutConfig c{.d_model = 2, .kind = Readout::weighted, .keep = 0.5};
  REQUIRE(column(forward(SpikeReadout<c, double>{}, train), 0) == V{0, 1, 0.5, 1.25});
}

TEST_CASE("The slope of a maximum goes to the first that has it, that of a time to the spike",
          "[spiking][spike_readout]") {
  const Sequence<double, 2> membrane{{-3, 1}, {-2, 1}, {-2, 1}, {-5, 0}};
  const Sequence<double, 2> last{{0, 0}, {0, 0}, {0, 0}, {5, 7}};
  Read<Readout::max, 2> d_max;
  Read<Readout::max, 2>::Cache cache;
  forward(Read<Readout::max, 2>{}, Sequence<double, 2>(membrane), cache);
  const auto dx = backward(Read<Readout::max, 2>{}, last, cache, d_max);
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(dx(t, 0) == (t == 1 ? 5 : 0));
    REQUIRE(dx(t, 1) == (t == 0 ? 7 : 0));
  }
  const Sequence<double, 2> silent{{0, 0}, {1, 0}, {1, 0}, {1, 0}};
  Read<Readout::first_spike, 2> d_time;
  Read<Readout::first_spike, 2>::Cache kept;
  forward(Read<Readout::first_spike, 2>{}, Sequence<double, 2>(silent), kept);
  const auto ds = backward(Read<Readout::first_spike, 2>{}, last, kept, d_time);
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(ds(t, 0) == (t == 1 ? -5 : 0));
    REQUIRE(ds(t, 1) == 0);
  }
}

TEST_CASE("Ties go to the membrane, then to the lower class, and silence is no answer",
          "[spiking][spike_readout]") {
  const Sequence<float, 3> count{{0, 2, 2}, {0, 0, 0}, {1, 0, 1}, {3, 4, 0}};
  REQUIRE(decisions(count) == std::vector<int>{1, -1, 0, 1});
  const Sequence<float, 3> v{{9, 0.1F, 0.2F}, {9, 0, 0}, {0.3F, 9, 0.3F}, {9, 0, 0}};
  REQUIRE(decisions(count, v) == std::vector<int>{2, -1, 0, 1});
  const Sequence<float, 3> times{{5, 3, 3}, {5, 5, 5}, {0, 1, 0}};
  REQUIRE(decisions_by_time(times, 5) == std::vector<int>{1, -1, 0});
  REQUIRE(decisions_by_time(times, 5, Sequence<float, 3>{{0, 1, 2}, {0, 1, 2}, {0, 1, 2}}) ==
          std::vector<int>{2, -1, 2});
  REQUIRE(refused([&] { decisions(count, Sequence<float, 3>(2)); }));
}

TEST_CASE("The last row of each sequence, and back", "[spiking][spike_readout]") {
  const std::vector<Index> offsets{0, 1, 4}, hole{0, 1, 1, 4};
  const auto last = last_rows(train, offsets);
  REQUIRE(last.rows() == 2);
  REQUIRE(last(0, 0) == 0);
  REQUIRE(last(1, 1) == 1);
  const auto back = last_rows_backward(Sequence<double, 2>{{1, 2}, {3, 4}}, offsets);
  REQUIRE(back.rows() == 4);
  REQUIRE(back(0, 1) == 2);
  REQUIRE(back(2, 1) == 0);
  REQUIRE(back(3, 0) == 3);
  REQUIRE(refused([&] { last_rows(train, hole); }));
  REQUIRE(refused([&] { last_rows(train, std::vector<Index>{0, 3}); }));
}

TEST_CASE("Losses of spikes are those of snnTorch, with their gradients",
          "[spiking][spike_loss][golden]") {
  const auto offsets = std::vector<Index>{0, 8, 16, 24, 32};
  const std::vector<int> labels{0, 2, 1, 1};
  const auto same = [](const Loss<double, 3>& loss, golden::Numbers dx, double value) {
    REQUIRE(std::abs(loss.value - value) < 1e-7);  // snnTorch sums in float32
    golden::same("dx", loss.dy, dx, 1e-7);
  };
  same(count_cross_entropy(golden::rows_of<double, 3>(io::ce_count::x), offsets, labels),
       io::ce_count::dx, io::ce_count::loss[0]);
  same(membrane_cross_entropy(golden::rows_of<double, 3>(io::ce_membrane::x), offsets, labels),
       io::ce_membrane::dx, io::ce_membrane::loss[0]);
  same(
      first_spike_cross_entropy(golden::rows_of<double, 3>(io::ce_first_spike::x), offsets, labels),
      io::ce_first_spike::dx, io::ce_first_spike::loss[0]);
}

TEST_CASE("Losses have the slope that they say", "[spiking][spike_loss]") {
  const std::vector<Index> offsets{0, 3, 8};
  const std::vector<int> labels{1, 0};
  Random random(5);
  Sequence<double, 3> s(8);
  for (Index i = 0; i < s.size(); ++i) s.data()[i] = random.uniform();
  const auto check_slope = [&](auto loss_of) {
    const auto loss = loss_of(s);
    REQUIRE(loss.dy.rows() == 8);
    for (Index i = 0; i < s.size(); ++i) {
      auto up = s, down = s;
      up.data()[i] += 1e-6;
      down.data()[i] -= 1e-6;
      const double slope = (loss_of(up).value - loss_of(down).value) / 2e-6;
      REQUIRE(std::abs(slope - loss.dy.data()[i]) < 1e-8);
    }
  };
  check_slope([&](const auto& x) { return count_cross_entropy(x, offsets, labels); });
  check_slope(
      [&](const auto& x) { return count_cross_entropy(x, offsets, labels, {.rate = true}); });
  check_slope([&](const auto& x) { return count_squared_error(x, offsets, labels); });
  check_slope(
      [&](const auto& x) { return count_squared_error(x, offsets, labels, {.rate = true}); });
  check_slope([&](const auto& x) { return membrane_cross_entropy(x, offsets, labels); });
  check_slope([&](const auto& x) { return rate_penalty(x, offsets, 3, 0.4); });
  REQUIRE(refused([&] { count_cross_entropy(s, offsets, std::vector<int>{1, 3}); }));
  REQUIRE(refused([&] { count_squared_error(s, offsets, std::vector<int>{1}); }));
  REQUIRE(refused([&] { membrane_cross_entropy(s, std::vector<Index>{0, 3, 3, 8}, labels); }));
  REQUIRE(refused([&] { rate_penalty(s, offsets, -1); }));
}
