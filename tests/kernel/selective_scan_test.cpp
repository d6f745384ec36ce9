#include <limen/core/denormals.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/selective_scan_backward.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
struct Problem {
  Index T, E, N;
  std::vector<Real> a, d, x, delta, z, b, c, h, dout, dh;

  Problem(Index rows, Index channels, Index states, double delta_at = -1)
      : T(rows), E(channels), N(states) {
    Random random(3);
    const auto draw = [&](Index n, double mean, double deviation) {
      std::vector<Real> v(static_cast<std::size_t>(n));
      for (Real& r : v) r = static_cast<Real>(mean + deviation * random.normal());
      return v;
    };
    a = draw(E * N, -1, 0.3);
    for (Real& v : a) v = -std::abs(v);
    d = draw(E, 0, 1);
    x = draw(T * E, 0, 1);
    delta = draw(T * E, delta_at, 1);
    z = draw(T * E, 0, 1);
    b = draw(T * N, 0, 1);
    c = draw(T * N, 0, 1);
    h = draw(E * N, 0, 1);
    dout = draw(T * E, 0, 1);
    dh = draw(E * N, 0, 1);
  }

  std::vector<Real> in_blocks(const std::vector<Real>& v, Real factor = 1) const {
    std::vector<Real> to(static_cast<std::size_t>(scan_state_size(E, N)));
    for (Index e = 0; e < E; ++e) {
      for (Index n = 0; n < N; ++n) {
        to[static_cast<std::size_t>(scan_at(e, n, N))] =
            factor * v[static_cast<std::size_t>(e * N + n)];
      }
    }
    return to;
  }

  static constexpr Real log2_e = Real(1.4426950408889634L);

  SelectiveScan<Real> scan(const std::vector<Real>& packed, bool gated) const {
    return {N,
            packed.data(),
            false,
            d.data(),
            {x.data(), T, E, E},
            {delta.data(), T, E, E},
            {gated ? z.data() : nullptr, T, E, E},
            {b.data(), T, N, N},
            {c.data(), T, N, N}};
  }
};

/// The equations, one number after the other, in double.
template <class Real>
std::vector<double> plain(const Problem<Real>& p, bool gated, std::vector<double>& h) {
  std::vector<double> y(static_cast<std::size_t>(p.T * p.E));
  const auto at = [](const std::vector<Real>& v, Index i) {
    return static_cast<double>(v[static_cast<std::size_t>(i)]);
  };
  for (Index t = 0; t < p.T; ++t) {
    for (Index e = 0; e < p.E; ++e) {
      const double x = at(p.x, t * p.E + e), delta = std::log1p(std::exp(at(p.delta, t * p.E + e)));
      double sum = at(p.d, e) * x;
      for (Index n = 0; n < p.N; ++n) {
        double& s = h[static_cast<std::size_t>(e * p.N + n)];
        s = std::exp(delta * at(p.a, e * p.N + n)) * s + delta * x * at(p.b, t * p.N + n);
        sum += s * at(p.c, t * p.N + n);
      }
      const double z = at(p.z, t * p.E + e);
      y[static_cast<std::size_t>(t * p.E + e)] = gated ? sum * z / (1 + std::exp(-z)) : sum;
    }
  }
  return y;
}

