#include <limen/exit/slimmable.hpp>
#include <limen/exit/slimmable_conv.hpp>

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

constexpr SlimmableConvConfig small{.image = {3, 4},
                                    .d_in = 2,
                                    .d_hidden = 17,
                                    .d_out = 3,
                                    .depth = 2,
                                    .stride = {1, 2},
                                    .widths = {0.5, 1.0}};
constexpr SlimmableConvConfig least{.image = {1, 3},
                                    .d_in = 1,
                                    .d_hidden = 8,
                                    .d_out = 1,
                                    .depth = 1,
                                    .kernel = {1, 2},
                                    .padding = {0, 0},
                                    .widths = {1.0},
                                    .switchable = false};
constexpr SlimmableConfig many{.d_in = 5,
                               .d_hidden = 64,
                               .d_out = 3,
                               .widths = {0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0},
                               .switchable = false};

}  // namespace

TEMPLATE_TEST_CASE("Slimmable convolutions keep the laws of layers that measure the batch",
                   "[exit][width][slimmable][laws]", SlimmableConv<small>, SlimmableConv<least>) {
  check::Options options{
      .rows = 5, .training_is_inference = false, .rows_are_independent = false, .most_slopes = 50};
  Random random(options.seed);
  laws::hold(TestType::template with_scalar<double>::initialized(random), options);
  options.slope = 1e3;  // a step that float can see crosses kinks of relu
  laws::hold(TestType::template with_scalar<float>::initialized(random), options);
}

TEST_CASE("A slimmable convolution by hand", "[exit][width][slimmable]") {
  // One pixel, one channel used of eight in, kernel 1 x 1: z = V relu(norm(w x)) + c
  constexpr SlimmableConvConfig c{.image = {1, 2},
                                  .d_in = 1,
                                  .d_hidden = 8,
                                  .d_out = 1,
                                  .depth = 1,
                                  .kernel = {1, 1},
                                  .padding = {0, 0},
                                  .widths = {1.0},
                                  .eps = 0};
  SlimmableConv<c, double> net;
  fill(net.running_var, 4);
  fill(net.scale, 1);
  net.first[0] = 2;
  net.first[1] = -2;
  net.running_mean[0] = 1;
  net.last[0] = 3;
  net.last[1] = 5;
  net.bias[0] = 0.5;
  // x = 3, -1: channel 0 has (6 - 1) / 2, 0 (of -1.5); channel 1 has 0 (of -3), 1; means 1.25, 0.5
  const auto y = net.run(SequenceView<double, 2>(Sequence<double, 2>{{3, -1}}), 0);
  REQUIRE(y(0, 0) == Approx(3 * 1.25 + 5 * 0.5 + 0.5));
  REQUIRE(prepare(net).run(SequenceView<double, 2>(Sequence<double, 2>{{3, -1}}), 0)(0, 0) ==
          Approx(y(0, 0)));
}

TEST_CASE("Images at widths of their own are as if each ran alone", "[exit][width][slimmable]") {
  using Net = SlimmableConv<small, float>;
  Random random(6);
  auto net = Net::initialized(random);
  fill_normal(net.running_mean, 0.1, random);
  const auto fast = prepare(net);
  const auto x = noise<float, Net::in>(7, 1);
  const std::vector<Index> widths{1, 0, 1, 1, 0, 0, 1};
  const auto y = fast.run(SequenceView<float, Net::in>(x), widths);
  const auto slow = net.run(SequenceView<float, Net::in>(x), widths);
  const auto all = forward(fast, x);
  for (Index t = 0; t < 7; ++t) {
    const Index k = widths[static_cast<std::size_t>(t)];
    const auto alone = fast.run(SequenceView<float, Net::in>(x).middle_rows(t, 1), k);
    for (Index o = 0; o < 3; ++o) {
      REQUIRE(alone(0, o) == y(t, o));
      REQUIRE(all(t, k * 3 + o) == y(t, o));
      REQUIRE(slow(t, o) == Approx(y(t, o)).margin(1e-5));
    }
  }
  const Threads two(2);
  const auto again = fast.run(SequenceView<float, Net::in>(x), widths);
  REQUIRE(std::equal(y.data(), y.data() + y.size(), again.data()));
  STATIC_REQUIRE(Net::Shape::macs(1) == 12 * 9 * 2 * 17 + 4 * 9 * 17 * 17 + 17 * 3);
  STATIC_REQUIRE(Net::Shape::macs(0) == 12 * 9 * 2 * 8 + 4 * 9 * 8 * 8 + 8 * 3);
  REQUIRE_THROWS_WITH(Net::Shape::width_of(0.7).value(), has_part("0.500000, 1.000000"));
  REQUIRE_THROWS(fast.run(SequenceView<float, Net::in>(x), 2));
}

