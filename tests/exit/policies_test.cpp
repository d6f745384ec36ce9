#include <limen/exit/exit_gates.hpp>
#include <limen/exit/policies.hpp>
#include <limen/exit/row_scores.hpp>

#include <limen/core/random.hpp>

#include <array>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
using Row = std::span<const Real>;

/// A clock that stands where it is put.
struct Clock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<Clock>;
  static inline time_point time{};
  static time_point now() noexcept { return time; }
};

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float none = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("Scores of (2, 1, 0) are known", "[exit][scores]") {
  const double z[] = {2, 1, 0};
  const Row<double> row(z);
  REQUIRE(max_probability(row) == Approx(0.665241).epsilon(1e-5));
  REQUIRE(entropy(row) == Approx(0.832396).epsilon(1e-5));
  REQUIRE(probability_margin(row) == Approx(0.420512).epsilon(1e-5));
  REQUIRE(power_entropy(row) == Approx(0.441057).epsilon(1e-5));
  REQUIRE(normalised_entropy(row) == Approx(0.832396 / std::log(3.0)).epsilon(1e-6));
  REQUIRE(predicted_class(row) == 0);
}

TEMPLATE_TEST_CASE("Scores are what plain loops give, at any number of classes", "[exit][scores]",
                   float, double) {
  Random random(1);
  const double tolerance = sizeof(TestType) == 4 ? 2e-5 : 1e-12;
  for (std::size_t n = 1; n <= 70; ++n) {
    std::vector<TestType> z(n + 1);
    for (auto& v : z) v = static_cast<TestType>(3 * random.normal());
    const Row<TestType> row(z.data() + 1, n);  // not aligned
    std::vector<double> p;
    double sum = 0, sum2 = 0, h = 0, h2 = 0;
    for (const auto v : row) sum += std::exp(static_cast<double>(v));
    for (const auto v : row) p.push_back(std::exp(static_cast<double>(v)) / sum);
    for (const double v : p) sum2 += v * v;
    for (const double v : p) h -= v * std::log(v);
    for (const double v : p) h2 -= v * v / sum2 * std::log(v * v / sum2);
    std::sort(p.rbegin(), p.rend());
    INFO(n << " classes");
    REQUIRE(max_probability(row) == Approx(p[0]).margin(tolerance));
    REQUIRE(probability_margin(row) == Approx(n > 1 ? p[0] - p[1] : p[0]).margin(tolerance));
    REQUIRE(entropy(row) == Approx(h).margin(10 * tolerance));
    REQUIRE(power_entropy(row) == Approx(h2).margin(10 * tolerance));
  }
}

TEMPLATE_TEST_CASE("Scores of many rows at once have the bits of each row alone", "[exit][scores]",
                   float, double) {
  using Real = TestType;
  const auto same = [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); };
  Random random(5);
  RowScores<Real> scores;
  for (Index C = 1; C <= RowScores<Real>::most_classes; ++C) {
    for (Index n = 1; n <= RowScores<Real>::rows; n += 3) {
      std::vector<Real> z(static_cast<std::size_t>(n * (C + 1)));
      for (auto& v : z) v = static_cast<Real>(4 * random.normal());
      const Index stride = C + 1, last = n - 1;
      if (C > 2) z[static_cast<std::size_t>(C - 1)] = z[1] = 9;  // equals
      if (C > 2 && last > 0) z[static_cast<std::size_t>(stride + C / 2)] = Real(none);
      if (last > 1) z[static_cast<std::size_t>(2 * stride)] = Real(inf);
      if (last > 2) std::fill_n(z.data() + 3 * stride, C, Real(-inf));
      if (C > 1 && last > 3) z[static_cast<std::size_t>(4 * stride)] = Real(-inf);  // masked
      scores.read({z.data(), n, C, stride});
      for (Index i = 0; i < n; ++i) {
        const std::span<const Real> row(z.data() + i * stride, static_cast<std::size_t>(C));
        const auto sums = scores[i];
        INFO(C << " classes, row " << i << " of " << n);
        REQUIRE(same(sums.max_probability(), max_probability(row)));
        REQUIRE(same(sums.margin(), probability_margin(row)));
        REQUIRE(same(sums.entropy(), entropy(row)));
        REQUIRE(same(sums.power_entropy(), power_entropy(row)));
        REQUIRE(sums.best == predicted_class(row));
        const auto f = exit_features(row), g = exit_features(sums);
        for (std::size_t j = 0; j < 4; ++j) REQUIRE(same(f[j], g[j]));
      }
    }
  }
}

