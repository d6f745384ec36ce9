// Numbers as spikes: Bernoulli, latency, changes, phases, populations, currents.

#include <limen/spiking/bernoulli_encoder.hpp>
#include <limen/spiking/delta_encoder.hpp>
#include <limen/spiking/encode.hpp>
#include <limen/spiking/integrate_fire.hpp>

#include <limits>
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
std::string error_of(F f) {
  try {
    f();
  } catch (const Exception& e) {
    return e.what();
  }
  return "";
}

template <Index D>
Sequence<float, D> shares(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.uniform());
  return x;
}

}  // namespace

// ── Bernoulli ────────────────────────────────────────────────────────────────────────────────────

static_assert(Layer<BernoulliEncoder<BernoulliEncoderConfig{.d_model = 3}>>);

TEMPLATE_TEST_CASE_SIG("BernoulliEncoder keeps the laws of layers",
                       "[spiking][bernoulli_encoder][laws]", ((BernoulliEncoderConfig C), C),
                       (BernoulliEncoderConfig{.d_model = 1}),
                       (BernoulliEncoderConfig{.d_model = 17, .gain = 0.3, .offset = 0.4}),
                       (BernoulliEncoderConfig{.d_model = 131, .gain = -0.5})) {
  spiking::keeps_the_laws<BernoulliEncoder<C>>({.state_has_slope = false});
}

TEST_CASE("The way back through a coin is that of its mean", "[spiking][bernoulli_encoder][laws]") {
  constexpr BernoulliEncoderConfig c{.d_model = 5, .gain = 0.3, .offset = 0.45, .draw = false};
  laws::hold(BernoulliEncoder<c, double>{}, {.state_has_slope = false});
  constexpr BernoulliEncoderConfig drawn{.d_model = 5, .gain = 0.3, .offset = 0.45};
  const BernoulliEncoder<c, double> mean;
  const BernoulliEncoder<drawn, double> coin;
  Random random(2);
  Sequence<double, 5> x(40), ds(40);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = 3 * random.normal();
  for (Index i = 0; i < x.size(); ++i) ds.data()[i] = random.normal();
  BernoulliEncoder<c, double>::Cache a;
  BernoulliEncoder<drawn, double>::Cache b;
  BernoulliEncoder<c, double> da;
  BernoulliEncoder<drawn, double> db;
  forward(mean, Sequence<double, 5>(x), a);
  const auto s = forward(coin, Sequence<double, 5>(x), b);
  const auto dx = backward(mean, ds, a, da), straight = backward(coin, ds, b, db);
  Index passed = 0;
  for (Index i = 0; i < dx.size(); ++i) {
    REQUIRE(dx.data()[i] == straight.data()[i]);
    REQUIRE((s.data()[i] == 0 || s.data()[i] == 1));
    passed += dx.data()[i] != 0;
  }
  REQUIRE(passed > 20);
  REQUIRE(passed < 180);
}

TEST_CASE("Spikes are a function of seed, stream, step and channel, and these are they",
          "[spiking][bernoulli_encoder]") {
  constexpr BernoulliEncoderConfig c{.d_model = 131, .seed = 77};
  const BernoulliEncoder<c> encoder;
  const auto x = shares<131>(600, 1);
  BernoulliEncoderState at{.t = 1000, .stream = 5};
  const auto s = encoder.forward(x, at);
  REQUIRE(at.t == 1600);
  Index different = 0;
  for (Index t = 0; t < 600; ++t) {
    for (Index c_ = 0; c_ < 131; ++c_) {  // as core/random.hpp says, without the loops over lanes
      const auto words = philox(
          77, (1000 + static_cast<std::uint64_t>(t)) * 33 + static_cast<std::uint64_t>(c_ / 4), 5);
      const float u = static_cast<float>(words[static_cast<std::size_t>(c_ % 4)] >> 8) * 0x1p-24F;
      different += (s(t, c_) == 1.0F) != (u < x(t, c_));
    }
  }
  REQUIRE(different == 0);
  const Threads two(2);
  BernoulliEncoderState again{.t = 1000, .stream = 5};
  const auto parallel = encoder.forward(x, again);
  REQUIRE(std::memcmp(parallel.data(), s.data(), sizeof(float) * 600 * 131) == 0);
  BernoulliEncoderState other{.t = 1000, .stream = 6};
  const auto elsewhere = encoder.forward(x, other);
  REQUIRE(std::memcmp(elsewhere.data(), s.data(), sizeof(float) * 600 * 131) != 0);
}

