#pragma once
/// @file  What the tests of matrix-state kernels share: operands, a recurrence written as a loop,
/// and the comparison of a kernel with it.

#include <limen/core/random.hpp>
#include <limen/kernel/matrix_state.hpp>

#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "../catch.hpp"

namespace operands {

using namespace limen;
using Numbers = std::vector<double>;

enum class Rule { head, keys, delta };  ///< one decay per head, one per key; the delta rule

struct Size {
  Index heads, groups, keys, width;
};

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// T rows, in double; decays in (0, 1). The delta rule has keys of length 1, as it must.
struct Operands {
  Operands(Size s, Rule r, Index rows, std::uint64_t seed) : size(s), rule(r), T(rows) {
    Random random(seed);
    const auto draw = [&](Index n, auto f) {
      Numbers x(at(n));
      for (double& value : x) value = f();
      return x;
    };
    const auto normal = [&] { return random.normal(); };
    q = draw(T * s.groups * s.keys, normal);
    k = draw(T * s.groups * s.keys, normal);
    v = draw(T * s.heads * s.width, normal);
    a = draw(T * s.heads * (rule == Rule::keys ? s.keys : 1),
             [&] { return std::exp(-std::abs(random.normal())); });
    d = draw(T * s.heads, [&] { return random.uniform(0.1, rule == Rule::delta ? 2 : 1); });
    first = draw(s.heads * s.keys * s.width, normal);
    dy = draw(T * s.heads * s.width, normal);
    d_last = draw(s.heads * s.keys * s.width, normal);
    for (Index i = 0; rule == Rule::delta && i < T * s.groups; ++i) {
      double square = 0;
      for (Index n = 0; n < s.keys; ++n) square += k[at(i * s.keys + n)] * k[at(i * s.keys + n)];
      for (Index n = 0; n < s.keys; ++n) k[at(i * s.keys + n)] /= std::sqrt(square);
    }
  }

  std::size_t decay(Index t, Index h, Index n) const {
    return at(rule == Rule::keys ? (t * size.heads + h) * size.keys + n : t * size.heads + h);
  }

