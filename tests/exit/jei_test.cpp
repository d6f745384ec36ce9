#include <limen/exit/jei_training.hpp>

#include <limen/exit/budget.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/train/adamw.hpp>

#include "../catch.hpp"
#include "../compose/layers.hpp"

using namespace limen;
using namespace parts;

namespace {

double logit(double p) { return std::log(p / (1 - p)); }
/// Of class 0 over class 1, with this cross entropy.
double wrong_by(double loss) { return -std::log(std::expm1(loss)); }

template <std::size_t G>
std::array<double, G> random_gates(Random& random) {
  std::array<double, G> g;
  for (double& v : g) v = random.uniform();
  return g;
}

/// Gates that open as told, whatever they see.
template <Index G>
ExitGates<G, double> constant(const std::array<double, std::size_t{G}>& a) {
  ExitGates<G, double> gates;
  for (Index l = 0; l < G; ++l) gates.bias[l] = a[static_cast<std::size_t>(l)];
  return gates;
}

const JeiOptions<3> given{.cost = {.2, .6, 1}, .lambda = 1, .balance = {2, 3}};

using Net =
    EarlyExitWith<EarlyExitConfig{.frozen = true}, Map<2, 12>, Bend<12>, Exit<Map<12, 2>>,
                  Map<12, 12>, Bend<12>, Exit<Map<12, 2>>, Map<12, 12>, Bend<12>, Exit<Map<12, 2>>>;

struct Points {
  Sequence<float, 2> x;
  std::vector<int> labels;
  LabelledRows<float, 2> rows() const { return {x, labels}; }
};
/// A board of four fields: easy far from their edges.
Points points(Index n, std::uint64_t seed) {
  Random random(seed);
  Points p{noise<float, 2>(n, random), {}};
  for (Index t = 0; t < n; ++t) p.labels.push_back(p.x(t, 0) * p.x(t, 1) > 0);
  return p;
}

template <class M>
bool same(const M& a, const M& b) {
  bool same = true;
  for_each_tensor([&](const auto& u, const auto& v) { same = same && u == v; }, a, b);
  return same;
}

}  // namespace

TEST_CASE("Features of (2, 1, 0) are its scores, at any number of classes", "[exit][jei]") {
  const double z[] = {2, 1, 0};
  const auto f = exit_features(std::span<const double>(z));
  const double known[] = {0.665241, 0.832396, 0.420512, 0.441057};
  for (std::size_t i = 0; i < 4; ++i) REQUIRE(f[i] == Approx(known[i]).epsilon(1e-5));
  Random random(2);
  for (std::size_t n = 2; n < 40; ++n) {
    std::vector<double> row(n);
    for (double& v : row) v = 3 * random.normal();
    const std::span<const double> s(row);
    const auto g = exit_features(s);
    INFO(n << " classes");
    REQUIRE(g[0] == Approx(max_probability(s)).epsilon(1e-12));
    REQUIRE(g[1] == Approx(entropy(s)).margin(1e-12));
    REQUIRE(g[2] == Approx(probability_margin(s)).margin(1e-12));
    REQUIRE(g[3] == Approx(power_entropy(s)).margin(1e-12));
  }
  const double bad[] = {1, std::numeric_limits<double>::quiet_NaN()};
  for (const double v : exit_features(std::span<const double>(bad))) REQUIRE(std::isnan(v));
}

TEST_CASE("Gates of 0.3, 0.5, 0.4 leave 0.2 for the third and nothing for the end", "[exit][jei]") {
  const auto p = exit_law<3>({.3, .5, .4});
  const double known[] = {.3, .5, .2, 0};
  for (std::size_t l = 0; l < 4; ++l) REQUIRE(p[l] == Approx(known[l]).margin(1e-15));
  REQUIRE(exit_hazard(.3, 0) == Approx(.3));
  REQUIRE(exit_hazard(.5, .3) == Approx(.714286).epsilon(1e-6));
  REQUIRE(exit_hazard(.4, .8) == 1);
  REQUIRE(exit_hazard(.4, 1.2) == 1);
}