template <class Real>
void matches_plain(Index T, Index E, Index N, bool gated) {
  const Problem<Real> p(T, E, N);
  const auto packed = p.in_blocks(p.a, p.log2_e);
  auto h = p.in_blocks(p.h);
  std::vector<Real> y(static_cast<std::size_t>(T * E));
  const FlushDenormals guard;
  selective_scan<Real>(p.scan(packed, gated), 1,
                       [&](Index) { return ScanSequence<Real>{0, T, h.data(), nullptr}; },
                       {y.data(), T, E, E});
  std::vector<double> expected_h(p.h.begin(), p.h.end());
  const auto expected = plain(p, gated, expected_h);
  const double eps = 40 * static_cast<double>(std::numeric_limits<Real>::epsilon());
  for (std::size_t i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(static_cast<double>(y[i]) - expected[i]) <= eps * (4 + std::abs(expected[i])));
  }
  for (Index e = 0; e < E; ++e) {
    for (Index n = 0; n < N; ++n) {
      const double s = expected_h[static_cast<std::size_t>(e * N + n)];
      REQUIRE(std::abs(static_cast<double>(h[static_cast<std::size_t>(scan_at(e, n, N))]) - s) <=
              eps * (4 + std::abs(s)));
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("A scan is what its equations say, at every size", "[kernel][selective_scan]",
                   float, double) {
  for (const Index E : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 70})
    matches_plain<TestType>(19, E, 5, true);
  for (const Index N : {1, 2, 3, 4, 7, 8, 9, 16, 21, 33}) matches_plain<TestType>(5, 18, N, false);
  for (const Index T : {0, 1, 2, 15, 16, 17, 33, 64}) matches_plain<TestType>(T, 20, 16, true);
}

TEMPLATE_TEST_CASE("Powers of one decay are the decays of a geometric A",
                   "[kernel][selective_scan]", float, double) {
  for (const Index N : {1, 2, 3, 8, 16, 19}) {
    Problem<TestType> p(21, 19, N);
    std::vector<TestType> first(static_cast<std::size_t>(scan_state_size(p.E, 1)));
    for (Index e = 0; e < p.E; ++e) {
      const TestType a = p.a[static_cast<std::size_t>(e * N)];
      first[static_cast<std::size_t>(e)] = a * p.log2_e;
      for (Index n = 0; n < N; ++n) {
        p.a[static_cast<std::size_t>(e * N + n)] = a * static_cast<TestType>(n + 1);
      }
    }
    const auto packed = p.in_blocks(p.a, p.log2_e);
    auto h = p.in_blocks(p.h), h_powers = h;
    std::vector<TestType> y(p.x.size()), y_powers(p.x.size());
    auto scan = p.scan(packed, true);
    const auto run = [&](std::vector<TestType>& state, std::vector<TestType>& to) {
      selective_scan<TestType>(
          scan, 1, [&](Index) { return ScanSequence<TestType>{0, p.T, state.data(), nullptr}; },
          {to.data(), p.T, p.E, p.E});
    };
    run(h, y);
    scan.a = first.data();
    scan.powers = true;
    run(h_powers, y_powers);
    const auto close = [](const auto& a, const auto& b) {
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double eps = 100 * static_cast<double>(std::numeric_limits<TestType>::epsilon());
        REQUIRE(std::abs(static_cast<double>(a[i] - b[i])) <=
                eps * (4 + std::abs(static_cast<double>(b[i]))));
      }
    };
    close(y_powers, y);
    close(h_powers, h);
  }
}

namespace {

/// Everything that comes back from one sequence with a first and a last state.
struct Gradients {
  std::vector<double> a, d, x, delta, z, b, c, h;
};

Gradients backward(const Problem<double>& p, bool gated) {
  const auto packed = p.in_blocks(p.a, p.log2_e);
  auto h = p.in_blocks(p.h), dh = p.in_blocks(p.dh);
  std::vector<double> y(p.x.size());
  std::vector<double> kept(static_cast<std::size_t>((p.T + scan_chunk - 1) / scan_chunk) *
                           h.size());
  const auto scan = p.scan(packed, gated);
  selective_scan<double>(scan, 1,
                         [&](Index) { return ScanSequence<double>{0, p.T, h.data(), kept.data()}; },
                         {y.data(), p.T, p.E, p.E});
  Gradients g;
  g.a.assign(h.size(), 0);
  g.d.assign(p.d.size(), 0);
  for (auto* v : {&g.x, &g.delta, &g.z}) v->assign(p.x.size(), -7);
  g.b.assign(p.b.size(), -7);
  g.c.assign(p.c.size(), -7);
  const auto rows = [&](std::vector<double>& v, Index width) {
    return MatrixView<double>{v.data(), p.T, width, width};
  };
  selective_scan_backward<double>(
      scan, {p.dout.data(), p.T, p.E, p.E}, 1,
      [&](Index) { return ScanSequence<double, const double>{0, p.T, dh.data(), kept.data()}; },
      {g.a.data(), g.d.data(), rows(g.x, p.E), rows(g.delta, p.E), rows(g.z, p.E), rows(g.b, p.N),
       rows(g.c, p.N)});
  const auto from_blocks = [&](const std::vector<double>& v) {
    std::vector<double> to(p.a.size());
    for (Index e = 0; e < p.E; ++e) {
      for (Index n = 0; n < p.N; ++n) {
        to[static_cast<std::size_t>(e * p.N + n)] = v[static_cast<std::size_t>(scan_at(e, n, p.N))];
      }
    }
    return to;
  };
  g.a = from_blocks(g.a);
  g.h = from_blocks(dh);
  return g;
}

double loss(const Problem<double>& p, bool gated) {
  std::vector<double> h = p.h;
  const auto y = plain(p, gated, h);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * p.dout[i];
  for (std::size_t i = 0; i < h.size(); ++i) sum += h[i] * p.dh[i];
  return sum;
}

}  // namespace

