#include <limen/spiking/recurrent.hpp>

#include <cmath>

#include <limen/nn/gru.hpp>
#include <limen/spiking/alif.hpp>
#include <limen/spiking/alpha.hpp>
#include <limen/spiking/eif.hpp>
#include <limen/spiking/glif.hpp>
#include <limen/spiking/plif.hpp>
#include <limen/spiking/synaptic.hpp>

#include "laws.hpp"

using namespace limen;

namespace {

constexpr LifConfig small{.d_model = 1, .threshold = 0.5};
constexpr LifConfig learning{.d_model = 5,
                             .decay = 0.7,
                             .threshold = 0.4,
                             .learn_decay = Learned::each,
                             .learn_threshold = Learned::together};
constexpr LifConfig wide{.d_model = 18, .reset = Reset::to_value};

template <auto Phi>
using Small = Recurrent<Lif<small, double, Phi>>;
template <auto Phi>
using Learning = Recurrent<Synaptic<Lif<learning, double, Phi>>, RecurrentConfig{.bias = true}>;
template <auto Phi>
using Wide = Recurrent<Lif<wide, double, Phi>, RecurrentConfig{.self_connections = true}>;

}  // namespace

TEST_CASE("Recurrent keeps the laws of layers", "[spiking][recurrent][laws]") {
  spiking::twin_keeps_the_laws<Small<Soft{ArcTan{}}>>();
  spiking::twin_keeps_the_laws<Learning<Soft{ArcTan{}}>>();
  spiking::twin_keeps_the_laws<Wide<Soft{Sigmoid{}}>>();
  spiking::keeps_the_laws<Wide<ArcTan{}>>();
}

TEST_CASE("Recurrent keeps the laws of layers around other neurons", "[spiking][recurrent][laws]") {
  constexpr AlphaConfig alpha{.d_model = 3, .threshold = 0.2};
  spiking::twin_keeps_the_laws<Recurrent<Alpha<alpha, double, Soft{ArcTan{}}>>>({}, true);
  spiking::twin_keeps_the_laws<Recurrent<Gru<GruConfig{.d_in = 4, .d_hidden = 4}, double>>>();
}

TEST_CASE("Recurrent keeps the laws of layers around neurons that tire, start, learn their leak",
          "[spiking][recurrent][laws]") {
  constexpr AlifConfig tiring{.d_model = 5,
                              .decay = 0.7,
                              .threshold = 0.4,
                              .adaptation_decay = 0.8,
                              .adaptation = 0.3,
                              .learn = Learned::each};
  constexpr EifConfig starting{.d_model = 3, .tau = 6, .adapts = true, .tau_w = 4, .jump = 0.2};
  constexpr GlifConfig gated{.d_model = 4};
  constexpr PlifConfig leaking{.d_model = 4, .tau = 3, .threshold = 0.5};
  spiking::twin_keeps_the_laws<Recurrent<Alif<tiring, double, Soft{ArcTan{}}>>>();
  spiking::keeps_the_laws<Recurrent<Alif<tiring>>>();
  spiking::twin_keeps_the_laws<Recurrent<Eif<starting, double, Soft{ArcTan{}}>>>(
      {.amplitude = 0.5});
  spiking::twin_keeps_the_laws<Recurrent<Glif<gated, double, Soft{ArcTan{}}>>>();
  spiking::twin_keeps_the_laws<Recurrent<Plif<leaking, double, Soft{ArcTan{}}>>>();
}

TEST_CASE("Spikes come back one step later: a case by hand", "[spiking][recurrent]") {
  Recurrent<Lif<LifConfig{.d_model = 2, .decay = 0.5}, double>> pair;
  pair.recurrent(1, 0) = 1;   // the first makes the second fire
  pair.recurrent(0, 1) = -1;  // which silences the first
  pair.recurrent(0, 0) = 7;   // no neuron hears itself
  const auto s = forward(pair, Sequence<double, 2>{{1, 0}, {0.5, 0}, {1, 0}, {1, 0}});
  const double first[] = {1, 0, 0, 1}, second[] = {0, 1, 0, 0};
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(s(t, 0) == first[t]);
    REQUIRE(s(t, 1) == second[t]);
  }
}

TEST_CASE("No gradient reaches the diagonal of the recurrent weights", "[spiking][recurrent]") {
  using L = Recurrent<Lif<learning, double>>;
  Random random(2);
  const L layer = L::initialized(random);
  L gradient;
  L::Cache cache;
  Sequence<double, 5> x(9), ds(9);
  for (Index i = 0; i < x.size(); ++i)
    x.data()[i] = random.normal(), ds.data()[i] = random.normal();
  forward(layer, std::move(x), cache);
  backward(layer, ds, cache, gradient);
  double others = 0;
  for (Index i = 0; i < 5; ++i) {
    REQUIRE(gradient.recurrent(i, i) == 0);
    for (Index j = 0; j < 5; ++j) others += std::abs(gradient.recurrent(i, j));
  }
  REQUIRE(others > 0);
}
