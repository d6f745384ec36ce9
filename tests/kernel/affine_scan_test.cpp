#include <limen/kernel/affine_scan.hpp>

#include <limen/core/random.hpp>
#include <limen/core/tensor.hpp>

#include <span>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

/// Rows that start anywhere and lie apart; what is between them must stay.
template <class Real>
struct Rows {
  static constexpr Real guard = 77;
  Index rows, cols, stride, offset;
  std::vector<Real> values;

  Rows(Index r, Index c, Index start)
      : rows(r),
        cols(c),
        stride(c + 3),
        offset(start),
        values(static_cast<std::size_t>(r * (c + 3) + start + 64), guard) {}
  Rows(Index r, Index c, Index start, Random& random, double low, double high) : Rows(r, c, start) {
    for (Index t = 0; t < r; ++t) {
      for (Index i = 0; i < c; ++i) view()(t, i) = static_cast<Real>(random.uniform(low, high));
    }
  }
  MatrixView<Real> view() { return {values.data() + offset, rows, cols, stride}; }
  bool untouched_outside() const {
    for (std::size_t k = 0; k < values.size(); ++k) {
      const Index at = static_cast<Index>(k) - offset;
      const bool inside = at >= 0 && at / stride < rows && at % stride < cols;
      if (!inside && values[k] != guard) return false;
    }
    return true;
  }
};

/// A state with something before and behind what the scan sees.
template <class Real, Index C>
struct State {
  Real other = 5;
  Fixed<Real, C> h;
  Real more = 6;
};

const std::vector<Index> ragged{0, 3, 3, 4, 12, 17};
constexpr Index widest = 4 * 16 + 1;

template <class Real>
struct Problem {
  using S = State<Real, widest>;
  Index T = ragged.back(), C, B = static_cast<Index>(ragged.size()) - 1;
  Rows<Real> a, b, dh, h, da, db;
  std::vector<S> states, d_states;
  std::vector<Real> before;

  Problem(Index channels, Index start, Random& random)
      : C(channels),
        a(T, C, start, random, -1.0, 1.0),
        b(T, C, start + 1, random, -2.0, 2.0),
        dh(T, C, 0, random, -2.0, 2.0),
        h(T, C, start),
        da(T, C, 3),
        db(T, C, start),
        states(static_cast<std::size_t>(B)),
        d_states(static_cast<std::size_t>(B)) {
    for (S& s : states) {
      for (Index c = 0; c < C; ++c) s.h[c] = static_cast<Real>(random.uniform(-2.0, 2.0));
      for (Index c = 0; c < C; ++c) before.push_back(s.h[c]);
    }
    for (S& s : d_states) {
      for (Index c = 0; c < C; ++c) s.h[c] = static_cast<Real>(random.uniform(-2.0, 2.0));
    }
  }
  static Batch<Real> part(std::vector<S>& s) {
    return Batch<S>(std::span<S>(s), ragged).part([](S& one) -> Real& { return one.h[0]; });
  }
};

template <class Real>
bool near(Real got, double expected, double size) {
  const double epsilon = sizeof(Real) == 4 ? 1.2e-7 : 2.3e-16;
  return std::abs(static_cast<double>(got) - expected) <= 20 * epsilon * (1 + size);
}