TEST_CASE("The exit law sums to 1, and hazards are its quotients", "[exit][jei]") {
  Random random(7);
  for (int n = 0; n < 10000; ++n) {
    const auto g = random_gates<5>(random);
    const auto p = exit_law(g);
    double sum = 0, spent = 0, stays = 1;
    for (std::size_t l = 0; l < 5; ++l) {
      const double h = exit_hazard(g[l], spent);
      REQUIRE(p[l] == Approx(h * stays).margin(1e-12));
      sum += p[l];
      spent += g[l];
      stays *= 1 - h;
    }
    REQUIRE(sum + p[5] == Approx(1).epsilon(1e-12));
  }
  const auto none = exit_law<2>({std::numeric_limits<double>::quiet_NaN(), 0.9});
  REQUIRE(none == std::array<double, 3>{0, 0, 1});
}

TEST_CASE("A row leaves at the first gate whose hazard reaches a half", "[exit][jei]") {
  Random random(3);
  const auto net = prepare(Net::initialized(random));
  const auto x = noise<float, 2>(300, random);
  const auto all = forward(net, x);
  ExitGates<2> gates;  // open where max p is above its mean
  for (Index l = 0; l < 2; ++l) {
    double mean = 0;
    for (Index t = 0; t < 300; ++t) {
      mean += max_probability(std::span<const float>(all.row(t).data() + 2 * l, 2)) / 300;
    }
    gates.weight(l, 0) = 40;
    gates.bias[l] = static_cast<float>(-40 * mean);
  }
  const auto left = net.run(x, {}, gates);
  for (const Index n : left.count) REQUIRE(n > 0);
  for (Index t = 0; t < 300; ++t) {
    const auto g = gates.open(all.row(t).data(), 2);
    const Index k = exit_hazard(g[0], 0) >= .5 ? 0 : exit_hazard(g[1], g[0]) >= .5 ? 1 : 2;
    REQUIRE(left.exit[t] == k);
    REQUIRE(net.run(middle_rows(x, t, 1), {}, gates).exit[0] == k);
    Net::State none;
    REQUIRE(net.step(x.row(t), none, gates).exit == k);
  }
}

TEST_CASE("Cross entropies of 1.2, 0.5, 0.4 at costs of 0.2, 0.6, 1 should leave at the second",
          "[exit][jei]") {
  const Sequence<double, 6> y{{wrong_by(1.2), 0, wrong_by(.5), 0, wrong_by(.4), 0}};
  const std::vector<int> labels{0};
  REQUIRE(detail::jei_best<3>(y.row(0).data(), 2, 0, given) == 1);
  ExitGates<2, double> gradient;
  const auto loss = jei_gate_loss<2, double, 6>(constant<2>({0, 1}), y, labels, given, gradient);
  REQUIRE(loss.value == Approx(.816466).epsilon(1e-6));
  REQUIRE(gradient.bias[0] == Approx(.25));
  REQUIRE(gradient.bias[1] == Approx(-.403412).epsilon(1e-5));
  const auto f = exit_features(std::span<const double>(y.row(0).data(), 2));
  for (Index i = 0; i < 4; ++i) {
    REQUIRE(gradient.weight(0, i) == Approx(.25 * f[static_cast<std::size_t>(i)]));
  }
}

TEST_CASE("Heads are weighed by the exit law, the ratio is a constant", "[exit][jei]") {
  const Sequence<double, 6> y{{wrong_by(1.2), 0, wrong_by(.5), 0, wrong_by(.4), 0}};
  const std::vector<int> labels{0};
  const auto gates = constant<2>({logit(.3), logit(.5)});
  const auto ratio = jei_head_loss(gates, y, labels, JeiNormalise::detached_ratio);
  const double factor[] = {.418033, .696721}, wrong[] = {1.2, .5}, p[] = {.3, .5};
  const auto plain = jei_head_loss(gates, y, labels, JeiNormalise::none);
  for (Index l = 0; l < 2; ++l) {
    const double slope = std::exp(-wrong[l]) - 1;
    REQUIRE(ratio.dy(0, 2 * l) == Approx(factor[l] * slope).epsilon(1e-5));
    REQUIRE(plain.dy(0, 2 * l) == Approx(p[l] * slope));
  }
  REQUIRE(plain.value == Approx(.3 * 1.2 + .5 * .5));
  REQUIRE(ratio.value == Approx((1.2 + .5) / 2));  // what cancels if the ratio is no constant
  REQUIRE(ratio.dy(0, 4) == 0);                    // the last head is frozen
}