  Size size;
  Rule rule;
  Index T;
  Numbers q, k, v, a, d, first, dy, d_last;
};

struct Results {
  Numbers y, last, dq, dk, dv, dlog_a, dd, d_first;
};

/// The recurrence and its derivative, number by number.
inline Results plain(const Operands& o, double scale) {
  const Index H = o.size.heads, G = o.size.groups, N = o.size.keys, P = o.size.width;
  Results r;
  r.y.assign(o.v.size(), 0);
  r.dq.assign(o.q.size(), 0);
  r.dk = r.dq;
  r.dv = r.y;
  r.dlog_a.assign(o.a.size(), 0);
  r.dd.assign(o.d.size(), 0);
  r.last = r.d_first = Numbers(o.first.size());
  const bool delta = o.rule == Rule::delta;
  for (Index h = 0; h < H; ++h) {
    for (Index p = 0; p < P; ++p) {  // columns of the state know nothing of each other
      const auto key = [&](Index t, Index n) { return at((t * G + h / (H / G)) * N + n); };
      const auto value = [&](Index t) { return at((t * H + h) * P + p); };
      std::vector<Numbers> S(1, Numbers(at(N)));
      Numbers missing, dS(at(N));
      for (Index n = 0; n < N; ++n) S[0][at(n)] = o.first[at((h * N + n) * P + p)];
      for (Index t = 0; t < o.T; ++t) {
        Numbers s = S.back();
        double e = o.v[value(t)];
        for (Index n = 0; n < N; ++n) {
          s[at(n)] *= o.a[o.decay(t, h, n)];
          if (delta) e -= s[at(n)] * o.k[key(t, n)];
        }
        missing.push_back(e);
        for (Index n = 0; n < N; ++n) {
          s[at(n)] += o.k[key(t, n)] * o.d[at(t * H + h)] * e;
          r.y[value(t)] += scale * s[at(n)] * o.q[key(t, n)];
        }
        S.push_back(s);
      }
      for (Index n = 0; n < N; ++n) {
        r.last[at((h * N + n) * P + p)] = S.back()[at(n)];
        dS[at(n)] = o.d_last[at((h * N + n) * P + p)];
      }
      for (Index t = o.T - 1; t >= 0; --t) {
        const double d = o.d[at(t * H + h)], e = missing[at(t)], dy = o.dy[value(t)];
        double du = 0;
        for (Index n = 0; n < N; ++n) {
          dS[at(n)] += scale * o.q[key(t, n)] * dy;
          r.dq[key(t, n)] += scale * S[at(t + 1)][at(n)] * dy;
          du += dS[at(n)] * o.k[key(t, n)];
        }
        r.dd[at(t * H + h)] += du * e;
        r.dv[value(t)] += d * du;
        for (Index n = 0; n < N; ++n) {
          const double a = o.a[o.decay(t, h, n)], before = S[at(t)][at(n)];
          r.dk[key(t, n)] += dS[at(n)] * d * e;
          if (delta) {
            r.dk[key(t, n)] -= a * before * d * du;
            dS[at(n)] -= o.k[key(t, n)] * d * du;
          }
          r.dlog_a[o.decay(t, h, n)] += a * dS[at(n)] * before;
          dS[at(n)] *= a;
        }
      }
      for (Index n = 0; n < N; ++n) r.d_first[at((h * N + n) * P + p)] = dS[at(n)];
    }
  }
  return r;
}

template <class Real>
struct Cast {
  explicit Cast(const Numbers& x) : values(static_cast<Index>(x.size())) {
    for (Index i = 0; i < values.size(); ++i) values[i] = static_cast<Real>(x[at(i)]);
  }
  MatrixView<Real> rows(Index n) {
    const Index cols = n > 0 ? values.size() / n : 0;
    return {values.data(), n, cols, cols};
  }
  Real* data() { return values.data(); }
  Buffer<Real> values;
};

/// Within `tolerance` times the largest expected number.
template <class A>
void same(const char* what, const A& got, const Numbers& expected, double tolerance) {
  INFO(what);
  double largest = 1;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  REQUIRE(got.size() == static_cast<Index>(expected.size()));
  for (Index i = 0; i < got.size(); ++i) {
    const double value = static_cast<double>(got.data()[i]);
    if (!(std::abs(value - expected[at(i)]) <= tolerance * largest)) {
      INFO("element " << i << ": got " << value << ", expected " << expected[at(i)]);
      REQUIRE(false);
    }
  }
}

/// forward(inputs, batch, y, kept) and backward(inputs, batch, kept, dy, gradients) against
/// `plain`.
template <class Real, class Forward, class Backward>
void compare(Rule rule, Size s, Index T, double tolerance, Forward forward, Backward backward) {
  INFO("heads " << s.heads << " groups " << s.groups << " keys " << s.keys << " width " << s.width
                << " rows " << T);
  const Operands o(s, rule, T, static_cast<std::uint64_t>(T + 3));
  const Results expected = plain(o, 0.5);
  Cast<Real> q(o.q), k(o.k), v(o.v), a(o.a), d(o.d), dy(o.dy), y(o.v), dq(o.q), dk(o.q), dv(o.v),
      da(o.a), dd(o.d), state(o.first), d_state(o.d_last);
  const StateInputs<Real> x{s.heads,   s.groups,  s.keys,    s.width,   q.rows(T),
                            k.rows(T), v.rows(T), a.rows(T), d.rows(T), Real(0.5)};
  KeptStates<Real> kept;
  forward(x, Batch<Cast<Real>>(state), y.rows(T), &kept);
  same("y", y.values, expected.y, tolerance);
  same("last state", state.values, expected.last, tolerance);
  backward(x, Batch<Cast<Real>>(d_state), kept, dy.rows(T),
           StateGradients<Real>{dq.rows(T), dk.rows(T), dv.rows(T), da.rows(T), dd.rows(T)});
  same("dq", dq.values, expected.dq, tolerance);
  same("dk", dk.values, expected.dk, tolerance);
  same("dv", dv.values, expected.dv, tolerance);
  same("dd", dd.values, expected.dd, tolerance);
  same("dlog_a", da.values, expected.dlog_a, 10 * tolerance);
  same("d first", d_state.values, expected.d_first, tolerance);
}

}  // namespace operands