TEST_CASE("Spikes are as frequent as they are probable, and 0 and 1 are certain",
          "[spiking][bernoulli_encoder]") {
  constexpr BernoulliEncoderConfig c{.d_model = 4};
  const BernoulliEncoder<c> encoder;
  Sequence<float, 4> x(20000);
  for (Index t = 0; t < x.rows(); ++t) {
    x(t, 0) = 0;
    x(t, 1) = 0.2F;
    x(t, 2) = 0.7F;
    x(t, 3) = 1;
  }
  const auto s = forward(encoder, x);
  double sum[4] = {};
  for (Index t = 0; t < x.rows(); ++t) {
    for (Index d = 0; d < 4; ++d) sum[d] += static_cast<double>(s(t, d)) / 20000;
  }
  REQUIRE(sum[0] == 0);
  REQUIRE(std::abs(sum[1] - 0.2) < 0.012);
  REQUIRE(std::abs(sum[2] - 0.7) < 0.013);
  REQUIRE(std::abs(sum[3] - 1) < 1e-9);
}

TEST_CASE("Training draws afresh where there is a generator", "[spiking][bernoulli_encoder]") {
  constexpr BernoulliEncoderConfig c{.d_model = 37};
  const BernoulliEncoder<c> encoder;
  const auto x = shares<37>(20, 3);
  const std::vector<Index> offsets{0, 10, 20};
  Sequence<float, 37> twice(20);
  for (Index t = 0; t < 20; ++t) {
    std::memcpy(twice.row_data(t), x.row(t % 10).data(), sizeof(float) * 37);
  }
  BernoulliEncoder<c>::Cache cache;
  Random random(4);
  Context context{.random = &random};
  const auto a = encoder.forward(Sequence<float, 37>(twice), from_rest(offsets, &context), cache);
  const auto b = encoder.forward(Sequence<float, 37>(twice), from_rest(offsets, &context), cache);
  REQUIRE(std::memcmp(a.data(), b.data(), sizeof(float) * 20 * 37) != 0);
  REQUIRE(std::memcmp(a.row(0).data(), a.row(10).data(), sizeof(float) * 10 * 37) != 0);
}

// ── Latency ──────────────────────────────────────────────────────────────────────────────────────

TEST_CASE("Latencies by hand", "[spiking][encode]") {
  const Sequence<double, 4> x{{0.02, 0.25, 1, 0.01}};
  const auto t = latencies(x, 9, {.code = Latency::charge, .tau = 5, .threshold = 0.01});
  REQUIRE(std::abs(t(0, 0) - 3.4657) < 1e-4);
  REQUIRE(std::abs(t(0, 1) - 0.20411) < 1e-5);
  REQUIRE(std::abs(t(0, 2) - 0.05025) < 1e-5);
  REQUIRE(t(0, 3) == 9);                                     // not above the threshold: never
  const Sequence<double, 5> y{{1, 0.75, 0.5, 0.375, 0.25}};  // T - 1 = 4
  const auto s = latency_code(y, 5);
  const Index expected[] = {0, 1, 2, 2, 3};  // 2.5 goes to the even one
  for (Index c = 0; c < 5; ++c) {
    for (Index k = 0; k < 5; ++k) REQUIRE(s(k, c) == (k == expected[c] ? 1 : 0));
  }
}

TEST_CASE("Latencies are those of snnTorch and SpikingJelly", "[spiking][encode][golden]") {
  const auto code = [](golden::Numbers x, Latency kind, double tau, double threshold) {
    return latency_code(golden::rows_of<double, 5>(x), 12,
                        {.code = kind, .tau = tau, .threshold = threshold});
  };
  golden::same("charge", code(io::latency_charge::x, Latency::charge, 20, 0.0125),
               io::latency_charge::s, 0);
  golden::same("linear", code(io::latency_linear::x, Latency::linear, 1, 0.0125),
               io::latency_linear::s, 0);
  golden::same("jelly linear", code(io::latency_jelly_linear::x, Latency::linear, 1, 0),
               io::latency_jelly_linear::s, 0);
  golden::same("jelly log", code(io::latency_jelly_log::x, Latency::logarithm, 1, 0),
               io::latency_jelly_log::s, 0);
}

