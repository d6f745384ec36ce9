#include <limen/exit/slimmable.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/width.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

template <class Real, Index D>
Sequence<Real, D> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

constexpr SlimmableConfig slim{
    .d_in = 5, .d_hidden = 32, .d_out = 3, .depth = 2, .widths = {0, 0.25, 0.5, 1.0}};
}  // namespace

TEST_CASE("Channels of a width are a multiple of 8 nearby", "[exit][width][slimmable]") {
  STATIC_REQUIRE(slim_channels(0.35 * 64) == 24);
  STATIC_REQUIRE(slim_channels(1) == 8);
  STATIC_REQUIRE(slim_channels(11) == 16);  // 8 would be less than 0.9 of it
  STATIC_REQUIRE(slim_channels(16) == 16);
  STATIC_REQUIRE_FALSE(SlimWidths{0.5, 0.25, 0.75, 1}.sound());
  STATIC_REQUIRE_FALSE(SlimWidths{0.25, 0.5, 0.75, 0.9}.sound());
  STATIC_REQUIRE_FALSE(SlimWidths{0.25, 0, 0.75, 1}.sound());
  STATIC_REQUIRE_FALSE(SlimWidths{0, 0, 0, 0}.sound());
  STATIC_REQUIRE(SlimWidths{0, 0.5, 1}.sound());
  STATIC_REQUIRE(SlimWidths{0, 0.5, 1}[0] == 0.5);
}

TEMPLATE_TEST_CASE("Slimmable networks keep the laws of layers that measure the batch",
                   "[exit][width][slimmable][laws]", Slimmable<slim>,
                   (Slimmable<SlimmableConfig{.d_in = 1,
                                              .d_hidden = 9,
                                              .d_out = 1,
                                              .depth = 1,
                                              .widths = {0, 0, 0.5, 1},
                                              .switchable = false}>)) {
  check::Options options{
      .rows = 6, .training_is_inference = false, .rows_are_independent = false, .most_slopes = 60};
  Random random(options.seed);
  laws::hold(TestType::template with_scalar<double>::initialized(random), options);
  options.slope = 1;  // a step that float can see crosses kinks of relu
  laws::hold(TestType::template with_scalar<float>::initialized(random), options);
}

TEST_CASE("Rows at widths of their own are as if each ran alone", "[exit][width][slimmable]") {
  using Net = Slimmable<slim, float>;
  Random random(6);
  const auto net = Net::initialized(random);
  const auto fast = prepare(net);
  const auto x = noise<float, 5>(7, 1);
  const std::vector<Index> widths{2, 0, 1, 1, 2, 0, 0};
  const auto y = fast.run(x, widths);
  const auto all = forward(fast, x);
  for (Index t = 0; t < 7; ++t) {
    const Index k = widths[static_cast<std::size_t>(t)];
    const auto alone = fast.run(SequenceView<float, 5>(x).middle_rows(t, 1), k);
    for (Index o = 0; o < 3; ++o) {
      REQUIRE(y(t, o) == alone(0, o));
      REQUIRE(y(t, o) == all(t, k * 3 + o));
    }
  }
  REQUIRE_THROWS_WITH(fast.run(x, 3),
                      has_part("Slimmable: width: wanted a number below 3, found 3"));
  REQUIRE_THROWS_WITH(fast.run(x, std::vector<Index>{1}), has_part("widths: wanted 7, found 1"));
  REQUIRE(Net::Shape::width_of(0.5).value() == 1);
  REQUIRE_THROWS_WITH(Net::Shape::width_of(0.3).value(), has_part("has statistics: 0.25"));
}

TEST_CASE("A prepared network has the statistics of each width in its weights",
          "[exit][width][slimmable]") {
  using Net = Slimmable<slim, double>;
  Random random(8);
  auto net = Net::initialized(random);
  for (double& m : net.running_mean.flat()) m = random.normal();
  for (double& v : net.running_var.flat()) v = random.uniform(0.2, 3);
  for (double& v : net.scale.flat()) v = random.uniform(0.5, 2);
  for (double& v : net.shift.flat()) v = random.normal();
  const auto fast = prepare(net);
  const auto x = noise<double, 5>(6, 2);
  for (Index k = 0; k < Net::K; ++k) {
    const auto slow = net.run(x, k), y = fast.run(x, k);
    for (Index i = 0; i < y.size(); ++i)
      REQUIRE(y.data()[i] == Approx(slow.data()[i]).margin(1e-12));
    // and no other width's
    auto other = net;
    for (Index l = 0; l < Net::L; ++l) other.running_mean[(l * Net::K + k) * Net::H] += 5;
    for (Index j = 0; j < Net::K; ++j) {
      const auto z = prepare(other).run(x, j), before = fast.run(x, j);
      REQUIRE(std::equal(z.data(), z.data() + z.size(), before.data()) == (j != k));
    }
  }
}

TEST_CASE("A narrow network leaves the rest of the weights alone", "[exit][width][slimmable]") {
  using Net = Slimmable<slim, double>;
  Random random(6);
  const auto net = Net::initialized(random);
  Net gradient;
  Net::Cache cache;
  forward(net, noise<double, 5>(9, 1), cache);
  auto dy = Sequence<double, 9>::zeros(9);
  for (Index t = 0; t < 9; ++t) dy(t, t % 3) = 1;  // of the narrowest, 8 channels
  backward(net, dy, cache, gradient);
  double used = 0;
  for (Index r = 0; r < 32; ++r) {
    for (Index c = 0; c < 32; ++c) {
      const double d = gradient.deep[r * 32 + c];
      if (r >= 8 || c >= 8) {
        REQUIRE(d == 0);
      } else {
        used += std::abs(d);
      }
    }
  }
  REQUIRE(used > 0);
}

TEST_CASE("Slimmable networks are PyTorch's", "[exit][width][slimmable][golden]") {
  namespace g = goldens::width;
  golden::check<Slimmable<
      SlimmableConfig{.d_in = 3, .d_hidden = 16, .d_out = 2, .depth = 2, .widths = {0, 0, 0.5, 1}},
      double>>({g::slim::x, g::slim::y, g::slim::dy, g::slim::dx},
               {{g::slim::first, g::slim::d_first},
                {g::slim::deep, g::slim::d_deep},
                {g::slim::last, g::slim::d_last},
                {g::slim::bias, g::slim::d_bias},
                {g::slim::scale, g::slim::d_scale},
                {g::slim::shift, g::slim::d_shift}},
               1e-9);
}
