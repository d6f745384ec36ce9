#include <limen/kernel/low_rank.hpp>
#include <limen/kernel/mix.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
std::vector<Real> noise(Index n, Random& random) {
  std::vector<Real> x(static_cast<std::size_t>(n));
  for (Real& v : x) v = static_cast<Real>(random.normal());
  return x;
}

template <class Real>
constexpr double epsilon = std::numeric_limits<Real>::epsilon();

template <class Real>
double at(const std::vector<Real>& x, Index i) {
  return static_cast<double>(x[static_cast<std::size_t>(i)]);
}

}  // namespace

TEMPLATE_TEST_CASE("Adapters are mixed a head at a time", "[kernel][mix]", float, double) {
  Random random(1);
  for (const AdapterSizes n : {AdapterSizes{1, 1, 1, 1, 1}, AdapterSizes{3, 1, 7, 5, 2},
                               AdapterSizes{2, 3, 51, 9, 4}, AdapterSizes{4, 8, 16, 136, 1}}) {
    const auto a = noise<TestType>(n.adapters * n.of_a(), random);
    const auto b = noise<TestType>(n.adapters * n.of_b(), random);
    const auto w = noise<TestType>(n.heads * n.adapters, random);
    const auto da = noise<TestType>(n.of_a(), random), db = noise<TestType>(n.of_b(), random);
    auto mixed_a = noise<TestType>(n.of_a(), random), mixed_b = noise<TestType>(n.of_b(), random);
    mix_adapters(n, w.data(), a.data(), b.data(), mixed_a.data(), mixed_b.data());
    std::vector<TestType> d_a(a.size(), 1), d_b(b.size(), 1), dw(w.size());
    add_mix_gradient(n, w.data(), da.data(), db.data(), d_a.data(), d_b.data());
    mix_dots(n, a.data(), b.data(), da.data(), db.data(), dw.data());
    std::vector<double> dots(w.size());
    const auto check = [&](Index size, auto head, const auto& all, const auto& mixed, const auto& d,
                           const auto& d_all) {
      for (Index i = 0; i < size; ++i) {
        double sum = 0;
        for (Index s = 0; s < n.adapters; ++s) {
          const Index which = head(i) * n.adapters + s;
          sum += at(w, which) * at(all, s * size + i);
          dots[static_cast<std::size_t>(which)] += at(all, s * size + i) * at(d, i);
          REQUIRE(at(d_all, s * size + i) ==
                  Approx(1 + at(w, which) * at(d, i)).margin(20 * epsilon<TestType>));
        }
        REQUIRE(at(mixed, i) == Approx(sum).margin(20 * epsilon<TestType>));
      }
    };
    check(n.of_a(), [&](Index i) { return i / n.rank / (n.in / n.heads); }, a, mixed_a, da, d_a);
    check(n.of_b(), [&](Index i) { return i % n.out / (n.out / n.heads); }, b, mixed_b, db, d_b);
    for (std::size_t i = 0; i < dw.size(); ++i) {
      REQUIRE(static_cast<double>(dw[i]) ==
              Approx(dots[i]).epsilon(1e-5).margin(300 * epsilon<TestType>));
    }
  }
}

TEMPLATE_TEST_CASE("A change of low rank goes in and comes out", "[kernel][low_rank]", float,
                   double) {
  Random random(2);
  for (const Index i : {1, 7, 16, 33}) {
    const Index o = 5, r = 3;
    const auto before = noise<TestType>(o * i, random);
    const auto a = noise<TestType>(r * i, random), b = noise<TestType>(o * r, random);
    auto w = before;
    const MatrixView<TestType> view{w.data(), o, i, i};
    const MatrixView<const TestType> b_view{b.data(), o, r, r}, a_view{a.data(), r, i, i};
    add_low_rank(view, b_view, a_view, 1.5);
    std::vector<double> changed;
    for (Index m = 0; m < o; ++m) {
      for (Index k = 0; k < i; ++k) {
        double sum = 0;
        for (Index j = 0; j < r; ++j) sum += at(b, m * r + j) * at(a, j * i + k);
        changed.push_back(at(before, m * i + k) + 1.5 * sum);
        REQUIRE(
            at(w, m * i + k) ==
            Approx(changed.back()).epsilon(2 * epsilon<TestType>).margin(20 * epsilon<TestType>));
      }
    }
    add_low_rank(view, b_view, a_view, -1.5);
    for (Index k = 0; k < o * i; ++k) {
      const double size = std::abs(changed[static_cast<std::size_t>(k)]) + std::abs(at(before, k));
      REQUIRE(std::abs(at(w, k) - at(before, k)) <= epsilon<TestType> * size);
    }
  }
}
