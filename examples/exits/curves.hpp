#pragma once
// Five policies, each from early to late: how often they are right, and how long they take.

#include <limen/exit/budget.hpp>
#include <limen/train/loss.hpp>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "network.hpp"

struct Point {
  double accuracy = 0, macs = 0, ns = 0;  // macs: share of the whole network; ns: of a digit
};
struct Curve {
  std::string name;
  std::vector<Point> points;
};

/// The least of many runs over all digits of the part.
template <class Run>
double ns_per_digit(limen::Index digits, Run run) {
  double least = 1e30;
  for (int i = 0; i < 60; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    least = std::min(least, spent.count());
  }
  return least / static_cast<double>(digits);
}

template <class Policy>
Point measured(const Fast& net, const Part& part, const Policy& policy) {
  const auto left = net.run(part.x, {}, policy);
  const auto n = static_cast<double>(part.size());
  return {.accuracy = static_cast<double>(limen::count_correct(left.logits, part.labels)) / n,
          .macs = static_cast<double>(limen::executed_macs<Fast>(left)) / n / whole,
          .ns = ns_per_digit(part.size(), [&] { net.run(part.x, {}, policy); })};
}

/// Thresholds for budgets from the first exit to the last, chosen on the validation part.
template <class Score, class Make>
Curve swept(const std::string& name, const Fast& net, const Parts& parts, Score score, Make make) {
  using namespace limen;
  const auto record = record_exits(net, SequenceView<float, 64>(parts.validation.x), {},
                                   parts.validation.labels, score);
  Curve curve{name, {}};
  for (int i = 0; i <= 10; ++i) {
    const double t = i / 10.0;
    const double budget = work[0] + t * t * 0.7 * (work[3] - work[0]);  // closer where it is cheap
    const auto share = shares_for_budget(work, budget).value();
    const auto thresholds = thresholds_for_shares(record, share).value();
    curve.points.push_back(measured(net, parts.test, make(thresholds)));
  }
  return curve;
}

inline std::vector<Curve> all_curves(const Net& net, const Parts& parts) {
  using namespace limen;
  const Fast fast = prepare(net);
  std::vector<Curve> curves;
  curves.push_back(swept(
      "confidence", fast, parts, [](auto z) { return max_probability(z); },
      [](const auto& t) { return ConfidenceAtLeast{Thresholds(t)}; }));
  curves.push_back(swept(
      "margin", fast, parts, [](auto z) { return probability_margin(z); },
      [](const auto& t) { return MarginAtLeast{Thresholds(t)}; }));
  curves.push_back(swept(
      "entropy", fast, parts, [](auto z) { return -entropy(z); },
      [](const auto& t) { return EntropyBelow{Thresholds(below(t))}; }));
  curves.push_back({"patience", {}});
  for (const int times : {1, 2, 3}) {
    curves.back().points.push_back(measured(fast, parts.test, Patience{times}));
  }
  curves.push_back({"learned gates", {}});
  for (const double lambda : {1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0}) {
    Net with_heads;
    const Gates gates = trained_gates(net, parts, lambda, with_heads);
    curves.back().points.push_back(measured(prepare(with_heads), parts.test, gates));
  }
  for (Curve& c : curves) {
    std::sort(c.points.begin(), c.points.end(),
              [](const Point& a, const Point& b) { return a.ns < b.ns; });
  }
  return curves;
}