TEST_CASE("Scores know masked, equal and impossible logits", "[exit][scores]") {
  const float masked[] = {-inf, 1, -inf, 1};
  REQUIRE(max_probability(Row<float>(masked)) == Approx(0.5));
  REQUIRE(probability_margin(Row<float>(masked)) == 0);
  REQUIRE(entropy(Row<float>(masked)) == Approx(std::log(2.0)));
  REQUIRE(predicted_class(Row<float>(masked)) == 1);
  const float far[] = {1000, 0, -1000};
  REQUIRE(max_probability(Row<float>(far)) == 1);
  REQUIRE(entropy(Row<float>(far)) == 0);
  for (const auto& bad :
       {std::array<float, 3>{none, 0.f, 1.f}, std::array<float, 3>{0.f, 1.f, none},
        std::array<float, 3>{inf, 0.f, 1.f}, std::array<float, 3>{-inf, -inf, -inf}}) {
    const Row<float> z(bad);
    REQUIRE(std::isnan(max_probability(z)));
    REQUIRE(std::isnan(probability_margin(z)));
    REQUIRE(std::isnan(entropy(z)));
    REQUIRE(std::isnan(power_entropy(z)));
    REQUIRE_FALSE(ConfidenceAtLeast{0.0}(z, 0));
    REQUIRE_FALSE(MarginAtLeast{0.0}(z, 0));
    REQUIRE_FALSE(EntropyBelow{9.0}(z, 0));
  }
  REQUIRE(predicted_class(Row<float>(std::array<float, 2>{1, none})) == -1);
}

TEST_CASE("Entropy must be below its threshold, a probability may reach it", "[exit][policies]") {
  const double z[] = {0, 0};
  const Row<double> row(z);
  REQUIRE(ConfidenceAtLeast{0.5}(row, 0));
  REQUIRE(MarginAtLeast{0.0}(row, 0));
  const double h = entropy(row);
  REQUIRE_FALSE(EntropyBelow{h}(row, 0));
  REQUIRE(EntropyBelow{std::nextafter(h, 1.0)}(row, 0));
  const double skewed[] = {1, 0, 0.3};
  const Row<double> three(skewed);
  const double n = normalised_entropy(three), q = power_entropy(three);
  REQUIRE_FALSE(NormalisedEntropyBelow{n}(three, 0));
  REQUIRE(NormalisedEntropyBelow{std::nextafter(n, 1.0)}(three, 0));
  REQUIRE_FALSE(PowerEntropyBelow{q}(three, 0));
  REQUIRE(PowerEntropyBelow{std::nextafter(q, 2.0)}(three, 0));
  const ConfidenceAtLeast each{{0.4, 0.6}};
  REQUIRE(each(row, 0));
  REQUIRE_FALSE(each(row, 1));
}

TEST_CASE("Classes 2, 1, 1, 1, 1 with patience 2 leave at the fourth head", "[exit][policies]") {
  const double two[] = {0, 0, 1}, one[] = {0, 1, 0};
  Patience::Memory row{};
  const Patience patience{.times = 2};
  REQUIRE_FALSE(patience(Row<double>(two), 0, row));
  REQUIRE_FALSE(patience(Row<double>(one), 1, row));
  REQUIRE_FALSE(patience(Row<double>(one), 2, row));
  REQUIRE(patience(Row<double>(one), 3, row));
}

TEST_CASE("One head that disagrees starts the count anew", "[exit][policies]") {
  const double one[] = {0, 1, 0}, two[] = {0, 0, 1};
  Patience::Memory row{};
  const Patience patience{.times = 2};
  REQUIRE_FALSE(patience(Row<double>(one), 0, row));
  REQUIRE_FALSE(patience(Row<double>(one), 1, row));
  REQUIRE_FALSE(patience(Row<double>(two), 2, row));
  REQUIRE_FALSE(patience(Row<double>(two), 3, row));
  REQUIRE(patience(Row<double>(two), 4, row));
}

TEST_CASE("Numbers agree that are less than tau apart, not tau", "[exit][policies]") {
  const double at[] = {1, 2, 2.5};
  PatienceWithin::Memory row{};
  const PatienceWithin patience{.tau = 1};
  REQUIRE_FALSE(patience(Row<double>(at, 1), 0, row));
  REQUIRE_FALSE(patience(Row<double>(at + 1, 1), 1, row));
  REQUIRE(patience(Row<double>(at + 2, 1), 2, row));
}

TEST_CASE("Heads that answer NaN agree with nobody", "[exit][policies]") {
  const float bad[] = {none, 1};
  Patience::Memory row{};
  for (Index k = 0; k < 4; ++k) REQUIRE_FALSE(Patience{}(Row<float>(bad), k, row));
}

