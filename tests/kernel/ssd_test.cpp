#include <limen/kernel/ssd.hpp>

#include <limen/core/random.hpp>
#include <limen/kernel/keyed_ssd.hpp>

#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

using Numbers = std::vector<double>;

struct Size {
  Index heads, groups, keys, width;
};

/// Operands of T rows, in double; decays in (0, 1), one for each head or, keyed, one for each key.
struct Operands {
  Operands(Size s, bool with_keys, Index rows, std::uint64_t seed)
      : size(s), keyed(with_keys), T(rows) {
    Random random(seed);
    const auto draw = [&](Index n, auto f) {
      Numbers x(static_cast<std::size_t>(n));
      for (double& value : x) value = f();
      return x;
    };
    const auto normal = [&] { return random.normal(); };
    q = draw(T * s.groups * s.keys, normal);
    k = draw(T * s.groups * s.keys, normal);
    v = draw(T * s.heads * s.width, normal);
    a = draw(T * s.heads * (keyed ? s.keys : 1),
             [&] { return std::exp(-std::abs(random.normal())); });
    d = draw(T * s.heads, [&] { return random.uniform(0.1, 1); });
    first = draw(s.heads * s.keys * s.width, normal);
    dy = draw(T * s.heads * s.width, normal);
    d_last = draw(s.heads * s.keys * s.width, normal);
  }

  Size size;
  bool keyed;
  Index T;
  Numbers q, k, v, a, d, first, dy, d_last;
};

struct Results {
  Numbers y, last, dq, dk, dv, dlog_a, dd, d_first;
};

/// The recurrence and its derivative, as they are written in kernel/ssd.hpp.
Results plain(const Operands& o, double scale) {
  const auto [H, G, N, P] = o.size;
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  const auto decay = [&, H = H, N = N](Index t, Index h, Index n) {
    return at(o.keyed ? (t * H + h) * N + n : t * H + h);
  };
  Results r;
  r.y.assign(o.v.size(), 0);
  r.dq.assign(o.q.size(), 0);
  r.dk = r.dq;
  r.dv = r.y;
  r.dlog_a.assign(o.a.size(), 0);
  r.dd.assign(o.d.size(), 0);
  std::vector<Numbers> S{o.first};
  for (Index t = 0; t < o.T; ++t) {
    Numbers next = S.back();
    for (Index h = 0; h < H; ++h) {
      const Index g = h / (H / G);
      for (Index n = 0; n < N; ++n) {
        for (Index p = 0; p < P; ++p) {
          double& s = next[at((h * N + n) * P + p)];
          s = o.a[decay(t, h, n)] * s +
              o.k[at((t * G + g) * N + n)] * o.d[at(t * H + h)] * o.v[at((t * H + h) * P + p)];
          r.y[at((t * H + h) * P + p)] += scale * s * o.q[at((t * G + g) * N + n)];
        }
      }
    }
    S.push_back(next);
  }
  r.last = S.back();
  Numbers dS = o.d_last;
  for (Index t = o.T - 1; t >= 0; --t) {
    for (Index h = 0; h < H; ++h) {
      const Index g = h / (H / G);
      const double d = o.d[at(t * H + h)];
      for (Index n = 0; n < N; ++n) {
        const double a = o.a[decay(t, h, n)];
        for (Index p = 0; p < P; ++p) {
          const std::size_t e = at((h * N + n) * P + p), x = at((t * H + h) * P + p);
          const std::size_t key = at((t * G + g) * N + n);
          dS[e] += scale * o.q[key] * o.dy[x];
          r.dq[key] += scale * S[at(t + 1)][e] * o.dy[x];
          r.dk[key] += dS[e] * d * o.v[x];
          r.dv[x] += dS[e] * d * o.k[key];
          r.dd[at(t * H + h)] += dS[e] * o.k[key] * o.v[x];
          r.dlog_a[decay(t, h, n)] += a * dS[e] * S[at(t)][e];
          dS[e] *= a;
        }
      }
    }
  }
  r.d_first = dS;
  return r;
}

template <class Real>
struct Cast {
  explicit Cast(const Numbers& x) : values(static_cast<Index>(x.size())) {
    for (Index i = 0; i < values.size(); ++i) {
      values[i] = static_cast<Real>(x[static_cast<std::size_t>(i)]);
    }
  }
  MatrixView<Real> rows(Index n) {
    const Index cols = n > 0 ? values.size() / n : 0;
    return {values.data(), n, cols, cols};
  }
  Buffer<Real> values;
};