TEST_CASE("Slimmable convolutions are PyTorch's", "[exit][width][slimmable][golden]") {
  namespace g = goldens::width::convs;
  golden::check<SlimmableConv<SlimmableConvConfig{.image = {5, 4},
                                                  .d_in = 2,
                                                  .d_hidden = 16,
                                                  .d_out = 3,
                                                  .depth = 2,
                                                  .kernel = {2, 2},
                                                  .stride = {1, 2},
                                                  .widths = {0.5, 1.0}},
                              double>>({g::x, g::y, g::dy, g::dx},
                                       {{g::first, g::d_first},
                                        {g::deep, g::d_deep},
                                        {g::last, g::d_last},
                                        {g::bias, g::d_bias},
                                        {g::scale, g::d_scale},
                                        {g::shift, g::d_shift}},
                                       1e-9);
}

// ── Sandwiches ───────────────────────────────────────────────────────────────────────────────────

TEST_CASE("A sandwich has the narrowest, the widest and two others, each as often",
          "[exit][width][sandwich]") {
  Random random(1);
  std::array<int, 7> times{};
  for (int i = 0; i < 3000; ++i) {
    const auto chosen = sandwich<7>(random);
    REQUIRE(chosen.count() == 4);
    for (std::size_t k = 0; k < 7; ++k) times[k] += chosen.at[k] ? 1 : 0;
  }
  REQUIRE((times[0] == 3000 && times[6] == 3000));
  for (std::size_t k = 1; k < 6; ++k) REQUIRE(times[k] == Approx(3000 * 2 / 5.0).margin(130));
  REQUIRE(sandwich<3>(random).count() == 3);
  REQUIRE(sandwich<1>(random).count() == 1);
  REQUIRE(sandwich<7>(random, 0).count() == 2);
}

TEMPLATE_TEST_CASE("Widths that are not chosen neither run nor learn", "[exit][width][sandwich]",
                   (SlimmableConv<small, double>), (Slimmable<many, double>)) {
  using Net = TestType;
  Random random(3);
  const auto net = Net::initialized(random);
  const auto x = noise<double, Net::in>(6, 2);
  const auto dy = noise<double, Net::out>(6, 4);
  typename Net::Cache whole, one;
  const auto all = net.forward(Sequence<double, Net::in>(x), {}, whole);
  const auto only = ChosenWidths<Net::K>::only(Net::K - 1);
  const auto y = net.forward_some(Sequence<double, Net::in>(x), only, one);
  auto masked = dy;
  for (Index t = 0; t < 6; ++t) {
    for (Index c = 0; c < Net::out; ++c) {
      const bool ran = c >= Net::out - Net::O;
      REQUIRE(y(t, c) == (ran ? all(t, c) : 0));
      if (!ran) masked(t, c) = 0;
    }
  }
  Net a, b;  // the gradient of what ran alone, whatever dy says of the rest
  const auto da = net.backward(SequenceView<double, Net::out>(dy), {}, one, a);
  const auto db = net.backward(SequenceView<double, Net::out>(masked), {}, whole, b);
  REQUIRE(std::equal(da.data(), da.data() + da.size(), db.data()));
  REQUIRE(a.last == b.last);
  REQUIRE(a.first == b.first);
  REQUIRE(a.scale == b.scale);
  for (Index l = 0; l < Net::L; ++l) {  // and their statistics stand still
    REQUIRE(a.running_var[l * Net::K * Net::H] == 0);
    REQUIRE(b.running_var[l * Net::K * Net::H] != 0);
    REQUIRE(a.running_var[(l * Net::K + Net::K - 1) * Net::H] != 0);
  }
}

