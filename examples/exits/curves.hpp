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
  const limen::Index repeats = std::max<limen::Index>(3, 21600 / digits);
  for (limen::Index i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    least = std::min(least, spent.count());
  }
  return least / static_cast<double>(digits);
}

template <class R, class Policy>
Point measured(const typename R::Fast& net, const Part<R::pixels>& part, const Policy& policy) {
  const auto left = net.run(part.x, {}, policy);
  const auto n = static_cast<double>(part.size());
  return {.accuracy = static_cast<double>(limen::count_correct(left.logits, part.labels)) / n,
          .macs = static_cast<double>(limen::executed_macs<typename R::Fast>(left)) / n / R::whole,
          .ns = ns_per_digit(part.size(), [&] { net.run(part.x, {}, policy); })};
}

/// Thresholds for budgets from the first exit to the last, chosen on the validation part.
template <class R, class Score, class Make>
Curve swept(const std::string& name, const typename R::Fast& net, const Parts<R::pixels>& parts,
            Score score, Make make) {
  using namespace limen;
  constexpr auto& work = R::work;
  const auto record = record_exits(net, SequenceView<float, R::pixels>(parts.validation.x), {},
                                   parts.validation.labels, score);
  Curve curve{name, {}};
  for (int i = 0; i <= 10; ++i) {
    const double t = i / 10.0;
    const double budget = work[0] + t * t * 0.7 * (work[3] - work[0]);  // closer where it is cheap
    const auto share = shares_for_budget(work, budget).value();
    const auto thresholds = thresholds_for_shares(record, share).value();
    curve.points.push_back(measured<R>(net, parts.test, make(thresholds)));
  }
  return curve;
}

template <class R>
std::vector<Curve> all_curves(const typename R::Net& net, const Parts<R::pixels>& parts) {
  using namespace limen;
  const typename R::Fast fast = prepare(net);
  std::vector<Curve> curves;
  curves.push_back(swept<R>(
      "confidence", fast, parts, [](auto z) { return max_probability(z); },
      [](const auto& t) { return ConfidenceAtLeast{Thresholds(t)}; }));
  curves.push_back(swept<R>(
      "margin", fast, parts, [](auto z) { return probability_margin(z); },
      [](const auto& t) { return MarginAtLeast{Thresholds(t)}; }));
  curves.push_back(swept<R>(
      "entropy", fast, parts, [](auto z) { return -entropy(z); },
      [](const auto& t) { return EntropyBelow{Thresholds(below(t))}; }));
  curves.push_back({"patience", {}});
  for (const int times : {1, 2, 3}) {
    curves.back().points.push_back(measured<R>(fast, parts.test, Patience{times}));
  }
  curves.push_back({"learned gates", {}});
  for (const double lambda : {1.0, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0}) {
    typename R::Net with_heads;
    const Gates gates = trained_gates<R>(net, parts, lambda, with_heads);
    curves.back().points.push_back(measured<R>(prepare(with_heads), parts.test, gates));
  }
  for (Curve& c : curves) {
    std::sort(c.points.begin(), c.points.end(),
              [](const Point& a, const Point& b) { return a.ns < b.ns; });
  }
  return curves;
}