TEST_CASE("What a code cannot say is refused", "[spiking][encode]") {
  const Sequence<float, 2> high{{0.5F, 0.5F}, {0.5F, 1.5F}};
  const Sequence<float, 2> nan{{0.5F, std::numeric_limits<float>::quiet_NaN()}};
  const Sequence<float, 2> fine{{0.5F, 0.25F}};
  REQUIRE(error_of([&] { latency_code(high, 4); }).find("number 1 of row 1") != std::string::npos);
  REQUIRE(error_of([&] { latency_code(nan, 4); }).find("nan") != std::string::npos);
  REQUIRE_FALSE(error_of([&] { latency_code(fine, 0); }).empty());
  REQUIRE_FALSE(error_of([&] { latency_code(fine, 4, {.threshold = -1}); }).empty());
  REQUIRE_FALSE(
      error_of([&] { latency_code(fine, 4, {.code = Latency::charge, .threshold = 0}); }).empty());
  REQUIRE_FALSE(error_of([&] { latency_code(fine, 4, {.tau = 0}); }).empty());
  REQUIRE_FALSE(error_of([&] { phase_code(Sequence<float, 1>{{1.0F}}, 4, 2); }).empty());
  REQUIRE_FALSE(error_of([&] { phase_code(fine, 4, 0); }).empty());
  REQUIRE_FALSE(error_of([&] { population_code<3>(nan); }).empty());
  REQUIRE_FALSE(error_of([&] { population_code<3>(fine, {.low = 1, .high = 1}); }).empty());
  REQUIRE_FALSE(error_of([&] { repeated(fine, 0); }).empty());
  REQUIRE_FALSE(error_of([&] { repeated_backward(high, 3); }).empty());
}

// ── Changes ──────────────────────────────────────────────────────────────────────────────────────

using Steps = DeltaEncoder<DeltaEncoderConfig{.d_model = 3, .threshold = 0.25}>;
static_assert(Streaming<Steps> && !Trainable<Steps>);

TEMPLATE_TEST_CASE_SIG(
    "DeltaEncoder keeps the laws of layers", "[spiking][delta_encoder][laws]",
    ((DeltaEncoderConfig C), C), (DeltaEncoderConfig{.d_model = 1, .threshold = 0.5}),
    (DeltaEncoderConfig{.d_model = 7, .threshold = 0.25, .split = true}),
    (DeltaEncoderConfig{.d_model = 5,
                        .threshold = 0.3,
                        .test = SpikeTest::gt,
                        .most_one = true,
                        .from_first = true}),
    (DeltaEncoderConfig{
        .d_model = 4, .threshold = 0.7, .rule = DeltaRule::successive, .down = false})) {
  laws::hold_in_double_and_float<DeltaEncoder<C>>();
}

TEST_CASE("A level that moves with its events forgets no drift", "[spiking][delta_encoder]") {
  constexpr DeltaEncoderConfig c{.d_model = 1, .threshold = 0.125};
  const auto events = forward(DeltaEncoder<c, double>{},
                              Sequence<double, 1>{{0}, {0.15}, {0.3}, {0.375}, {0.0625}, {0.0625}});
  const double expected[] = {0, 1, 1, 1, -2, 0};
  for (Index t = 0; t < 6; ++t) REQUIRE(events(t, 0) == expected[t]);
  constexpr DeltaEncoderConfig one{
      .d_model = 1, .threshold = 0.125, .most_one = true, .from_first = true, .split = true};
  const auto apart = forward(DeltaEncoder<one, double>{},
                             Sequence<double, 1>{{1}, {1.25}, {1.25}, {1.25}, {1.0}, {1.0}, {1.0}});
  const double up[] = {0, 1, 1, 0, 0, 0, 0}, down[] = {0, 0, 0, 0, 1, 1, 0};
  for (Index t = 0; t < 7; ++t) {
    REQUIRE(apart(t, 0) == up[t]);
    REQUIRE(apart(t, 1) == down[t]);
  }
  constexpr DeltaEncoderConfig strict{.d_model = 1, .threshold = 0.125, .test = SpikeTest::gt};
  const auto more = forward(DeltaEncoder<strict, double>{}, Sequence<double, 1>{{0.125}, {0.25}});
  REQUIRE(more(0, 0) == 0);
  REQUIRE(more(1, 0) == 1);
}