/// Five lines of scan and five of its way back, in double, beside the kernel.
template <class Real>
void compare(Problem<Real> p, bool carries) {
  const Problem<Real> start = p;
  const Batch<Real> rest{std::span<const Index>(ragged)};
  affine_scan<Real>(p.a.view(), p.b.view(), p.h.view(), carries ? p.part(p.states) : rest);
  affine_scan_backward<Real>(p.a.view(), p.h.view(), carries ? p.before.data() : nullptr,
                             p.dh.view(), p.da.view(), p.db.view(),
                             carries ? p.part(p.d_states) : rest);
  const auto a = p.a.view(), b = p.b.view(), dh = p.dh.view(), h = p.h.view(), da = p.da.view(),
             db = p.db.view();
  for (Index s = 0; s < p.B; ++s) {
    const auto at = static_cast<std::size_t>(s);
    for (Index c = 0; c < p.C; ++c) {
      const double first = carries ? static_cast<double>(start.states[at].h[c]) : 0.0;
      double state = first;
      for (Index t = ragged[at]; t < ragged[at + 1]; ++t) {
        state = static_cast<double>(a(t, c)) * state + static_cast<double>(b(t, c));
        REQUIRE(near(h(t, c), state, 8));
      }
      double carry = carries ? static_cast<double>(start.d_states[at].h[c]) : 0.0;
      for (Index t = ragged[at + 1] - 1; t >= ragged[at]; --t) {
        const double lambda = static_cast<double>(dh(t, c)) + carry;
        const double previous = t > ragged[at] ? static_cast<double>(h(t - 1, c)) : first;
        REQUIRE(near(db(t, c), lambda, 8));
        REQUIRE(near(da(t, c), lambda * previous, 64));
        carry = static_cast<double>(a(t, c)) * lambda;
      }
      if (!carries) continue;
      REQUIRE(near(p.states[at].h[c], state, 8));
      REQUIRE(near(p.d_states[at].h[c], carry, 8));
    }
    for (Index c = p.C; c < widest; ++c) REQUIRE(p.states[at].h[c] == Real(0));
    REQUIRE((p.states[at].other == 5 && p.states[at].more == 6));
  }
  REQUIRE(p.h.untouched_outside());
  REQUIRE(p.da.untouched_outside());
  REQUIRE(p.db.untouched_outside());
}

}  // namespace

TEMPLATE_TEST_CASE("The affine scan is a plain loop at every width", "[kernel][affine_scan]", float,
                   double) {
  Random random(3);
  for (Index C = 1; C <= widest; ++C) {
    for (const Index start : {0, 1, 7}) {
      INFO(C << " channels, start " << start);
      compare(Problem<TestType>(C, start, random), true);
    }
    compare(Problem<TestType>(C, 0, random), false);
  }
}

TEST_CASE("Half of the state stays at each step of the scan: a case by hand",
          "[kernel][affine_scan]") {
  double a[] = {0.5, 0.5}, b[] = {1, 2}, dh[] = {1, 1}, h[2], da[2], lambda[2], d_first = 0;
  const auto rows = [](double* p) { return MatrixView<double>{p, 2, 1, 1}; };
  affine_scan(rows(a), rows(b), rows(h));
  REQUIRE(h[0] == 1);
  REQUIRE(h[1] == 2.5);
  affine_scan_backward(rows(a), rows(h), nullptr, rows(dh), rows(da), rows(lambda),
                       Batch<double>(d_first));
  REQUIRE(lambda[0] == 1.5);
  REQUIRE(lambda[1] == 1);
  REQUIRE(da[0] == 0);
  REQUIRE(da[1] == 1);
  REQUIRE(d_first == 0.75);
}

TEST_CASE("An affine scan may overwrite its coefficients", "[kernel][affine_scan]") {
  Random random(5);
  for (const Index C : {1, 16, 19, 40}) {
    Problem<float> p(C, 0, random);
    const auto rest = Batch<float>(std::span<const Index>(ragged));
    affine_scan<float>(p.a.view(), p.b.view(), p.h.view(), rest);
    Rows<float> over_a = p.a, over_b = p.b, over_dh = p.dh;
    affine_scan<float>(over_a.view(), p.b.view(), over_a.view(), rest);
    affine_scan<float>(p.a.view(), over_b.view(), over_b.view(), rest);
    affine_scan_backward<float>(p.a.view(), p.h.view(), nullptr, p.dh.view(), p.da.view(),
                                p.db.view(), rest);
    Rows<float> da = p.da;
    affine_scan_backward<float>(p.a.view(), p.h.view(), nullptr, over_dh.view(), da.view(),
                                over_dh.view(), rest);
    for (Index t = 0; t < p.T; ++t) {
      for (Index c = 0; c < C; ++c) {
        REQUIRE(over_a.view()(t, c) == p.h.view()(t, c));
        REQUIRE(over_b.view()(t, c) == p.h.view()(t, c));
        REQUIRE(over_dh.view()(t, c) == p.db.view()(t, c));
      }
    }
  }
}