TEST_CASE("Backward is the slope of the plain scan in everything it reads",
          "[kernel][selective_scan]") {
  struct Size {
    Index T, E, N;
    bool gated;
  };
  for (const Size s : {Size{1, 1, 1, true}, Size{2, 3, 2, false}, Size{19, 3, 5, true},
                       Size{35, 2, 9, true}, Size{5, 18, 3, false}, Size{17, 2, 16, true}}) {
    Problem<double> p(s.T, s.E, s.N);
    const Gradients g = backward(p, s.gated);
    const auto check = [&](const char* what, std::vector<double>& values,
                           const std::vector<double>& gradient) {
      INFO(what << " of " << s.T << " x " << s.E << " x " << s.N);
      const std::size_t step = values.size() / 60 + 1;
      for (std::size_t i = 0; i < values.size(); i += step) {
        const double before = values[i], e = 1e-6;
        values[i] = before + e;
        const double above = loss(p, s.gated);
        values[i] = before - e;
        const double below = loss(p, s.gated);
        values[i] = before;
        const double slope = (above - below) / (2 * e);
        REQUIRE(std::abs(gradient[i] - slope) <= 1e-6 * (1 + std::abs(slope)));
      }
    };
    check("A", p.a, g.a);
    check("D", p.d, g.d);
    check("x", p.x, g.x);
    check("delta", p.delta, g.delta);
    if (s.gated) check("z", p.z, g.z);
    check("B", p.b, g.b);
    check("C", p.c, g.c);
    check("first state", p.h, g.h);
  }
}

TEST_CASE("Two threads give the bits of one", "[kernel][selective_scan]") {
  const Problem<double> p(200, 300, 8);
  const auto run = [&](int count, std::vector<double>& y) {
    const Threads threads(count);
    const auto packed = p.in_blocks(p.a, p.log2_e);
    auto h = p.in_blocks(p.h);
    y.assign(p.x.size(), 0);
    selective_scan<double>(p.scan(packed, true), 1,
                           [&](Index) { return ScanSequence<double>{0, p.T, h.data(), nullptr}; },
                           {y.data(), p.T, p.E, p.E});
    return backward(p, true);
  };
  std::vector<double> y1, y2;
  const Gradients one = run(1, y1), two = run(2, y2);
  REQUIRE(y1 == y2);
  REQUIRE(one.a == two.a);
  REQUIRE(one.b == two.b);
  REQUIRE(one.c == two.c);
  REQUIRE(one.x == two.x);
  REQUIRE(one.h == two.h);
}

TEST_CASE("Steps from tiny to huge leave finite, right numbers", "[kernel][selective_scan]") {
  for (const double at : {-80.0, -20.0, 0.0, 19.0, 21.0, 60.0}) {
    const Problem<float> p(40, 17, 16, at);
    const auto packed = p.in_blocks(p.a, p.log2_e);
    auto h = p.in_blocks(p.h);
    std::vector<float> y(p.x.size());
    selective_scan<float>(p.scan(packed, false), 1,
                          [&](Index) { return ScanSequence<float>{0, p.T, h.data(), nullptr}; },
                          {y.data(), p.T, p.E, p.E});
    std::vector<double> expected_h(p.h.begin(), p.h.end());
    const auto expected = plain(p, false, expected_h);
    for (std::size_t i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(static_cast<double>(y[i]) - expected[i]) <=
              1e-5 * (10 + std::abs(expected[i]) + std::exp(at > 0 ? 0 : at) + std::abs(at)));
    }
  }
}

TEST_CASE("A million rows in float do not drift from double", "[kernel][selective_scan][.slow]") {
  const Index E = 16, N = 4, T = 1000;
  Problem<float> p(T, E, N, -6);
  const auto packed = p.in_blocks(p.a, p.log2_e);
  auto h = p.in_blocks(p.h);
  std::vector<float> y(p.x.size());
  std::vector<double> expected_h(p.h.begin(), p.h.end());
  const FlushDenormals guard;
  double worst = 0, scale = 0;
  for (int round = 0; round < 1000; ++round) {
    selective_scan<float>(p.scan(packed, false), 1,
                          [&](Index) { return ScanSequence<float>{0, p.T, h.data(), nullptr}; },
                          {y.data(), p.T, p.E, p.E});
    const auto expected = plain(p, false, expected_h);
    for (std::size_t i = 0; i < y.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) - expected[i]));
      scale = std::max(scale, std::abs(expected[i]));
    }
  }
  INFO("worst " << worst << " of " << scale);
  REQUIRE(worst <= 1e-4 * scale);
}