TEST_CASE("A deadline leaves where the next exit would come too late", "[exit][policies]") {
  using std::chrono::nanoseconds;
  const float z[] = {1, 2};
  const Deadline<Clock> policy{.until = Clock::time_point(nanoseconds(1000)),
                               .next_ns = {400, 300}};
  Clock::time = Clock::time_point(nanoseconds(600));
  REQUIRE_FALSE(policy(Row<float>(z), 0));  // 400 left
  Clock::time = Clock::time_point(nanoseconds(601));
  REQUIRE(policy(Row<float>(z), 0));
  REQUIRE_FALSE(policy(Row<float>(z), 1));
  Clock::time = Clock::time_point(nanoseconds(701));
  REQUIRE(policy(Row<float>(z), 1));
  const Deadline<Clock> bare{.until = Clock::time_point(nanoseconds(1000))};
  REQUIRE_FALSE(bare(Row<float>(z), 0));
  Clock::time = Clock::time_point(nanoseconds(1001));
  REQUIRE(bare(Row<float>(z), 0));
}

TEST_CASE("Of several policies one is enough, and each remembers what it saw", "[exit][policies]") {
  const float sure[] = {9, 0}, unsure[] = {0.1f, 0};
  const auto policy = any_of(ConfidenceAtLeast{0.9}, Patience{.times = 1});
  exit_memory<std::remove_const_t<decltype(policy)>> row{};
  REQUIRE(policy(Row<float>(sure), 0, row));
  REQUIRE(policy(Row<float>(unsure), 1, row));  // agrees with the one before
  REQUIRE(policy.asks(0));
  REQUIRE_FALSE(any_of(NeverLeave{}, ConfidenceAtLeast{inf}).asks(0));
  REQUIRE_FALSE(any_of(AlwaysLeave{}, Patience{9}).check(3, 2));
}

TEST_CASE("Thresholds are one, or one for each exit but the last, and possible",
          "[exit][policies]") {
  REQUIRE(ConfidenceAtLeast{0.5}.check(7, 10));
  REQUIRE(ConfidenceAtLeast{{0.5, inf}}.check(3, 10));
  REQUIRE_FALSE(ConfidenceAtLeast{{0.5, 0.5}}.check(2, 10));
  REQUIRE_FALSE(ConfidenceAtLeast{1.01}.check(2, 10));
  REQUIRE_FALSE(ConfidenceAtLeast{double{none}}.check(2, 10));
  REQUIRE(EntropyBelow{std::log(10.0)}.check(2, 10));
  REQUIRE_FALSE(EntropyBelow{-0.1}.check(2, 10));
  REQUIRE_FALSE(MarginAtLeast{0.1}.check(2, 1));
  REQUIRE_FALSE(Patience{0}.check(3, 10));
  REQUIRE(Patience{2}.check(3, 10));
  REQUIRE_FALSE(ConfidenceAtLeast{inf}.asks(0));
  REQUIRE(ConfidenceAtLeast{1.0}.asks(0));  // a probability may be 1
  REQUIRE(MarginAtLeast{1.0}.asks(0));
}

TEST_CASE("A policy is whatever can be asked", "[exit][policies]") {
  const auto lambda = [](auto z, Index) { return z[0] > 3; };
  STATIC_REQUIRE(ExitPolicy<decltype(lambda), float>);
  STATIC_REQUIRE(ExitPolicy<Patience, double>);
  STATIC_REQUIRE(ExitPolicy<Deadline<>, float>);
  struct Heap {
    using Memory = std::vector<int>;
    bool operator()(Row<float>, Index, Memory&) const { return true; }
  };
  STATIC_REQUIRE_FALSE(ExitPolicy<Heap, float>);  // its memory moves with the rows, byte by byte
  STATIC_REQUIRE_FALSE(ExitPolicy<double, float>);
}

TEMPLATE_TEST_CASE("The predicted class is the first of the largest, at any number of classes",
                   "[exit][scores]", float, double) {
  Random random(3);
  for (std::size_t n = 1; n <= 70; ++n) {
    std::vector<TestType> z(n + 1);
    for (auto& v : z) v = static_cast<TestType>(random.below(5));  // many are equal
    const Row<TestType> row(z.data() + 1, n);
    const auto first = std::max_element(row.begin(), row.end()) - row.begin();
    REQUIRE(predicted_class(row) == first);
    z[1 + random.below(n)] = std::numeric_limits<TestType>::quiet_NaN();
    REQUIRE(predicted_class(row) == -1);
    for (auto& v : z) v = -std::numeric_limits<TestType>::infinity();
    REQUIRE(predicted_class(row) == 0);
  }
}
