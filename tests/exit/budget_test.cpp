#include <limen/exit/budget.hpp>

#include <limen/exit/budget_controller.hpp>
#include <limen/exit/costs.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/exit/step_times.hpp>

#include "../catch.hpp"
#include "../compose/layers.hpp"

using namespace limen;

namespace {

/// Three heads: the deeper, the better.
ExitRecord noisy_record(std::size_t rows) {
  Random random(5);
  ExitRecord record;
  record.confidence.resize(3);
  record.correct.resize(3);
  for (std::size_t t = 0; t < rows; ++t) {
    for (std::size_t k = 0; k < 3; ++k) {
      const double c = random.uniform();
      record.confidence[k].push_back(c);
      record.correct[k].push_back(random.uniform() < c + 0.2 * static_cast<double>(k));
    }
  }
  return record;
}

const std::vector<double> cost{1, 2, 4};

}  // namespace

TEST_CASE("Shares follow a geometric law that meets the budget", "[exit][budget]") {
  const auto share = *shares_for_budget(cost, 2);
  REQUIRE(share[0] == Approx(0.453082).epsilon(1e-5));
  REQUIRE(share[1] == Approx(0.320377).epsilon(1e-5));
  REQUIRE(share[2] == Approx(0.226541).epsilon(1e-5));
  REQUIRE(expected_cost(detail::shares_of(3, std::log(0.5)), cost) == Approx(1.714286));
  REQUIRE(expected_cost(detail::shares_of(3, 0), cost) == Approx(2.333333));
  REQUIRE(*shares_for_budget(cost, 1) == std::vector<double>{1, 0, 0});
  REQUIRE(*shares_for_budget(cost, 4) == std::vector<double>{0, 0, 1});
}

TEST_CASE("Thresholds send the surest share of those left out at each exit", "[exit][budget]") {
  const ExitRecord record{{{.9, .6, .8, .4}, {.95, .7, .9, .5}, {1, 1, 1, 1}},
                          {{1, 0, 1, 0}, {1, 1, 1, 0}, {1, 1, 1, 1}}};
  const auto thresholds = *thresholds_for_shares(record, std::vector<double>{.25, .5, .25});
  REQUIRE(thresholds == std::vector<double>{0.9, 0.7});
  const auto outcome = simulate_exits(record, thresholds, cost);
  REQUIRE(outcome.share == std::vector<double>{.25, .5, .25});
  REQUIRE(outcome.cost == Approx(.25 * 1 + .5 * 2 + .25 * 4));
  REQUIRE(outcome.accuracy == 1);
  REQUIRE(std::isinf((*thresholds_for_shares(record, std::vector<double>{.2, .3, .5}))[0]));
  REQUIRE_FALSE(thresholds_for_shares(record, std::vector<double>{.5, .5}));
  REQUIRE_FALSE(thresholds_for_shares(record, std::vector<double>{.5, .5, .5}));
}

TEST_CASE("The mean cost of exits 1, 1, 2, 3 is 0.475", "[exit][budget]") {
  const ExitRecord record{{{.9, .9, .1, .1}, {.1, .1, .9, .1}, {0, 0, 0, 0}},
                          {{1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1, 1, 1}}};
  REQUIRE(
      simulate_exits(record, std::vector<double>{.5, .5}, std::vector<double>{.2, .5, 1}).cost ==
      Approx(0.475));
}

TEST_CASE("A budget is met from below, and spent", "[exit][budget]") {
  const auto record = noisy_record(2000);
  double before = 0;
  for (const double budget : {1.0, 1.01, 1.5, 2.0, 2.5, 3.0, 3.9, 4.0}) {
    auto plan = thresholds_for_budget(record, cost, budget);
    REQUIRE(plan);
    const auto& outcome = plan->outcome;
    INFO("budget " << budget << ", cost " << outcome.cost);
    REQUIRE(outcome.cost <= budget * (1 + 1e-9));
    REQUIRE(outcome.cost >= 0.99 * budget);
    REQUIRE(outcome.cost >= before);
    before = outcome.cost;
  }
}

TEST_CASE("Rows that are all equal leave together, and never over the budget", "[exit][budget]") {
  const ExitRecord record{
      {std::vector<double>(10, 0.5), std::vector<double>(10, 0.5), std::vector<double>(10, 0.5)},
      std::vector<std::vector<char>>(3, std::vector<char>(10, 1))};
  REQUIRE((*thresholds_for_budget(record, cost, 1.9)).outcome.cost == Approx(1));
  REQUIRE((*thresholds_for_budget(record, cost, 2.1)).outcome.cost == Approx(2));
}

