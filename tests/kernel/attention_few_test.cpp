#include <limen/kernel/attention_few.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class T>
std::vector<T> numbers(Index n, std::uint64_t seed) {
  Random random(seed);
  std::vector<T> x(static_cast<std::size_t>(n));
  for (T& value : x) value = static_cast<T>(static_cast<float>(random.normal()));
  return x;
}
double wide(float x) { return static_cast<double>(x); }
double wide(double x) { return x; }
double wide(bfloat16 x) { return static_cast<double>(static_cast<float>(x)); }

/// R rows against n keys, rows of keys a little apart.
template <int R, class Real, class Stored>
void compare(Index n, Index d, double tolerance) {
  INFO("R " << R << ", n " << n << ", d " << d);
  const Index apart = d + 3, s_row = n + 5;
  const auto q = numbers<Real>(R * d, 1);
  const auto k = numbers<Stored>(n * apart, 2);
  const auto p = numbers<Real>(R * s_row, 3);
  auto ordered = q;
  for (Index r = 0; r < R; ++r) detail::order_query<Stored>(ordered.data() + r * d, d);
  std::vector<Real> s(static_cast<std::size_t>(R * s_row), Real(7));
  detail::few_scores<R>(ordered.data(), d, k.data(), apart, n, s.data(), s_row);
  const auto key = [&](Index j, Index c) {
    return wide(k[static_cast<std::size_t>(j * apart + c)]);
  };
  const auto at = [](const std::vector<Real>& x, Index i) {
    return wide(x[static_cast<std::size_t>(i)]);
  };
  for (Index r = 0; r < R; ++r) {
    for (Index j = 0; j < n; ++j) {
      double sum = 0;
      for (Index c = 0; c < d; ++c) sum += at(q, r * d + c) * key(j, c);
      REQUIRE(std::abs(at(s, r * s_row + j) - sum) <= tolerance);
    }
    REQUIRE(at(s, r * s_row + n + 4) == 7);
  }

  const Index y_row = d + 1;
  std::vector<Real> y(static_cast<std::size_t>(R * y_row), Real(7));
  detail::few_values<R>(p.data(), s_row, k.data(), apart, n, y.data(), y_row, d);
  for (Index r = 0; r < R; ++r) {
    for (Index c = 0; c < d; ++c) {
      double sum = 0;
      for (Index j = 0; j < n; ++j) sum += at(p, r * s_row + j) * key(j, c);
      REQUIRE(std::abs(at(y, r * y_row + c) - sum) <= tolerance * std::sqrt(double(n)));
    }
    REQUIRE(at(y, r * y_row + d) == 7);
  }
}

template <class Real, class Stored>
void compare(double tolerance) {
  for (const Index n : {1, 2, 3, 4, 5, 30}) {
    for (const Index d : {1, 2, 7, 15, 16, 17, 31, 32, 33, 64, 70, 100}) {
      compare<1, Real, Stored>(n, d, tolerance);
      compare<2, Real, Stored>(n, d, tolerance);
      compare<3, Real, Stored>(n, d, tolerance);
      compare<4, Real, Stored>(n, d, tolerance);
    }
  }
}

}  // namespace

TEST_CASE("Scores and sums of a few rows, at any width and number of keys", "[kernel][attention]") {
  compare<float, float>(2e-5);
  compare<float, bfloat16>(2e-5);
  compare<double, double>(1e-13);
}

TEST_CASE("A score does not depend on where its key stands, or on who is asked with it",
          "[kernel][attention]") {
  constexpr Index d = 37, n = 11;
  const auto q = numbers<float>(4 * d, 4), k = numbers<float>(n * d, 5);
  float alone[4 * 4], all[4 * (n + 3)];
  detail::few_scores<4>(q.data(), d, k.data(), d, n, all, n + 3);
  for (Index j = 0; j < n; ++j) {
    detail::few_scores<4>(q.data(), d, k.data() + j * d, d, 1, alone, 4);
    for (Index r = 0; r < 4; ++r) REQUIRE(alone[r * 4] == all[r * (n + 3) + j]);
    detail::few_scores<1>(q.data() + 2 * d, d, k.data() + j * d, d, 1, alone, 4);
    REQUIRE(alone[0] == all[2 * (n + 3) + j]);
  }
}

namespace {

template <class V>
void sums_agree() {
  constexpr Index lanes = static_cast<Index>(V::size);
  const auto x = numbers<float>(lanes * lanes, 6);
  V v[V::size];
  for (Index i = 0; i < lanes; ++i) v[i] = simd::load<V>(x.data() + i * lanes);
  float each[V::size];
  simd::store(each, simd::reduce_add_each<V::size>(v));
  for (Index i = 0; i < lanes; ++i) REQUIRE(each[i] == simd::reduce_add(v[i]));
}

}  // namespace

TEST_CASE("Sums of vectors at once are those one by one", "[core][simd]") {
  sums_agree<simd::Vec<float>>();
}