TEST_CASE("In a sandwich the widest learns from labels and teaches the others",
          "[exit][width][sandwich]") {
  const auto y = noise<double, 9>(4, 3);
  const std::vector<int> labels{0, 2, 1, 1};
  auto chosen = ChosenWidths<3>::only(2);
  chosen.at[0] = true;
  const auto loss = sandwich_loss<3>(y, labels, chosen);
  double wanted = 0;
  for (Index t = 0; t < 4; ++t) {
    double p[2][3], sum[2] = {0, 0};
    for (Index c = 0; c < 3; ++c) {
      sum[0] += p[0][c] = std::exp(y(t, c));
      sum[1] += p[1][c] = std::exp(y(t, 6 + c));
    }
    const int label = labels[static_cast<std::size_t>(t)];
    wanted += -std::log(p[1][label] / sum[1]) / 4;
    for (Index c = 0; c < 3; ++c) {
      const double teacher = p[1][c] / sum[1], own = p[0][c] / sum[0];
      wanted += teacher * std::log(teacher / own) / 4;
      REQUIRE(loss.dy(t, c) == Approx((own - teacher) / 4));
      REQUIRE(loss.dy(t, 3 + c) == 0);
      REQUIRE(loss.dy(t, 6 + c) == Approx((teacher - (c == label ? 1 : 0)) / 4));
    }
  }
  REQUIRE(loss.value == Approx(wanted));
  REQUIRE_THROWS_WITH(sandwich_loss<3>(y, labels, ChosenWidths<3>::only(0)), has_part("widest"));
}

TEMPLATE_TEST_CASE("Measured statistics are those of the data", "[exit][width][sandwich]",
                   (SlimmableConv<small, double>), (Slimmable<many, double>)) {
  using Net = TestType;
  Random random(3);
  auto net = Net::initialized(random);
  fill_normal(net.running_mean, 5, random);
  const auto x = noise<double, Net::in>(12, 2);
  measure_statistics(net, SequenceView<double, Net::in>(x), 12);
  // With the statistics of one batch, inference is what training gave for it, but for the unbiased
  // variance of T P rows.
  typename Net::Cache cache;
  const auto trained = net.forward(Sequence<double, Net::in>(x), {}, cache);
  for (Index l = 0; l < Net::L; ++l) {
    const double n = static_cast<double>(Net::Shape::norm_rows(l, 12));
    for (Index k = 0; k < Net::K; ++k) {
      for (Index i = 0; i < Net::Shape::channels(k); ++i) {
        const Index at = (l * Net::K + k) * Net::H + i;
        REQUIRE(net.running_mean[at] == Approx(cache.at[k][l].mean[i]).margin(1e-12));
        REQUIRE(net.running_var[at] == Approx(cache.at[k][l].var[i] * n / (n - 1)));
        net.running_var[at] = cache.at[k][l].var[i];
      }
    }
  }
  const auto y = forward(net, x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == Approx(trained.data()[i]));
  measure_statistics(net, SequenceView<double, Net::in>(x), 5);  // batches of 5, 5, 2
  const auto z = forward(net, x);
  double off = 0;
  for (Index i = 0; i < y.size(); ++i) off += std::abs(y.data()[i] - z.data()[i]);
  REQUIRE(off / static_cast<double>(y.size()) < 1);
  REQUIRE_THROWS(measure_statistics(net, SequenceView<double, Net::in>(x), 0));
}

TEST_CASE("Trained as a sandwich, every width learns, the seldom chosen too",
          "[exit][width][sandwich]") {
  using Net = Slimmable<many, float>;
  Random random(5);
  auto net = Net::initialized(random);
  const auto x = noise<float, 5>(128, 2);
  std::vector<int> labels;
  for (Index t = 0; t < 128; ++t) labels.push_back(x(t, 0) > x(t, 1) ? 0 : x(t, 2) > 0 ? 1 : 2);
  for (int step = 0; step < 150; ++step) {
    const auto chosen = sandwich<Net::K>(random);
    Net::Cache cache;
    Net gradient;
    const auto y = net.forward_some(Sequence<float, 5>(x), chosen, cache);
    const auto loss = sandwich_loss<Net::K>(y, labels, chosen);
    net.backward(SequenceView<float, Net::out>(loss.dy), {}, cache, gradient);
    for_each_tensor(
        [](auto& w, const auto& d) {
          if constexpr (!is_statistic<std::remove_cvref_t<decltype(w)>>) {
            for (Index i = 0; i < w.size; ++i) w[i] -= 0.2F * d[i];
          }
        },
        net, gradient);
  }
  measure_statistics(net, SequenceView<float, 5>(x), 128);
  const auto fast = prepare(net);
  for (Index k = 0; k < Net::K; ++k) {
    const auto z = fast.run(SequenceView<float, 5>(x), k);
    REQUIRE(count_correct(z, labels) > 115);
  }
}