TEST_CASE("A constant decay is one row, and gathers its gradient there", "[kernel][affine_scan]") {
  Random random(6);
  const Index C = 21;
  Problem<double> p(C, 0, random);
  Rows<double> constant(1, C, 0, random, 0.5, 1.0);
  for (Index t = 0; t < p.T; ++t) {
    for (Index c = 0; c < C; ++c) p.a.view()(t, c) = constant.view()(0, c);
  }
  Problem<double> q = p;
  affine_scan<double>(p.a.view(), p.b.view(), p.h.view(), p.part(p.states));
  affine_scan_backward<double>(p.a.view(), p.h.view(), p.before.data(), p.dh.view(), p.da.view(),
                               p.db.view(), p.part(p.d_states));
  std::vector<double> sum(static_cast<std::size_t>(C), 10.0);
  const MatrixView<double> row{constant.view().data, p.T, C, 0}, gathered{sum.data(), p.T, C, 0};
  affine_scan<double>(row, q.b.view(), q.h.view(), q.part(q.states));
  affine_scan_backward<double>(row, q.h.view(), q.before.data(), q.dh.view(), gathered, q.db.view(),
                               q.part(q.d_states));
  for (Index c = 0; c < C; ++c) {
    double expected = 10;
    for (Index t = 0; t < p.T; ++t) {
      REQUIRE(q.h.view()(t, c) == p.h.view()(t, c));
      REQUIRE(q.db.view()(t, c) == p.db.view()(t, c));
      expected += p.da.view()(t, c);
    }
    REQUIRE(near(sum[static_cast<std::size_t>(c)], expected, 100));
  }
}

TEST_CASE("Two threads scan to the same bits", "[kernel][affine_scan]") {
  Random random(7);
  const std::vector<Index> offsets{0, 2000, 2000, 2001, 4100};
  const Index T = offsets.back();
  for (const Index C : {5, 33, 100}) {  // few channels: by sequences
    std::vector<float> a, b, dh;
    for (Index i = 0; i < T * C; ++i) {
      a.push_back(static_cast<float>(random.uniform()));
      b.push_back(static_cast<float>(random.normal()));
      dh.push_back(static_cast<float>(random.normal()));
    }
    const auto run = [&](int threads) {
      const Threads allowed(threads);
      std::vector<float> all(static_cast<std::size_t>(3 * T * C));
      const auto rows = [&](const float* p) { return MatrixView<const float>{p, T, C, C}; };
      const auto out = [&](Index i) { return MatrixView<float>{all.data() + i * T * C, T, C, C}; };
      const Batch<float> rest{std::span<const Index>(offsets)};
      affine_scan<float>(rows(a.data()), rows(b.data()), out(0), rest);
      affine_scan_backward<float>(rows(a.data()), out(0), nullptr, rows(dh.data()), out(1), out(2),
                                  rest);
      return all;
    };
    REQUIRE(run(1) == run(2));
  }
}

TEST_CASE("A NaN stays in its channel and its sequence", "[kernel][affine_scan]") {
  Random random(8);
  Problem<float> p(19, 0, random);
  p.b.view()(5, 17) = std::numeric_limits<float>::quiet_NaN();
  affine_scan<float>(p.a.view(), p.b.view(), p.h.view(), p.part(p.states));
  for (Index t = 0; t < p.T; ++t) {
    for (Index c = 0; c < p.C; ++c) {
      REQUIRE(std::isnan(p.h.view()(t, c)) == (c == 17 && t >= 5 && t < 12));
    }
  }
}
