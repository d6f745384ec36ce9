#include <limen/attention/linear_sums.hpp>

#include <cmath>
#include <type_traits>
#include <vector>

#include "../catch.hpp"

#include <limen/core/layer.hpp>
#include <limen/core/random.hpp>

using namespace limen;

namespace {

constexpr LinearAttentionConfig two{.d_model = 2, .eps = 0.5};
constexpr LinearAttentionConfig heads{
    .d_model = 6, .n_heads = 2, .map = FeatureMap::random, .features = 5};
constexpr LinearAttentionConfig bare{
    .d_model = 6, .n_heads = 2, .d_head = 4, .map = FeatureMap::identity, .normalize = false};
constexpr LinearAttentionConfig whole{.d_model = 2, .causal = false, .eps = 0.5};

std::vector<double> noise(Index n, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> x(static_cast<std::size_t>(n));
  for (double& v : x) v = random.normal();
  return x;
}

}  // namespace

TEST_CASE("Widths of linear attention follow from its config", "[attention][linear_sums]") {
  STATIC_REQUIRE(two.head_width() == 2);
  STATIC_REQUIRE(two.feature_width() == 2);
  STATIC_REQUIRE(two.sum_width() == 3);  // v and a 1
  STATIC_REQUIRE(heads.head_width() == 3);
  STATIC_REQUIRE(heads.feature_width() == 5);
  STATIC_REQUIRE(heads.sum_width() == 4);
  STATIC_REQUIRE(bare.head_width() == 4);
  STATIC_REQUIRE(bare.feature_width() == 4);
  STATIC_REQUIRE(bare.sum_width() == 4);
}

TEST_CASE("Values get a 1, and sums are divided by theirs", "[attention][linear_sums]") {
  using Sums = detail::LinearSums<two, double>;
  const double v[] = {3, 4, 5, 6};
  double w[6], o[4], dv[4];
  Sums::widen({v, 2, 2, 2}, {w, 2, 3, 3});
  const double expected[] = {3, 4, 1, 5, 6, 1};
  for (int i = 0; i < 6; ++i) REQUIRE(w[i] == expected[i]);
  Sums::narrow({w, 2, 3, 3}, {dv, 2, 2, 2});
  for (int i = 0; i < 4; ++i) REQUIRE(dv[i] == v[i]);
  const double s[] = {3, 6, 1, 5, 10, 2};
  Sums::divide({s, 2, 3, 3}, {o, 2, 2, 2});  // by 1.5 and 2.5
  for (int i = 0; i < 4; ++i) REQUIRE(std::abs(o[i] - (i % 2 == 0 ? 2 : 4)) < 1e-15);
}

TEMPLATE_TEST_CASE_SIG("A division of sums has the slopes that backward says",
                       "[attention][linear_sums]", ((LinearAttentionConfig C), C), (two), (heads),
                       (bare)) {
  using Sums = detail::LinearSums<C, double>;
  constexpr Index T = 3, n = T * Sums::H * Sums::d, m = T * Sums::H * Sums::P;
  auto s = noise(m, 1);
  for (double& x : s) x = 2 + std::abs(x);
  const auto d_o = noise(n, 2);
  std::vector<double> o(d_o.size()), ds(s.size(), 99.0);
  const auto view = [](auto& x) {
    const auto width = static_cast<Index>(x.size()) / T;
    return MatrixView<std::remove_reference_t<decltype(*x.data())>>{x.data(), T, width, width};
  };
  const auto loss = [&] {
    Sums::divide(view(s), view(o));
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) sum += o[i] * d_o[i];
    return sum;
  };
  loss();
  Sums::divide_back(view(d_o), view(o), view(s), view(ds));
  for (std::size_t i = 0; i < s.size(); ++i) {
    const double value = s[i];
    s[i] = value + 1e-6;
    const double above = loss();
    s[i] = value - 1e-6;
    const double below = loss();
    s[i] = value;
    REQUIRE(std::abs((above - below) / 2e-6 - ds[i]) < 1e-8);
  }
}