TEST_CASE("Gradients of gates and heads are slopes", "[exit][jei]") {
  Random random(5);
  auto y = noise<double, 12>(7, random);
  const std::vector<int> labels{0, 3, -1, 1, 2, 2, 0};
  auto gates = ExitGates<2, double>::initialized(random);
  ExitGates<2, double> gradient, ignored;
  jei_gate_loss<2, double, 12>(gates, y, labels, given, gradient);
  for_each_tensor(
      [&](auto& w, const auto& d) {
        for (Index i = 0; i < w.size; ++i) {
          const double before = w[i], h = 1e-6;
          w[i] = before + h;
          const double above = jei_gate_loss<2, double, 12>(gates, y, labels, given, ignored).value;
          w[i] = before - h;
          const double below = jei_gate_loss<2, double, 12>(gates, y, labels, given, ignored).value;
          w[i] = before;
          REQUIRE(d[i] == Approx((above - below) / (2 * h)).margin(1e-9));
        }
      },
      gates, gradient);
  const auto fixed = constant<2>({logit(.3), logit(.6)});  // whatever z is, so that slopes are seen
  const auto loss = jei_head_loss(fixed, y, labels, JeiNormalise::none);
  for (Index i = 0; i < y.size(); ++i) {
    const double before = y.data()[i], h = 1e-6;
    y.data()[i] = before + h;
    const double above = jei_head_loss(fixed, y, labels, JeiNormalise::none).value;
    y.data()[i] = before - h;
    const double below = jei_head_loss(fixed, y, labels, JeiNormalise::none).value;
    y.data()[i] = before;
    REQUIRE(loss.dy.data()[i] == Approx((above - below) / (2 * h)).margin(1e-9));
  }
}

TEST_CASE("Rows that should leave are few at some exits, and count more there", "[exit][jei]") {
  // 1 of 8 rows should leave at the first, none at the second
  Sequence<double, 6> y(8);
  for (Index t = 0; t < 8; ++t) {
    const double first = t == 0 ? .1 : 9;
    const double row[] = {wrong_by(first), 0, wrong_by(9), 0, wrong_by(.1), 0};
    std::copy_n(row, 6, y.row_data(t));
  }
  const std::vector<int> labels(8, 0);
  const auto r = jei_balance<3>(SequenceView<double, 6>(y), labels, given);
  REQUIRE(r[0] == Approx(std::min(7.0, 5.0)));
  REQUIRE(r[1] == 5);
  y(1, 0) = y(2, 0) = y(3, 0) = wrong_by(.1);
  REQUIRE(jei_balance<3>(SequenceView<double, 6>(y), labels, given)[0] == Approx(1));
}

TEST_CASE("One side moves while the other stands, layers and the last head never move",
          "[exit][jei]") {
  Random random(1);
  auto net = Net::initialized(random);
  auto gates = ExitGates<2>::initialized(random);
  const auto data = points(64, 2);
  JeiTraining training(net, gates, jei_costs(exit_macs<Net>(), 2));
  for (int i = 0; i < 3; ++i) {
    const Net net_before = net;
    auto gates_before = gates;
    training.gate_step(data.rows());
    REQUIRE(same(net, net_before));
    REQUIRE_FALSE(same(gates, gates_before));
    gates_before = gates;
    training.head_step(data.rows());
    REQUIRE(same(gates, gates_before));
    REQUIRE_FALSE(same(get<2>(net.parts), get<2>(net_before.parts)));
    REQUIRE_FALSE(same(get<5>(net.parts), get<5>(net_before.parts)));
    REQUIRE(same(get<8>(net.parts), get<8>(net_before.parts)));
    REQUIRE(same(get<0>(net.parts), get<0>(net_before.parts)));
    REQUIRE(same(get<3>(net.parts), get<3>(net_before.parts)));
  }
}

