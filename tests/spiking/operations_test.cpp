#include <limen/spiking/operations.hpp>

#include "../catch.hpp"

#include <limen/compose/sequential.hpp>
#include <limen/spiking/lif.hpp>
#include <limen/spiking/spike_linear.hpp>

using namespace limen;

TEST_CASE("The analog first layer of a spiking network costs the most", "[spiking][operations]") {
  // 784-100-10, ten steps of direct coding, hidden neurons that fire in one step of ten.
  const Operations analog{.mac = 784.0 * 100 * 10}, spiking{.ac = 0.1 * 10 * 100 * 10};
  REQUIRE(analog.picojoule() == Approx(3.6064e6));
  REQUIRE(spiking.picojoule() == Approx(900));
  Operations sum = analog;
  sum += spiking;
  REQUIRE(sum.picojoule() == Approx(3.6064e6 + 900));
  REQUIRE(break_even_rate(1) == Approx(5.111).epsilon(1e-3));
  REQUIRE(break_even_rate(100) == Approx(0.0511).epsilon(1e-3));
}

TEMPLATE_TEST_CASE_SIG("What spikes cost is counted by layer, whichever way it ran",
                       "[spiking][operations]", ((Execution E), E), Execution::dense,
                       Execution::event, Execution::automatic) {
  using Net = Sequential<
      SpikeLinear<SpikeLinearConfig{.d_in = 4, .d_out = 3, .bias = false, .execution = E}>,
      Lif<LifConfig{.d_model = 3}>,
      SpikeLinear<SpikeLinearConfig{.d_in = 3, .d_out = 20, .execution = E, .graded = true}>>;
  Net net;
  for (float& w : get<0>(net.layers).weight.flat()) w = 1;  // one spike and all three fire
  const Sequence<float, 4> s{{1, 0, 0, 0}, {0, 0, 0, 0}, {1, 1, 0, 0}};
  SpikeMeasures measures;
  Context run{.taps = &measures};
  const Index offsets[] = {0, 3};
  prepare(net).forward(s, from_rest(offsets, &run));
  REQUIRE(measures.layers().size() == 2);
  const auto &first = measures.layers()[0], &second = measures.layers()[1];
  REQUIRE(first.name == "0");
  REQUIRE(second.name == "2");
  REQUIRE(first.rows == 3);
  REQUIRE(first.spikes == 3);
  REQUIRE(first.rate() == Approx(0.25));
  REQUIRE(first.operations().ac == 9);
  REQUIRE(first.operations().mac == 0);
  REQUIRE(first.operations().updates == 9);
  REQUIRE(second.spikes == 6);
  REQUIRE(second.operations().ac == 120);
  REQUIRE(measures.operations().ac == 129);
  REQUIRE(measures.dense().mac == static_cast<double>(Net::macs(3) - 9));  // 9: the neurons
  if (E == Execution::dense) REQUIRE(first.followed == 0);
  if (E == Execution::event) REQUIRE(first.followed == 3);

  typename Net::Cache cache;  // training tells it too
  net.forward(Sequence<float, 4>(s), from_rest(offsets, &run), cache);
  REQUIRE(measures.layers()[0].spikes == 6);
  measures.clear();
  REQUIRE(measures.layers().empty());
}

TEST_CASE("Inputs that are numbers are multiplied, and counted so", "[spiking][operations]") {
  using L = SpikeLinear<SpikeLinearConfig{.d_in = 4, .d_out = 5, .graded = true}>;
  SpikeMeasures measures;
  Context run{.taps = &measures};
  const Index offsets[] = {0, 2};
  L().forward(Sequence<float, 4>{{0.5f, 0, 2, 1}, {0, 0, 0, 1}}, from_rest(offsets, &run));
  REQUIRE(measures.layers().size() == 1);
  REQUIRE(measures.operations().mac == 20);
  REQUIRE(measures.operations().ac == 0);
}
