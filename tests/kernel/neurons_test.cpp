#include <limen/kernel/lif.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/kernel/refractory.hpp>
#include <limen/spiking/surrogate.hpp>

#include "../catch.hpp"

using namespace limen;

namespace {

template <class Real>
using All = NeuronNumber<Real, false>;
template <class Real>
using Own = NeuronNumber<Real, true>;

constexpr LifRules subtracting{.learns_decay = true, .learns_threshold = true};
constexpr LifRules resetting{.test = SpikeTest::gt, .reset = Reset::to_value, .learns_value = true};

constexpr int guard = 8;

/// Rows at any offset from a cache line, with room on both sides that must stay as it was.
template <class Real>
class Row {
 public:
  Row(Index n, Index offset, Random& random)
      : values_(static_cast<std::size_t>(n + offset + 2 * guard)), first_(offset + guard) {
    for (Real& v : values_) v = static_cast<Real>(random.uniform(-1.0, 2.0));
    before_ = values_;
    size_ = n;
  }
  Real* data() { return values_.data() + first_; }
  Real operator[](Index i) const { return values_[static_cast<std::size_t>(first_ + i)]; }
  bool untouched_outside() const {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const auto at = static_cast<Index>(i) - first_;
      if ((at < 0 || at >= size_) && values_[i] != before_[i]) return false;
    }
    return true;
  }

 private:
  std::vector<Real> values_, before_;
  Index first_, size_ = 0;
};

template <class Real>
bool near(Real got, Real expected) {
  return std::abs(got - expected) <=
         64 * std::numeric_limits<Real>::epsilon() * (1 + std::abs(expected));
}

template <class Real>
void lengths_and_offsets() {
  using Sub = LifUnit<subtracting, ArcTan{}, Real, Own<Real>, All<Real>, Own<Real>, All<Real>>;
  using To =
      LifUnit<resetting, FastSigmoid{.k = 3}, Real, All<Real>, Own<Real>, All<Real>, Own<Real>>;
  Random random(3);
  for (Index n = 0; n <= 4 * simd::lanes<Real> + 3; ++n) {
    for (const Index offset : {0, 1, 3}) {
      INFO("length " << n << ", offset " << offset);
      Row<Real> x(n, offset, random), v(n, offset, random), s(n, offset, random),
          h(n, offset, random), old(n, offset, random), a(n, offset, random),
          level(n, offset, random), ds(n, offset, random), dv(n, offset, random),
          dx(n, offset, random), d_a(n, offset, random), d_level(n, offset, random);
      const auto v0 = v, dv0 = dv, d_a0 = d_a, d_level0 = d_level;
      const Sub sub{{a.data()}, {Real(0.75)}, {level.data()}, Real(0), {Real(0)}};
      step_neurons<true>(sub, 0, n, x.data(), {v.data()}, s.data(), {h.data(), old.data()});
      step_neurons_back(sub, 0, n, ds.data(), static_cast<const Real*>(nullptr),
                        {h.data(), old.data()}, {dv.data()}, {d_a.data(), d_level.data()},
                        dx.data());
      for (Index i = 0; i < n; ++i) {
        const Real m = a[i] * v0[i] + Real(0.75) * x[i], fired = m >= level[i] ? Real(1) : Real(0);
        if (near(m, level[i])) continue;
        const Real phi = ArcTan{}.derivative(h[i] - level[i]), lambda = dv0[i];
        const Real cs = ds[i] - level[i] * lambda, delta = lambda + phi * cs;
        REQUIRE(s[i] == fired);
        REQUIRE(near(h[i], m));
        REQUIRE(old[i] == v0[i]);
        REQUIRE(near(v[i], m - level[i] * fired));
        REQUIRE(near(dx[i], Real(0.75) * delta));
        REQUIRE(near(dv[i], a[i] * delta));
        REQUIRE(near(d_a[i], d_a0[i] + delta * v0[i]));
        REQUIRE(near(d_level[i], d_level0[i] - phi * cs - fired * lambda));
      }
      for (const auto* row : {&x, &v, &s, &h, &old, &ds, &dv, &dx, &d_a, &d_level}) {
        REQUIRE(row->untouched_outside());
      }

      Row<Real> w(n, offset, random), g(n, offset, random), to(n, offset, random),
          d_to(n, offset, random);
      const auto w0 = w, dw0 = dv, d_to0 = d_to;
      const To unit{{Real(0.5)}, {g.data()}, {Real(0.5)}, Real(0), {to.data()}};
      step_neurons<true>(unit, 0, n, x.data(), {w.data()}, s.data(), {h.data()});
      step_neurons_back(unit, 0, n, ds.data(), static_cast<const Real*>(nullptr), {h.data()},
                        {dv.data()}, {d_to.data()}, dx.data());
      for (Index i = 0; i < n; ++i) {
        const Real m = Real(0.5) * w0[i] + g[i] * x[i], fired = m > Real(0.5) ? Real(1) : Real(0);
        if (near(m, Real(0.5))) continue;
        const Real phi = FastSigmoid{.k = 3}.derivative(h[i] - Real(0.5)), lambda = dw0[i];
        const Real delta = (1 - fired) * lambda + phi * (ds[i] + (to[i] - h[i]) * lambda);
        REQUIRE(s[i] == fired);
        REQUIRE(near(w[i], fired != 0 ? to[i] : m));
        REQUIRE(near(dx[i], g[i] * delta));
        REQUIRE(near(dv[i], Real(0.5) * delta));
        REQUIRE(near(d_to[i], d_to0[i] + fired * lambda));
      }
      REQUIRE(w.untouched_outside());
      REQUIRE(d_to.untouched_outside());
    }
  }
}

}  // namespace

TEST_CASE("A step of neurons is the plain loop, at any length and offset",
          "[kernel][neurons][lif]") {
  lengths_and_offsets<float>();
  lengths_and_offsets<double>();
}

TEST_CASE("A part of the neurons steps as it does among all", "[kernel][neurons]") {
  using Unit = RefractoryUnit<
      LifUnit<LifRules{}, ArcTan{}, float, All<float>, All<float>, Own<float>, All<float>>>;
  constexpr Index D = 3 * simd::lanes<float> + 5, cut = 2 * simd::lanes<float>;
  Random random(4);
  Row<float> level(D, 0, random), x(D, 0, random);
  const Unit unit{{{0.9f}, {1}, {level.data()}, 0, {0}}, 2};
  std::vector<float> v(D), wait(D), s(D), part_v(D), part_wait(D), part_s(D);
  for (int t = 0; t < 7; ++t) {
    step_neurons<false>(unit, 0, D, x.data(), {v.data(), wait.data()}, s.data(), {});
    for (const auto& [first, count] : {std::pair{cut, D - cut}, std::pair{Index{0}, cut}}) {
      step_neurons<false>(unit, first, count, x.data(), {part_v.data(), part_wait.data()},
                          part_s.data(), {});
    }
    REQUIRE(s == part_s);
    REQUIRE(v == part_v);
    REQUIRE(wait == part_wait);
  }
}