TEST_CASE("A budget below the first exit names the range that is possible", "[exit][budget]") {
  const auto record = noisy_record(20);
  const auto low = thresholds_for_budget(record, cost, 0.5);
  REQUIRE_FALSE(low);
  REQUIRE_THAT(low.error().message(), has_part("wanted 1.000000"));
  REQUIRE_THAT(low.error().message(), has_part("to 4.000000"));
  REQUIRE_FALSE(thresholds_for_budget(record, cost, 4.5));
  REQUIRE_FALSE(thresholds_for_budget(record, std::vector<double>{1, 2}, 1.5));
  REQUIRE_FALSE(thresholds_for_budget(record, std::vector<double>{2, 1, 3}, 2));
  REQUIRE_FALSE(thresholds_for_budget(record, std::vector<double>{-1, 1, 3}, 2));
}

TEST_CASE("Thresholds for an accuracy keep the rows above them right", "[exit][budget]") {
  const auto record = noisy_record(4000);
  const auto thresholds = *thresholds_for_accuracy(record, 0.9);
  for (std::size_t k = 0; k < 2; ++k) {
    double above = 0, right = 0;
    for (std::size_t t = 0; t < 4000; ++t) {
      if (record.confidence[k][t] < thresholds[k]) continue;
      ++above;
      right += record.correct[k][t];
    }
    REQUIRE(above > 10);
    REQUIRE(right / above > 0.9);
    REQUIRE(right / above < 0.92);
  }
  REQUIRE(std::isinf((*thresholds_for_accuracy(record, 1))[0]));
  REQUIRE(std::isinf((*thresholds_for_accuracy(noisy_record(10), 0))[0]));  // too few to tell
  REQUIRE_FALSE(thresholds_for_accuracy(record, 1.5));
}

TEST_CASE("Shares can be reshaped exit by exit, and still sum to 1", "[exit][budget]") {
  const auto share = reshaped_shares({.4, .3, .2, .1}, std::vector<double>{.85, 1, .5, 1});
  REQUIRE(share[0] == Approx(.34));  // .66 for .6 that were
  REQUIRE(share[1] == Approx(.33));
  REQUIRE(share[2] == Approx(.5 * .22));
  REQUIRE(share[0] + share[1] + share[2] + share[3] == Approx(1));
}

TEST_CASE("Thresholds for entropy let the same rows out as those of its negative",
          "[exit][budget]") {
  const auto t = below({-0.5, detail::nobody, -detail::nobody});
  REQUIRE(0.5 < t[0]);  // strict, and the row that set the threshold leaves
  REQUIRE(std::nextafter(0.5, 1.0) == t[0]);
  REQUIRE(t[1] == -detail::nobody);
  REQUIRE(t[2] == detail::nobody);
}

TEST_CASE("A price on work knows its slope", "[exit][budget]") {
  const std::vector<double> p{.5, .25, .25};  // E = 2, of 4
  REQUIRE(expected_cost(p, cost) == Approx(2));
  for (const auto price : {CostPrice::linear, CostPrice::hinge, CostPrice::target}) {
    for (const double b : {0.3, 0.8}) {
      const CostPenaltyOptions options{.price = price, .lambda = 3, .budget = b};
      const auto found = *cost_penalty(p, cost, options);
      const double over = 0.5 - b;
      REQUIRE(found.value == Approx(price == CostPrice::linear              ? 3 * 0.5
                                    : price == CostPrice::hinge && over < 0 ? 0
                                                                            : 3 * over * over));
      for (std::size_t k = 0; k < 3; ++k) {
        auto more = p, less = p;
        more[k] += 1e-6;
        less[k] -= 1e-6;
        const double slope =
            (cost_penalty(more, cost, options)->value - cost_penalty(less, cost, options)->value) /
            2e-6;
        REQUIRE(found.slope[k] == Approx(slope).margin(1e-8));
      }
    }
  }
  REQUIRE_THAT(cost_penalty(p, cost, {.price = CostPrice::hinge, .budget = 0.2}).error().message(),
               has_part("0.250000"));
  REQUIRE_FALSE(cost_penalty(p, std::vector<double>{1, 2}));
  REQUIRE_FALSE(cost_penalty(p, std::vector<double>{-1, 2, 3}));
}