template <class A>
void same(const char* what, const A& got, const Numbers& expected, double tolerance) {
  INFO(what);
  double largest = 1;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  for (Index i = 0; i < static_cast<Index>(got.size()); ++i) {
    const double value = static_cast<double>(got.data()[i]);
    const double wanted = expected[static_cast<std::size_t>(i)];
    if (!(std::abs(value - wanted) <= tolerance * largest)) {
      INFO("element " << i << ": got " << value << ", expected " << wanted);
      REQUIRE(false);
    }
  }
}

/// A state of run-time size behind the face of a Fixed.
template <class Real>
struct Look {
  Real values[4096];
  Real* data() { return values; }
};

template <class Real>
void compare(Size s, bool keyed, Index T, double tolerance) {
  INFO("heads " << s.heads << " groups " << s.groups << " keys " << s.keys << " width " << s.width
                << " rows " << T);
  const Operands o(s, keyed, T, static_cast<std::uint64_t>(T + 3));
  const Results expected = plain(o, 0.5);
  Cast<Real> q(o.q), k(o.k), v(o.v), a(o.a), d(o.d), dy(o.dy), y(o.v), dq(o.q), dk(o.q), dv(o.v),
      da(o.a), dd(o.d);
  const StateInputs<Real> x{s.heads,   s.groups,  s.keys,    s.width,   q.rows(T),
                            k.rows(T), v.rows(T), a.rows(T), d.rows(T), Real(0.5)};
  const auto state = std::make_unique<Look<Real>>(), d_state = std::make_unique<Look<Real>>();
  const Index size = s.heads * s.keys * s.width;
  REQUIRE(size <= 4096);
  for (Index i = 0; i < size; ++i) {
    state->values[i] = static_cast<Real>(o.first[static_cast<std::size_t>(i)]);
    d_state->values[i] = static_cast<Real>(o.d_last[static_cast<std::size_t>(i)]);
  }
  KeptStates<Real> kept;
  const Batch<Look<Real>> states(*state), d_states(*d_state);
  keyed ? keyed_ssd(x, states, y.rows(T), &kept) : ssd(x, states, y.rows(T), &kept);
  same("y", y.values, expected.y, tolerance);
  same("last state", std::span<Real>(state->values, static_cast<std::size_t>(size)), expected.last,
       tolerance);
  const StateGradients<Real> g{dq.rows(T), dk.rows(T), dv.rows(T), da.rows(T), dd.rows(T)};
  if (keyed) {
    keyed_ssd_backward<Real>(x, d_states, kept, dy.rows(T), g);
  } else {
    ssd_backward<Real>(x, d_states, kept, dy.rows(T), g);
  }
  same("dq", dq.values, expected.dq, tolerance);
  same("dk", dk.values, expected.dk, tolerance);
  same("dv", dv.values, expected.dv, tolerance);
  same("dd", dd.values, expected.dd, tolerance);
  same("dlog_a", da.values, expected.dlog_a, 10 * tolerance);
  same("d first", std::span<Real>(d_state->values, static_cast<std::size_t>(size)),
       expected.d_first, tolerance);
}

}  // namespace

TEST_CASE("Chunks of a decaying matrix state are its recurrence, and so are their gradients",
          "[kernel][ssd]") {
  for (const Size s : {Size{1, 1, 1, 1}, Size{2, 1, 3, 5}, Size{6, 2, 7, 17}, Size{3, 3, 16, 8},
                       Size{5, 1, 33, 15}, Size{2, 2, 18, 64}}) {
    for (const Index T : {0, 1, 2, 7, 8, 9, 31, 32, 33, 64, 127, 128, 129, 300}) {
      compare<double>(s, false, T, 1e-12);
      compare<float>(s, false, T, 2e-5);
    }
  }
}

TEST_CASE("Chunks of a state with a decay for each key are its recurrence", "[kernel][ssd]") {
  for (const Size s : {Size{1, 1, 1, 1}, Size{2, 2, 3, 5}, Size{3, 3, 16, 8}, Size{2, 2, 7, 17},
                       Size{1, 1, 33, 15}, Size{2, 2, 18, 64}}) {
    for (const Index T : {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 127, 128, 129, 300}) {
      compare<double>(s, true, T, 1e-12);
      compare<float>(s, true, T, 2e-5);
    }
  }
}