TEST_CASE("Sums go on from the states of a batch, and decay", "[attention][linear_sums]") {
  constexpr LinearAttentionConfig one{.d_model = 1};
  using Sums = detail::LinearSums<one, double>;
  using State = LinearAttentionState<double, 1, 1, 2>;
  // Two sequences and one without rows between them.
  const double q[] = {1, 2, 3}, k[] = {1, 10, 100}, w[] = {5, 1, 6, 1, 7, 1},
               decay[] = {1, 0.5, 0.25};
  std::vector<State> states(3);
  states[0].s[0] = 8;
  states[1].s[0] = 9;
  states[2].s[1] = 4;
  const Index offsets[] = {0, 2, 2, 3};
  double s[6], s1[2];
  const Sums sums{{q, 3, 1, 1}, {k, 3, 1, 1}, {w, 3, 2, 2}, decay};
  auto first = states[0];
  sums.read(Batch<State>(std::span(states), offsets), {s, 3, 2, 2}, nullptr);
  // S: [8 + 5, 1], then half of it and 10 [6, 1]; of the last a quarter of [0, 4] and 100 [7, 1].
  const double expected[] = {13, 1, 2 * 66.5, 2 * 10.5, 3 * 700.0, 3 * 101.0};
  for (int i = 0; i < 6; ++i) REQUIRE(std::abs(s[i] - expected[i]) < 1e-12 * expected[i]);
  REQUIRE(states[1].s[0] == 9);
  REQUIRE(states[2].s[1] == 101);
  for (int t = 0; t < 2; ++t) {
    const Sums row{{q + t, 1, 1, 1}, {k + t, 1, 1, 1}, {w + 2 * t, 1, 2, 2}, decay + t};
    row.step(first.s.data(), s1);
    REQUIRE(std::abs(s1[0] - expected[2 * t]) < 1e-12 * expected[2 * t]);
  }
  REQUIRE(first.s[1] == 10.5);
  const Sums kept{{q, 1, 1, 1}, {k, 1, 1, 1}, {w, 1, 2, 2}, nullptr};
  kept.step(first.s.data(), s1);  // nothing decays
  REQUIRE(first.s[1] == 11.5);
}

TEST_CASE("Without causality a sequence reads the sum of its own rows",
          "[attention][linear_sums]") {
  using Sums = detail::LinearSums<whole, double>;
  const auto q = noise(5 * 2, 3), k = noise(5 * 2, 4), v = noise(5 * 2, 5), ds = noise(5 * 3, 6);
  std::vector<double> w(15), s(15), dq(10), dk(10), dw(15);
  Sums::widen({v.data(), 5, 2, 2}, {w.data(), 5, 3, 3});
  const Sums sums{{q.data(), 5, 2, 2}, {k.data(), 5, 2, 2}, {w.data(), 5, 3, 3}, nullptr};
  const Index offsets[] = {0, 3, 3, 5};
  const Batch<NoState> batch = from_rest(offsets);
  sums.read(batch, {s.data(), 5, 3, 3}, nullptr);
  KeptStates<double> unused;
  sums.back(batch, unused, {ds.data(), 5, 3, 3}, {dq.data(), 5, 2, 2}, {dk.data(), 5, 2, 2},
            {dw.data(), 5, 3, 3});
  const auto same = [](Index i, Index j) { return (i < 3) == (j < 3); };
  const auto dot = [](const std::vector<double>& a, Index i, const std::vector<double>& b, Index j,
                      Index n) {
    double sum = 0;
    for (Index c = 0; c < n; ++c) {
      sum += a[static_cast<std::size_t>(i * n + c)] * b[static_cast<std::size_t>(j * n + c)];
    }
    return sum;
  };
  for (Index i = 0; i < 5; ++i) {  // pair by pair
    double s_i[3] = {}, dq_i[2] = {}, dk_i[2] = {}, dw_i[3] = {};
    for (Index j = 0; j < 5; ++j) {
      if (!same(i, j)) continue;
      for (Index c = 0; c < 3; ++c) {
        s_i[c] += dot(q, i, k, j, 2) * w[static_cast<std::size_t>(j * 3 + c)];
        dw_i[c] += dot(q, j, k, i, 2) * ds[static_cast<std::size_t>(j * 3 + c)];
      }
      for (Index c = 0; c < 2; ++c) {
        dq_i[c] += dot(ds, i, w, j, 3) * k[static_cast<std::size_t>(j * 2 + c)];
        dk_i[c] += dot(ds, j, w, i, 3) * q[static_cast<std::size_t>(j * 2 + c)];
      }
    }
    for (Index c = 0; c < 3; ++c) {
      REQUIRE(std::abs(s[static_cast<std::size_t>(i * 3 + c)] - s_i[c]) < 1e-12);
      REQUIRE(std::abs(dw[static_cast<std::size_t>(i * 3 + c)] - dw_i[c]) < 1e-12);
    }
    for (Index c = 0; c < 2; ++c) {
      REQUIRE(std::abs(dq[static_cast<std::size_t>(i * 2 + c)] - dq_i[c]) < 1e-12);
      REQUIRE(std::abs(dk[static_cast<std::size_t>(i * 2 + c)] - dk_i[c]) < 1e-12);
    }
  }
}
