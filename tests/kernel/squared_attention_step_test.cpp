#include <limen/kernel/squared_attention_step.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"
#include "../numbers.hpp"

#include <limen/core/random.hpp>

using namespace limen;
using numbers::noise;

namespace {

/// One row against all keys, in double.
template <class Real>
std::vector<double> slowly(const SquaredRule<Real>& rule, double n, MatrixView<const Real> k,
                           MatrixView<const Real> v, const Real* q) {
  std::vector<double> y(static_cast<std::size_t>(v.cols));
  for (Index j = 0; j < k.rows; ++j) {
    double s = 0;
    for (Index c = 0; c < k.cols; ++c) s += double{q[c]} * double{k(j, c)} / n;
    if (rule.bias != nullptr) s += rule.bias[std::min(k.rows - 1 - j, rule.reach - 1)];
    const double a = s > 0 ? s * s : 0;
    for (Index c = 0; c < v.cols; ++c) y[static_cast<std::size_t>(c)] += a * double{v(j, c)};
  }
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("A step reads squares of scores over any number of keys",
                   "[kernel][squared_attention]", float, double) {
  using Real = TestType;
  const double tolerance = 64 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  const auto bias = noise<Real>(3, 5);
  for (const Index keys : {1, 2, 5, 255, 256, 257, 600}) {  // 256 at a time
    for (const Index s : {1, 3, 16}) {
      const Index e = s + 4;
      const auto k = noise<Real>(keys * s, 1), v = noise<Real>(keys * e, 2), q = noise<Real>(s, 3);
      const MatrixView<const Real> key{k.data(), keys, s, s}, value{v.data(), keys, e, e};
      const SquaredRule<Real> of_all{}, of_chunk{.chunk = 700},
          of_length{.chunk = 700, .length = 4, .bias = bias.data(), .reach = 3};
      const auto check = [&](const SquaredRule<Real>& rule, double n) {
        auto asked = q;
        std::vector<Real> y(static_cast<std::size_t>(e), Real(9));  // written
        squared_attention_step<Real>(rule, key, value, asked.data(), y.data());
        const auto expected = slowly<Real>(rule, n, key, value, q.data());
        double most = 1;
        for (const double x : expected) most = std::max(most, std::abs(x));
        for (std::size_t c = 0; c < y.size(); ++c) {
          REQUIRE(std::abs(double{y[c]} - expected[c]) <= tolerance * most);
        }
      };
      check(of_all, static_cast<double>(keys));
      check(of_chunk, 700);
      check(of_length, 4);
    }
  }
}

TEST_CASE("Sums of chunks move on where a chunk ends", "[kernel][squared_attention]") {
  // C = 2, one key and one value: S is Σ k v / 2 of the chunks that are over.
  double S = 0, next = 0;
  const double q = 3, k[] = {1, 2, 4, 6}, v[] = {5, 7, 1, 2};
  const double before[] = {0, 0, 9.5, 9.5}, after[] = {2.5, 9.5, 11.5, 17.5};
  for (int t = 0; t < 4; ++t) {
    double y = 1;
    chunk_sums_step<double>(2, t, &q, k + t, v + t, {&S, 1, 1, 1}, &next, &y);
    REQUIRE(y == 1 + 3 * before[t]);
    REQUIRE(next == after[t]);
    REQUIRE(S == (t % 2 == 1 ? after[t] : before[t]));
  }
}

TEMPLATE_TEST_CASE("Steps of chunk sums are the sums of all rows", "[kernel][squared_attention]",
                   float, double) {
  using Real = TestType;
  constexpr Index rows = 11, C = 4, s = 3, first = 2;
  const double tolerance = 64 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  for (const Index e : {1, 7, 16, 35}) {
    const auto q = noise<Real>(rows * s, 1), k = noise<Real>(rows * s, 2),
               v = noise<Real>(rows * e, 3), start = noise<Real>(s * e, 4);
    auto S = start, next = start, S1 = start, next1 = start;
    std::vector<Real> y(static_cast<std::size_t>(rows * e)), y1 = y;
    chunk_sums<Real>(C, first, {q.data(), rows, s, s}, {k.data(), rows, s, s},
                     {v.data(), rows, e, e}, MatrixView<Real>{y.data(), rows, e, e}, S.data(),
                     next.data(), nullptr);
    for (Index t = 0; t < rows; ++t) {
      chunk_sums_step<Real>(C, first + t, q.data() + t * s, k.data() + t * s, v.data() + t * e,
                            {S1.data(), s, e, e}, next1.data(), y1.data() + t * e);
    }
    const auto same = [&](const std::vector<Real>& a, const std::vector<Real>& b) {
      for (std::size_t i = 0; i < a.size(); ++i) {
        REQUIRE(std::abs(double{a[i]} - double{b[i]}) <= tolerance * (1 + std::abs(double{a[i]})));
      }
    };
    same(y, y1);
    same(S, S1);
    same(next, next1);
  }
}
