#include <limen/exit/slowdown.hpp>

#include <limen/exit/caps.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/train/adamw.hpp>

#include "../catch.hpp"
#include "../compose/layers.hpp"

using namespace limen;
using namespace parts;

namespace {

using Net = EarlyExit<Map<8, 24>, Bend<24>, Exit<Map<24, 3>>, Map<24, 24>, Bend<24>,
                      Exit<Map<24, 3>>, Map<24, 24>, Bend<24>, Exit<Map<24, 3>>>;
constexpr auto cost = exit_macs<Net>();
constexpr double none = std::numeric_limits<double>::quiet_NaN();

/// Three clouds within 0..1.
struct Clouds {
  Sequence<float, 8> x;
  std::vector<int> labels;
};
Clouds clouds(Index n, std::uint64_t seed) {
  Random centres(1), random(seed);
  float centre[3][8];
  for (auto& c : centre) {
    for (float& v : c) v = static_cast<float>(centres.uniform(0.35, 0.65));
  }
  Clouds all{Sequence<float, 8>(n), {}};
  for (Index t = 0; t < n; ++t) {
    all.labels.push_back(static_cast<int>(t % 3));
    for (Index d = 0; d < 8; ++d) {
      const double v = static_cast<double>(centre[t % 3][d]) + 0.05 * random.normal();
      all.x(t, d) = static_cast<float>(std::clamp(v, 0.0, 1.0));
    }
  }
  return all;
}

Net trained() {
  Random random(2);
  auto net = Net::initialized(random);
  AdamW<Net> step({.rate = 0.01});
  const auto data = clouds(300, 3);
  for (int i = 0; i < 200; ++i) {
    Net::Cache cache;
    Net gradient;
    const auto y = forward(net, Sequence<float, 8>(data.x), cache);
    backward(net, exit_loss<3>(y, data.labels).dy, cache, gradient);
    step.update(net, gradient);
  }
  return net;
}

double mean_cost(const Net& net, const Sequence<float, 8>& x, const auto& policy) {
  return mean_exit_cost(net.run(x, {}, policy), cost);
}

const SlowdownOptions strong{.radius = 0.1, .step = 0.01, .least = 0, .greatest = 1};

}  // namespace

TEST_CASE("A head that says 0.9 and 0.1 is 1.204 from knowing nothing", "[exit][slowdown]") {
  const double z = std::log(9.0);
  const Sequence<double, 4> y{{z, 0, 5, 1}};
  const auto loss = slowdown_loss<2>(SequenceView<double, 4>(y));
  REQUIRE(loss.value == Approx(1.203973).epsilon(1e-6));
  REQUIRE(loss.dy(0, 0) == Approx(.4));
  REQUIRE(loss.dy(0, 1) == Approx(-.4));
  REQUIRE(loss.dy(0, 2) == 0);  // the last head may be as sure as it likes
  const std::vector<int> labels{1};
  const auto kept = slowdown_loss<2>(SequenceView<double, 4>(y), labels, 2);
  REQUIRE(kept.value == Approx(1.203973 + 2 * (4 + std::log1p(std::exp(-4.0)))).epsilon(1e-6));
  REQUIRE(kept.dy(0, 3) == Approx(2 / (1 + std::exp(4.0)) - 2));
}