TEST_CASE("The price of work decides where rows leave", "[exit][jei]") {
  const auto data = points(1000, 3), valid = points(400, 4), test = points(1000, 5);
  using Free = EarlyExit<Map<2, 12>, Bend<12>, Exit<Map<12, 2>>, Map<12, 12>, Bend<12>,
                         Exit<Map<12, 2>>, Map<12, 12>, Bend<12>, Exit<Map<12, 2>>>;
  Random random(1);
  auto whole = Free::initialized(random);
  AdamW<Free> step({.rate = 0.01});
  for (int i = 0; i < 500; ++i) {  // first the network that is there already
    Free::Cache cache;
    Free gradient;
    const auto y = forward(whole, Sequence<float, 2>(data.x), cache);
    backward(whole, exit_loss<3>(y, data.labels, {.weights = {0, 0, 1}}).dy, cache, gradient);
    step.update(whole, gradient);
  }
  constexpr auto cost = jei_costs(exit_macs<Net>(), 2);
  const auto trained = [&](double lambda) {
    Net net{whole.parts};
    Random own(8);
    auto gates = ExitGates<2>::initialized(own);
    JeiTraining training(net, gates, cost,
                         {.lambda = lambda, .epochs = 12, .block = 4, .rate = 0.1});
    REQUIRE(training.fit(data.rows(), valid.rows()));
    const auto left = prepare(net).run(test.x, {}, gates);
    std::array<double, 2> found{0, static_cast<double>(count_correct(left.logits, test.labels))};
    for (std::size_t k = 0; k < 3; ++k) found[0] += cost[k] * static_cast<double>(left.count[k]);
    for (double& v : found) v /= 1000;
    return found;  // mean cost, accuracy
  };
  const auto free = trained(0), some = trained(0.4), dear = trained(20);
  INFO("cost, accuracy: " << free[0] << ' ' << free[1] << ", " << some[0] << ' ' << some[1] << ", "
                          << dear[0] << ' ' << dear[1]);
  REQUIRE(dear[0] == Approx(cost[0]));  // all leave at once
  REQUIRE(some[0] > dear[0] + 0.05);
  REQUIRE(free[0] > some[0] + 0.05);
  REQUIRE(some[1] > dear[1] + 0.005);
  REQUIRE(free[1] > 0.9);
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Prices below 0, costs that do not ascend to 1, and gates of another network are errors",
          "[exit][jei]") {
  Random random(1);
  auto net = Net::initialized(random);
  auto gates = ExitGates<2>::initialized(random);
  const auto data = points(8, 2);
  const auto fit = [&](std::array<double, 3> cost, double lambda) {
    return JeiTraining(net, gates, cost, {.lambda = lambda}).fit(data.rows(), data.rows());
  };
  REQUIRE_THAT(fit({.2, .5, 1}, -1).error().message(), has_part(".lambda"));
  REQUIRE_THAT(fit({.2, .2, 1}, 1).error().message(), has_part("exit 1"));
  REQUIRE_THAT(fit({.2, .5, .9}, 1).error().message(), has_part("1, the whole network"));
  REQUIRE_THROWS_WITH(net.run(data.x, {}, ExitGates<3>()), has_part("4, one more than gates"));
  REQUIRE_FALSE(ExitGates<1>().check(2, 1));
}
#endif

TEST_CASE("A gate whose hazard is a half is open", "[exit][jei]") {
  const double z[] = {1, 0};
  const ExitGates<1, double> gates{};  // σ(0)
  ExitGates<1, double>::Memory row{};
  REQUIRE(gates(std::span<const double>(z), 0, row));
}