TEST_CASE("Events times their threshold follow the input within it", "[spiking][delta_encoder]") {
  constexpr DeltaEncoderConfig c{.d_model = 1, .threshold = 0.1};
  Random random(8);
  Sequence<float, 1> x(500);
  for (Index t = 0; t < 500; ++t) {
    x(t, 0) = (t > 0 ? x(t - 1, 0) : 0) + static_cast<float>(0.2 * random.normal());
  }
  const auto events = forward(DeltaEncoder<c>{}, x);
  double level = 0;
  for (Index t = 0; t < 500; ++t) {
    level += 0.1 * static_cast<double>(events(t, 0));
    REQUIRE(std::abs(level - static_cast<double>(x(t, 0))) < 0.1 + 1e-4);
  }
}

TEST_CASE("Successive changes are those of snnTorch", "[spiking][delta_encoder][golden]") {
  constexpr DeltaEncoderConfig on{
      .d_model = 3, .threshold = 0.125, .rule = DeltaRule::successive, .down = false};
  constexpr DeltaEncoderConfig both{
      .d_model = 3, .threshold = 0.125, .rule = DeltaRule::successive};
  constexpr DeltaEncoderConfig padded{
      .d_model = 3, .threshold = 0.125, .rule = DeltaRule::successive, .from_first = true};
  const auto x = golden::rows_of<double, 3>(io::delta_on::x);
  golden::same("on", forward(DeltaEncoder<on, double>{}, x), io::delta_on::s, 0);
  golden::same("both", forward(DeltaEncoder<both, double>{}, x), io::delta_on_off::s, 0);
  golden::same("padded", forward(DeltaEncoder<padded, double>{}, x), io::delta_padded::s, 0);
}

TEST_CASE("What is no number comes out as none, and is forgotten", "[spiking][delta_encoder]") {
  constexpr DeltaEncoderConfig c{.d_model = 1, .threshold = 0.5};
  constexpr float inf = std::numeric_limits<float>::infinity();
  const auto e = forward(DeltaEncoder<c>{}, Sequence<float, 1>{{1}, {inf}, {1}, {2}});
  REQUIRE(e(0, 0) == 2);
  REQUIRE(std::isnan(e(1, 0)));
  REQUIRE(e(2, 0) == 0);
  REQUIRE(e(3, 0) == 2);
}

// ── Phases, populations, currents ────────────────────────────────────────────────────────────────

TEST_CASE("Phases are the bits of a number", "[spiking][encode]") {
  const auto s = phase_code(Sequence<float, 2>{{0.625F, 0.9375F}}, 6, 4);  // .1010, .1111
  const float a[] = {1, 0, 1, 0, 1, 0};
  for (Index t = 0; t < 6; ++t) {
    REQUIRE(s(t, 0) == a[t]);
    REQUIRE(s(t, 1) == 1);
  }
}

TEST_CASE("A population is highest where its center is near", "[spiking][encode]") {
  const auto p = population_code<3>(Sequence<double, 1>{{0.5}, {0}}, {.low = 0, .high = 1});
  REQUIRE(p(0, 1) == 1);
  REQUIRE(std::abs(p(0, 0) - std::exp(-0.5)) < 1e-15);
  REQUIRE(p(0, 2) == p(0, 0));
  REQUIRE(std::abs(p(1, 2) - std::exp(-2.0)) < 1e-15);
}

TEST_CASE("A current that is repeated has a slope that is summed", "[spiking][encode]") {
  const auto y = repeated(Sequence<double, 2>{{1, 2}, {3, 4}}, 3);
  REQUIRE(y.rows() == 6);
  REQUIRE(y(2, 1) == 2);
  REQUIRE(y(3, 0) == 3);
  const auto dx = repeated_backward(y, 3);
  REQUIRE(dx.rows() == 2);
  REQUIRE(dx(0, 0) == 3);
  REQUIRE(dx(1, 1) == 12);
  REQUIRE(even_offsets(2, 3) == std::vector<Index>{0, 3, 6});
}