TEST_CASE("The attack makes rows slow, and a budget holds against it", "[exit][slowdown]") {
  const Net net = trained();
  const auto data = clouds(120, 9);
  const ConfidenceAtLeast policy{0.8};
  const auto slow = slowdown_attack(net, data.x, strong);
  for (Index i = 0; i < slow.size(); ++i) {  // near by, and an input
    REQUIRE(std::abs(slow.data()[i] - data.x.data()[i]) <= 0.1F + 1e-6F);
    REQUIRE(slow.data()[i] >= 0);
    REQUIRE(slow.data()[i] <= 1);
  }
  const double clean = mean_cost(net, data.x, policy), attacked = mean_cost(net, slow, policy);
  INFO("of " << cost[2] << ": " << clean << " clean, " << attacked << " attacked");
  REQUIRE(clean < 0.5 * cost[2]);
  REQUIRE(attacked > 0.8 * cost[2]);
  REQUIRE(exit_efficacy(net.run(data.x, {}, policy), cost) >
          2 * exit_efficacy(net.run(slow, {}, policy), cost));

  // each row for itself: none goes past what it may cost
  const auto capped = any_of(policy, RowBudget{cost, cost[1]});
  const auto held = net.run(slow, {}, capped);
  REQUIRE(held.count[2] == 0);
  REQUIRE(held.count[1] > 100);
  const auto easy = net.run(data.x, {}, capped);
  REQUIRE(easy.count[0] == net.run(data.x, {}, policy).count[0]);  // those who leave lose nothing

  // all together: what easy rows save the others may have, and no more
  for (const double share : {0.35, 0.5, 0.7, 1.0}) {
    const BatchBudget together{policy, cost, share * cost[2]};
    const auto left = net.run(slow, {}, together);
    REQUIRE(static_cast<double>(executed_macs<Net>(left)) <= 120 * share * cost[2]);
    const double least = std::min(attacked, share * cost[2] - (cost[2] - cost[0]) / 120);
    REQUIRE(mean_exit_cost(left, cost) >= least - 1e-9);  // and it is spent
  }
}

TEST_CASE("One offset for all rows slows many down", "[exit][slowdown]") {
  const Net net = trained();
  const auto data = clouds(120, 9);
  auto options = strong;
  options.universal = true;
  const auto slow = slowdown_attack(net, data.x, options);
  for (Index t = 0; t < 120; ++t) {
    for (Index d = 0; d < 8; ++d) {
      const float by = slow(t, d) - data.x(t, d);
      if (slow(t, d) > 0 && slow(t, d) < 1) {
        REQUIRE(by == Approx(slow(0, d) - data.x(0, d)).margin(1e-6));
      }
    }
  }
  const ConfidenceAtLeast policy{0.8};
  REQUIRE(mean_cost(net, slow, policy) > mean_cost(net, data.x, policy));
}

TEST_CASE("What the last head says can be kept", "[exit][slowdown]") {
  const Net net = trained();
  const auto data = clouds(120, 9);
  const auto same = [&](double keep) {
    auto options = strong;
    options.keep = keep;
    const auto slow = slowdown_attack(net, data.x, options);
    const auto a = net.run(data.x, {}, NeverLeave{}), b = net.run(slow, {}, NeverLeave{});
    Index n = 0;
    for (Index t = 0; t < 120; ++t) {
      const auto of = [&](const auto& left) {
        return predicted_class(std::span<const float>(left.logits.row(t).data(), 3));
      };
      n += of(a) == of(b);
    }
    return n;
  };
  REQUIRE(same(5) > same(0));
}

TEST_CASE("The gradient of the slowdown loss is its slope", "[exit][slowdown]") {
  Random random(3);
  auto y = noise<double, 12>(4, random);
  const std::vector<int> labels{1, 3, 0, 2};
  const auto value = [&] {
    return slowdown_loss<3>(SequenceView<double, 12>(y), labels, 0.7).value;
  };
  const auto loss = slowdown_loss<3>(SequenceView<double, 12>(y), labels, 0.7);
  for (Index i = 0; i < y.size(); ++i) {
    const double before = y.data()[i], h = 1e-6;
    y.data()[i] = before + h;
    const double above = value();
    y.data()[i] = before - h;
    const double below = value();
    y.data()[i] = before;
    REQUIRE(loss.dy.data()[i] == Approx((above - below) / (2 * h)).margin(1e-8));
  }
}