TEST_CASE("What was planned on a record is what runs", "[exit][budget]") {
  using namespace parts;
  using Net = EarlyExit<Map<4, 8>, Bend<8>, Exit<Map<8, 3>>, Map<8, 8>, Bend<8>, Exit<Map<8, 3>>,
                        Map<8, 8>, Exit<Map<8, 3>>>;
  Random random(2);
  const auto net = prepare(Net::initialized(random));
  const auto x = noise<float, 4>(200, random);
  std::vector<int> labels;
  for (int t = 0; t < 200; ++t) labels.push_back(t % 3);
  const auto record = record_exits(net, x, {}, labels);
  constexpr auto macs = exit_macs<Net>();
  const double budget = (macs[0] + macs[2]) / 2;
  auto plan = thresholds_for_budget(record, macs, budget);
  REQUIRE(plan);
  const auto left = net.run(x, {}, ConfidenceAtLeast{plan->thresholds});
  for (std::size_t k = 0; k < 3; ++k) {
    REQUIRE(static_cast<double>(left.count[k]) == Approx(200 * plan->outcome.share[k]));
  }
  REQUIRE(static_cast<double>(executed_macs<prepared_form<Net>>(left)) <= 200 * budget);
  Index correct = count_correct(left.logits, labels);
  REQUIRE(static_cast<double>(correct) == Approx(200 * plan->outcome.accuracy));
}

TEST_CASE("Measured costs of exits ascend", "[exit][budget]") {
  using namespace parts;
  using Net = EarlyExit<Map<4, 8>, Exit<Map<8, 3>>, Map<8, 64>, Map<64, 64>, Exit<Map<64, 3>>>;
  Random random(2);
  const auto net = prepare(Net::initialized(random));
  const auto ns = measure_exit_ns(net, noise<float, 4>(32, random), {}, 5);
  REQUIRE(ns[0] > 0);
  REQUIRE(ns[1] > ns[0]);
}

TEST_CASE("A controller finds the threshold that spends the budget, and does not wind up",
          "[exit][budget]") {
  // at threshold t the share 1 - t of the rows costs 0.2, the others 1
  const auto cost_at = [](double t) { return 0.2 * (1 - t) + t; };
  BudgetController control{.budget = 0.5};
  REQUIRE(control.check());
  for (int i = 0; i < 400; ++i) control.update(cost_at(control.threshold()));
  REQUIRE(cost_at(control.threshold()) == Approx(0.5).margin(0.005));
  for (int i = 0; i < 1000; ++i) control.update(1);  // a time when nothing helps
  REQUIRE(control.lambda == 1);
  for (int i = 0; i < 60; ++i) control.update(0.2);
  REQUIRE(control.lambda < 0.1);
  REQUIRE_FALSE(BudgetController{.budget = 0}.check());
}

namespace {
/// A clock that moves by what it is told each time it is asked.
struct ScriptedClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<ScriptedClock>;
  static inline Index asked = 0;
  /// Of a step of three exits: at 0, 10 + i, 30 + 3 i, 60 + 7 i in step i.
  static time_point now() noexcept {
    const Index i = asked / 4, k = asked++ % 4;
    const Index at[] = {0, 10 + i, 30 + 3 * i, 60 + 7 * i};
    return time_point(std::chrono::nanoseconds(1000 * i + at[k]));
  }
};
}  // namespace

TEST_CASE("Times of ways between exits are those of the steps, and their quantiles",
          "[exit][deadline]") {
  using parts::Map;
  using Net =
      EarlyExit<Map<2, 2>, Exit<Map<2, 2>>, Map<2, 2>, Exit<Map<2, 2>>, Map<2, 2>, Exit<Map<2, 2>>>;
  const Net net{};
  ScriptedClock::asked = 0;
  const auto times = measure_step_times<ScriptedClock>(
      net, SequenceView<float, 2>(Sequence<float, 2>{{1, 2}}), 10);
  // way 0: 10 + i, way 1: 20 + 2 i, way 2: 30 + 4 i, i from 0 to 9
  REQUIRE(times.ways[1].size() == 10);
  REQUIRE(times.quantile(0, 1) == 19);
  REQUIRE(times.quantile(0, 0.9) == 18);
  REQUIRE(times.quantile(0, 0.91) == 19);
  REQUIRE(times.quantile(2, 0) == 30);
  REQUIRE(times.least_ns(0.5) == 14);
  REQUIRE(times.next_ns(1)[0] == 38);
  REQUIRE(times.next_ns(1)[1] == 66);
  REQUIRE(Deadline<>{{}, times.next_ns(0.99)}.check(3, 2));
}
