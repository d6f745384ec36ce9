#include <limen/attention/attend.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <limen/attention/rope.hpp>
#include <limen/core/random.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index H = 2, d = 4, W = 3, first = 2;

Sequence<double, H * d> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<double, H * d> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

detail::Attending<double> with_first_rows() {
  detail::Attending<double> how;
  how.rule.query_heads = how.rule.key_heads = H;
  how.rule.causal = true;
  how.rule.window = W;
  how.first = first;
  return how;
}

}  // namespace

TEST_CASE("Two parts of a softmax come together by what they sum to", "[attention][attend]") {
  constexpr double none = -std::numeric_limits<double>::infinity();
  double y[] = {1, 2, 5, 0}, lse[] = {0, std::log(3.0), 0.5, none};
  const double y2[] = {3, 6, 0, 0}, lse2[] = {0, 0, none, none};
  detail::merge_parts<double>(1, {y, 4, 1, 1}, lse, {y2, 4, 1, 1}, lse2);
  const double expected[] = {2, 3, 5, 0};
  for (int t = 0; t < 4; ++t) REQUIRE(std::abs(y[t] - expected[t]) < 1e-15);
  REQUIRE(std::abs(lse[0] - std::log(2.0)) < 1e-15);
  REQUIRE(std::abs(lse[1] - std::log(4.0)) < 1e-15);
  REQUIRE(lse[2] == 0.5);
  REQUIRE(lse[3] == none);
}

TEST_CASE("A row sees the first rows and its window, each once", "[attention][attend]") {
  const auto how = with_first_rows();
  const auto q = noise(12, 1), k = noise(12, 2), v = noise(12, 3);
  Sequence<double, H * d> y(12);
  std::vector<double> lse(12 * H);
  // A long sequence, one without rows, and one shorter than what is seen for ever.
  const detail::SequenceRows rows[] = {{0, 11, 0, 11, 0}, {11, 0, 11, 0, 0}, {11, 1, 11, 1, 0}};
  detail::attend_batch<double>(how, rows, q.matrix(), k.matrix(), v.matrix(), y.matrix(),
                               lse.data());
  for (const auto& s : rows) {
    for (Index t = 0; t < s.rows; ++t) {
      for (Index h = 0; h < H; ++h) {
        double sum = 0, read[d] = {};
        for (Index j = 0; j <= t; ++j) {
          if (j >= first && j <= t - W) continue;
          double dot = 0;
          for (Index c = 0; c < d; ++c) dot += q(s.row + t, h * d + c) * k(s.key + j, h * d + c);
          const double p = std::exp(dot / 2);
          sum += p;
          for (Index c = 0; c < d; ++c) read[c] += p * v(s.key + j, h * d + c);
        }
        const auto at = static_cast<std::size_t>((s.row + t) * H + h);
        REQUIRE(std::abs(lse[at] - std::log(sum)) < 1e-12);
        for (Index c = 0; c < d; ++c) {
          REQUIRE(std::abs(y(s.row + t, h * d + c) - read[c] / sum) < 1e-12);
        }
      }
    }
  }
}

TEST_CASE("Queries meet the first rows as if nothing lay between", "[attention][attend]") {
  auto how = with_first_rows();
  how.rope = rope_rule<RopeConfig{.base = 100}, d>();
  const auto x = noise(9, 4);
  auto turned = x, expected = x;
  limen::rope(how.rope, 0, 1, 1, turned.matrix());
  how.to_first(turned.matrix(), 0, 1);
  for (Index t = 0; t < 9; ++t) {
    limen::rope(how.rope, std::min(t, first + W - 1), 1, 1, expected.matrix().middle_rows(t, 1));
    for (Index c = 0; c < H * d; ++c) REQUIRE(std::abs(turned(t, c) - expected(t, c)) < 1e-12);
  }
  how.to_first(turned.matrix(), 0, -1);  // and back
  limen::rope(how.rope, 0, 1, -1, turned.matrix());
  for (Index t = 0; t < 9; ++t) {
    for (Index c = 0; c < H * d; ++c) REQUIRE(std::abs(turned(t, c) - x(t, c)) < 1e-12);
  }
}