TEST_CASE("No input exceeds a budget: noise, NaN, infinities, any size of batch",
          "[exit][slowdown]") {
  const Net net = trained();
  Random random(4);
  const float strange[] = {0, 1e30F, -1e30F, std::numeric_limits<float>::infinity(),
                           static_cast<float>(none)};
  for (Index rows = 1; rows < 40; ++rows) {
    Sequence<float, 8> x(rows);
    for (Index i = 0; i < x.size(); ++i) {
      x.data()[i] =
          random.uniform() < 0.02 ? strange[random.below(5)] : static_cast<float>(random.normal());
    }
    const double budget = random.uniform(cost[0], cost[2]);
    const auto row = net.run(x, {}, any_of(NeverLeave{}, RowBudget{cost, budget}));
    for (Index t = 0; t < rows; ++t) {
      REQUIRE(cost[static_cast<std::size_t>(row.exit[t])] <= budget);
      Net::State state;
      const auto one = net.step(x.row(t), state, any_of(NeverLeave{}, RowBudget{cost, budget}));
      REQUIRE(one.exit == row.exit[t]);
      REQUIRE(one.exit == net.step(x.row(t), state, BatchBudget{NeverLeave{}, cost, budget}).exit);
    }
    const auto batch = net.run(x, {}, BatchBudget{ConfidenceAtLeast{1.0}, cost, budget});
    const auto spent = static_cast<double>(executed_macs<Net>(batch));
    REQUIRE(spent <= budget * static_cast<double>(rows));
    REQUIRE(batch.count[0] + batch.count[1] + batch.count[2] == rows);
  }
}

TEST_CASE("Where only some may stay the surest go, the first of equals first", "[exit][caps]") {
  using Tiny = EarlyExit<Map<2, 2>, Exit<Map<2, 2>>, Map<2, 2>, Exit<Map<2, 2>>>;
  Tiny net;  // all layers are the identity
  for_each_parameter(
      [](const std::string& name, auto& w) {
        if (name.ends_with("weight")) w[0] = w[3] = 1;
      },
      net);
  constexpr std::array<double, 2> c{1, 2};
  const Sequence<float, 2> x{{1, 0}, {3, 0}, {0, 2}, {0, 3}, {none, 0}, {0.1F, 0}};
  // mean of 1.5: three of six may stay. Rows 1 and 3 are the surest, then row 2; NaN is not sure.
  const auto left = net.run(x, {}, BatchBudget{NeverLeave{}, c, 1.5});
  const Index exits[] = {1, 0, 0, 0, 1, 1};
  for (Index t = 0; t < 6; ++t) REQUIRE(left.exit[t] == exits[t]);
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(left.logits(t, 0) == x(t, 0));
    REQUIRE(left.logits(t, 1) == x(t, 1));
  }
  const Sequence<float, 2> equal{{1, 0}, {1, 0}, {1, 0}};
  const auto first = net.run(equal, {}, BatchBudget{NeverLeave{}, c, 1.4});
  REQUIRE(first.exit[0] == 0);
  REQUIRE(first.exit[1] == 0);
  REQUIRE(first.exit[2] == 1);
}

#if LIMEN_EXCEPTIONS
TEST_CASE("A budget below the first exit, or inputs without a range, are errors",
          "[exit][slowdown]") {
  const Net net{};
  const Sequence<float, 8> x(2);
  const auto range = has_part(std::to_string(cost[0]) + " (all leave at the first exit) to " +
                              std::to_string(cost[2]));
  REQUIRE_THROWS_WITH(net.run(x, {}, RowBudget{cost, 0.9 * cost[0]}), range);
  REQUIRE_THROWS_WITH(net.run(x, {}, any_of(AlwaysLeave{}, RowBudget{cost, none})), range);
  REQUIRE_THROWS_WITH(net.run(x, {}, BatchBudget{NeverLeave{}, cost, 1.0}), range);
  REQUIRE_THROWS_WITH(net.run(x, {}, RowBudget{std::array<double, 2>{1, 2}, 3.0}), has_part("3"));
  REQUIRE_THROWS_WITH(net.run(x, {}, BatchBudget{ConfidenceAtLeast{2.0}, cost, 1e9}),
                      has_part("ConfidenceAtLeast"));
  REQUIRE_THROWS_WITH(slowdown_attack(net, x, {}), has_part("range of inputs"));
  REQUIRE_THROWS_WITH(slowdown_attack(net, x, {.step = 0, .least = 0, .greatest = 1}),
                      has_part(".step"));
}
#endif
