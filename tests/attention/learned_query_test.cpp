#include <limen/attention/learned_query.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

#include <limen/core/random.hpp>

using namespace limen;

namespace {

std::vector<double> noise(Index n, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> x(static_cast<std::size_t>(n));
  for (double& v : x) v = random.normal();
  return x;
}

}  // namespace

TEST_CASE("A query asks with its direction alone", "[attention][learned_query]") {
  // Heads (3, 4) and (0, -2), so q̂ = (0.6, 0.8) / √2 and (0, -1) / √2; W_k rows 1 to 4.
  const double q[] = {3, 4, 0, -2}, k[] = {1, 10, 2, 20, 3, 30, 4, 40};
  double u[4];
  detail::LearnedQuery<double, 2, 2, 2>{q, k}.ask(u);
  const double expected[] = {2.2, 22, -4, -40};  // 0.6 · 1 + 0.8 · 2
  for (int i = 0; i < 4; ++i) REQUIRE(std::abs(u[i] * std::sqrt(2.0) - expected[i]) < 1e-4);

  const double zeros[4] = {};
  detail::LearnedQuery<double, 2, 2, 2>{zeros, k}.ask(u);
  for (const double v : u) REQUIRE(v == 0);
}

TEMPLATE_TEST_CASE_SIG("What is asked has the slopes of its query and keys",
                       "[attention][learned_query]", ((Index H, Index d, Index D), H, d, D),
                       (1, 1, 1), (2, 3, 5), (3, 2, 17)) {
  auto q = noise(H * d, 1), k = noise(H * d * D, 2);
  const auto du = noise(H * D, 3);
  std::vector<double> u(du.size()), dq(q.size(), 0.25), dk(k.size(), 0.5);  // added to
  const detail::LearnedQuery<double, H, d, D> query{q.data(), k.data()};
  query.back(du.data(), dq.data(), dk.data());
  const auto loss = [&] {
    query.ask(u.data());
    double sum = 0;
    for (std::size_t i = 0; i < u.size(); ++i) sum += u[i] * du[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& values, const std::vector<double>& slopes,
                         double before) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double value = values[i], h = 1e-6;
      values[i] = value + h;
      const double above = loss();
      values[i] = value - h;
      const double below = loss();
      values[i] = value;
      const double slope = slopes[i] - before;
      // A query of one number has no direction to learn: its slope is that of ε.
      REQUIRE(std::abs((above - below) / (2 * h) - slope) < 1e-7 * (1 + std::abs(slope)));
    }
  };
  check(q, dq, 0.25);
  check(k, dk, 0.5);
}

TEST_CASE("A query of zeros has a slope: where it would begin to ask",
          "[attention][learned_query]") {
  const std::array<float, 2> q{}, k{2, 3}, du{1, 1};
  std::array<float, 2> dq{}, dk{};
  detail::LearnedQuery<float, 1, 2, 1>{q.data(), k.data()}.back(du.data(), dq.data(), dk.data());
  // g / ε, with g = W_k du / √2
  REQUIRE(std::abs(dq[0] / (2e6F / std::sqrt(2.0F)) - 1) < 1e-5F);
  REQUIRE(std::abs(dq[1] / (3e6F / std::sqrt(2.0F)) - 1) < 1e-5F);
  REQUIRE(dk[0] == 0);
  REQUIRE(dk[1] == 0);
}

TEST_CASE("A query that is not a number asks for none, and other heads do not notice",
          "[attention][learned_query]") {
  const float q[] = {std::numeric_limits<float>::quiet_NaN(), 1}, k[] = {1, 1};
  float u[2];
  detail::LearnedQuery<float, 2, 1, 1>{q, k}.ask(u);
  REQUIRE(std::isnan(u[0]));
  REQUIRE(std::abs(u[1] - 1) < 1e-5F);
}
