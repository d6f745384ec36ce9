#include <limen/kernel/spikes.hpp>

#include "../catch.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/kernel/gemm.hpp>
#include <limen/kernel/lif.hpp>
#include <limen/kernel/spike_sums.hpp>

using namespace limen;

namespace {

/// Rows of 0 and 1 (or of values), and behind them what must not be read as a spike.
template <class Real>
struct Rows {
  Rows(Index rows, Index cols, double rate, bool graded, std::uint64_t seed)
      : all(static_cast<std::size_t>(rows * (cols + 3)), Real(7)),
        view{all.data(), rows, cols, cols + 3} {
    Random random(seed);
    for (Index t = 0; t < rows; ++t) {
      for (Index c = 0; c < cols; ++c) {
        const double value = graded ? random.normal() : 1;
        view(t, c) = random.uniform() < rate ? static_cast<Real>(value) : Real(0);
      }
    }
  }
  std::vector<Real> all;
  MatrixView<Real> view;
};

template <class Real>
Rows<Real> noise(Index rows, Index cols, std::uint64_t seed) {
  return Rows<Real>(rows, cols, 2, true, seed);
}

/// A surrogate for those who only go forward.
struct Flat {
  template <class V>
  V derivative(const V& u) const {
    return u;
  }
};

std::vector<Index> widths(Index pair) {
  std::vector<Index> all;
  for (Index n = 1; n <= 2 * pair + 1; ++n) all.push_back(n);
  for (const Index n : {3 * pair, 4 * pair - 1, 7 * pair + 2, 8 * pair, 13 * pair + 5}) {
    all.push_back(n);
  }
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("A list names what is not zero, in order, and writes a vector past it at most",
                   "[kernel][spikes]", float, double) {
  using Real = TestType;
  for (Index n = 0; n <= 5 * simd::lanes<Real> + 3; ++n) {
    for (const double rate : {0.0, 0.1, 0.5, 1.0}) {
      for (const bool graded : {false, true}) {
        const Rows<Real> x(2, n, rate, graded, 1 + static_cast<std::uint64_t>(n));
        std::vector<SpikeIndex> expected, found(static_cast<std::size_t>(spike_room(n)) + 1, -9);
        for (Index i = 0; i < n; ++i) {
          if (x.view(1, i) != Real(0)) expected.push_back(static_cast<SpikeIndex>(i));
        }
        const SpikeCount count = list_spikes(x.view.row(1), n, found.data());
        REQUIRE(count.binary == (!graded || expected.empty()));
        REQUIRE(found.back() == -9);
        found.resize(static_cast<std::size_t>(count.count));
        REQUIRE(found == expected);
      }
    }
  }
}

TEMPLATE_TEST_CASE("One value that is not a spike is seen wherever it stands", "[kernel][spikes]",
                   float, double) {
  using Real = TestType;
  const Index n = 3 * simd::lanes<Real> + 2;
  std::vector<Real> x(static_cast<std::size_t>(n), Real(1));
  std::vector<SpikeIndex> ids(static_cast<std::size_t>(spike_room(n)));
  REQUIRE(first_not_binary(x.data(), n) == n);
  for (const Real odd : {Real(0.5), Real(-1), Real(2), std::numeric_limits<Real>::quiet_NaN(),
                         std::numeric_limits<Real>::infinity()}) {
    for (Index i = 0; i < n; ++i) {
      x[static_cast<std::size_t>(i)] = odd;
      const SpikeCount all = list_spikes(x.data(), n, ids.data());
      REQUIRE_FALSE(all.binary);
      REQUIRE(all.count == n);  // NaN too is listed: it must reach the sums
      REQUIRE(first_not_binary(x.data(), n) == i);
      x[static_cast<std::size_t>(i)] = Real(1);
    }
  }
  x[0] = Real(-0.0);
  REQUIRE(list_spikes(x.data(), n, ids.data()).count == n - 1);
}

TEST_CASE("A list with an input twice, out of order or that is not there is named",
          "[kernel][spikes]") {
  const auto fault = [](std::vector<SpikeIndex> ids) { return spike_list_fault(ids, 10); };
  REQUIRE(fault({}).empty());
  REQUIRE(fault({0, 3, 9}).empty());
  REQUIRE(fault({0, 3, 10}) == "10 at position 2");
  REQUIRE(fault({-1, 3}) == "-1 at position 0");
  REQUIRE(fault({2, 5, 5}) == "5 after 5 at position 2");
  REQUIRE(fault({2, 5, 4}) == "4 after 5 at position 2");
}

TEMPLATE_TEST_CASE("Lists of rows turn into lists of columns", "[kernel][spikes]", float, double) {
  using Real = TestType;
  for (const bool graded : {false, true}) {
    const Rows<Real> x(9, 21, 0.3, graded, 3);
    const auto s = SpikeRows<Real>::of(x.view);
    REQUIRE(s.binary() == !graded);
    const auto turned = s.turned(2, 6);
    REQUIRE(turned.rows() == 21);
    Index count = 0;
    for (Index c = 0; c < 21; ++c) {
      const SpikeList<Real> list = turned.row(c);
      Index k = 0;
      for (Index t = 2; t < 8; ++t) {
        if (x.view(t, c) == Real(0)) continue;
        REQUIRE(k < list.count);
        REQUIRE(list.ids[k] == t - 2);
        REQUIRE((graded ? list.values[k] : Real(1)) == x.view(t, c));
        ++k;
      }
      REQUIRE(k == list.count);
      count += k;
    }
    REQUIRE(turned.count() == count);
  }
  REQUIRE(SpikeRows<Real>::of({nullptr, 0, 5, 5}).count() == 0);
  REQUIRE(SpikeRows<Real>().count() == 0);
}

TEMPLATE_TEST_CASE("Listed rows are added one after another, to the bit, at any width",
                   "[kernel][spikes]", float, double) {
  using Real = TestType;
  const Index I = 11;
  for (const Index O : widths(detail::pair_width<Real>)) {
    const auto w = noise<Real>(O, I, 1), turned = noise<Real>(I, O, 2), bias = noise<Real>(1, O, 5);
    const auto fan = FanOut<Real>::pack(w.view);
    REQUIRE(fan.in() == I);
    REQUIRE(fan.out() == O);
    for (const double rate : {0.0, 0.4, 1.0}) {
      for (const bool graded : {false, true}) {
        const Rows<Real> x(1, I, rate, graded, 4);
        const auto s = SpikeRows<Real>::of(x.view);
        std::vector<Real> y(static_cast<std::size_t>(O) + 1, Real(1000)), plain = y;
        for (const Real* start :
             {static_cast<const Real*>(nullptr), static_cast<const Real*>(bias.view.data)}) {
          sum_listed(fan.view(), s.row(0), start, y.data());
          sum_listed<Real>(MatrixView<const Real>(turned.view), s.row(0), start, plain.data());
          for (Index o = 0; o < O; ++o) {
            Real a = start != nullptr ? start[o] : Real(0), b = a;
            for (Index i = 0; i < I; ++i) {
              if (x.view(0, i) == Real(0)) continue;
              a = std::fma(x.view(0, i), w.view(o, i), a);
              b = std::fma(x.view(0, i), turned.view(i, o), b);
            }
            const Real tolerance = graded ? 20 * std::numeric_limits<Real>::epsilon() : Real(0);
            REQUIRE(std::abs(y[static_cast<std::size_t>(o)] - a) <= tolerance * I);
            REQUIRE(std::abs(plain[static_cast<std::size_t>(o)] - b) <= tolerance * I);
          }
          REQUIRE(y.back() == Real(1000));
          REQUIRE(plain.back() == Real(1000));
        }
      }
    }
  }
}

TEST_CASE("Weights as pairs of halves are summed as the floats they stand for",
          "[kernel][spikes]") {
  const Index I = 9;
  for (const Index O : widths(detail::pair_width<float>)) {
    const auto w = noise<float>(O, I, 1);
    const auto fan = FanOut<float, HalfPair>::pack(w.view);
    const Rows<float> x(1, I, 0.6, false, 4);
    const auto s = SpikeRows<float>::of(x.view);
    std::vector<float> y(static_cast<std::size_t>(O) + 1, 1000.0f);
    sum_listed(fan.view(), s.row(0), nullptr, y.data());
    for (Index o = 0; o < O; ++o) {
      float sum = 0;
      for (Index i = 0; i < I; ++i) {
        if (x.view(0, i) != 0) sum += static_cast<float>(bfloat16(w.view(o, i)));
      }
      REQUIRE(y[static_cast<std::size_t>(o)] == sum);
    }
    REQUIRE(y.back() == 1000.0f);
  }
}

TEMPLATE_TEST_CASE("Many lists give the rows that each gives alone, for one thread and two",
                   "[kernel][spikes]", float, double) {
  using Real = TestType;
  const Index I = 37, O = 3 * detail::batch_columns<Real> + 7;
  const auto w = noise<Real>(O, I, 1), bias = noise<Real>(1, O, 2);
  const auto fan = FanOut<Real>::pack(w.view);
  for (const Index rows : {0, 1, 3, 4, 50}) {
    const Rows<Real> x(rows, I, 0.3, false, 3);
    const auto s = SpikeRows<Real>::of(x.view);
    auto one = noise<Real>(rows, O, 4), two = noise<Real>(rows, O, 4);
    sum_listed(fan.view(), s, bias.view.data, one.view);
    {
      const Threads allowed(2);
      sum_listed(fan.view(), s, bias.view.data, two.view);
    }
    std::vector<Real> alone(static_cast<std::size_t>(O));
    for (Index t = 0; t < rows; ++t) {
      sum_listed(fan.view(), s.row(t), bias.view.data, alone.data());
      for (Index o = 0; o < O; ++o) {
        REQUIRE(one.view(t, o) == alone[static_cast<std::size_t>(o)]);
        REQUIRE(two.view(t, o) == one.view(t, o));
      }
    }
    REQUIRE(one.all == two.all);  // and nothing between the rows was touched
  }
}

TEMPLATE_TEST_CASE("Lists sum to the bits of the dense product in panels, where it has one chain",
                   "[kernel][spikes]", float, double) {
  using Real = TestType;
  const Index I = 700, O = 2 * panel_width<Real> + 1;  // beyond a slice of k, three panels
  REQUIRE(detail::chains_for<Real>(3) == 1);
  const auto w = noise<Real>(O, I, 1), bias = noise<Real>(1, O, 2);
  const Rows<Real> x(5, I, 0.2, false, 3);
  Rows<Real> dense(5, O, 0, false, 1), event(5, O, 0, false, 1);
  product_nt<Real>(x.view, Panels<Real>::pack(w.view).view(), dense.view, {.bias = bias.view.data});
  sum_listed(FanOut<Real>::pack(w.view).view(), SpikeRows<Real>::of(x.view), bias.view.data,
             event.view);
  REQUIRE(dense.all == event.all);
}

TEMPLATE_TEST_CASE("The way back adds to the weights of inputs that spiked, and to no other",
                   "[kernel][spikes]", float, double) {
  using Real = TestType;
  const Index I = 13, O = detail::batch_columns<Real> + 5;
  for (const Index rows : {1, 7, 1100}) {  // the last in three blocks
    for (const bool graded : {false, true}) {
      Rows<Real> x(rows, I, 0.2, graded, 3);
      for (Index t = 0; t < rows; ++t) x.view(t, 4) = 0;
      const auto d = noise<Real>(rows, O, 5);
      auto dw = noise<Real>(I, O, 6), two = noise<Real>(I, O, 6);
      const auto before = noise<Real>(I, O, 6);
      const auto s = SpikeRows<Real>::of(x.view);
      add_listed_outer<Real>(d.view, s, dw.view);
      const Threads allowed(2);
      add_listed_outer<Real>(d.view, s, two.view);
      REQUIRE(dw.all == two.all);
      for (Index i = 0; i < I; ++i) {
        for (Index o = 0; o < O; ++o) {
          double sum = static_cast<double>(before.view(i, o)), size = std::abs(sum);
          for (Index t = 0; t < rows; ++t) {
            const double part = static_cast<double>(x.view(t, i) * d.view(t, o));
            sum += part;
            size += std::abs(part);
          }
          const double epsilon = static_cast<double>(std::numeric_limits<Real>::epsilon());
          REQUIRE(std::abs(static_cast<double>(dw.view(i, o)) - sum) <= 8 * epsilon * (1 + size));
          if (i == 4) REQUIRE(dw.view(i, o) == before.view(i, o));
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("Neurons that write a list fire as those that write a row", "[kernel][spikes]",
                   float, double) {
  using Real = TestType;
  using Number = NeuronNumber<Real, false>;
  using Unit = LifUnit<LifRules{}, Flat{}, Real, Number, Number, Number, Number>;
  Unit unit{};
  unit.a.value = Real(0.5);
  unit.g.value = Real(1);
  for (const Real theta : {Real(1), Real(-1)}) {  // lanes that are not neurons would fire too
    unit.theta.value = theta;
    for (Index D = 1; D <= 3 * simd::lanes<Real> + 1; ++D) {
      const auto x = noise<Real>(4, D, 3);
      std::vector<Real> v(static_cast<std::size_t>(D)), w = v, s = v;
      std::vector<SpikeIndex> ids(static_cast<std::size_t>(spike_room(D)) + 1, -9), expected = ids;
      for (Index t = 0; t < 4; ++t) {
        step_neurons<false, Unit, Real>(unit, 0, D, x.view.row(t), {v.data()}, s.data(), {});
        const Index count =
            fire_and_list<Unit, Real>(unit, D, x.view.row(t), {w.data()}, ids.data());
        REQUIRE(v == w);
        REQUIRE(count == list_spikes(s.data(), D, expected.data()).count);
        for (Index k = 0; k < count; ++k) {
          REQUIRE(ids[static_cast<std::size_t>(k)] == expected[static_cast<std::size_t>(k)]);
        }
        REQUIRE(ids.back() == -9);
      }
    }
  }
}

TEMPLATE_TEST_CASE("Rows become columns at any size, and may be added", "[kernel][spikes]", float,
                   double) {
  using Real = TestType;
  const Index most = 2 * simd::lanes<Real> + 1;
  for (Index M = 1; M <= most; M += M < 4 ? 1 : 3) {
    for (Index N = 1; N <= most; N += N < 4 ? 1 : 3) {
      const auto x = noise<Real>(M, N, 1);
      auto wide = noise<Real>(N, M + 5, 2), sum = noise<Real>(N, M, 3);
      const auto before = noise<Real>(N, M, 3), gaps = noise<Real>(N, M + 5, 2);
      turn<Real>(x.view, wide.view);
      add_turned<Real>(x.view, sum.view);
      for (Index i = 0; i < N; ++i) {
        for (Index j = 0; j < M; ++j) {
          REQUIRE(wide.view(i, j) == x.view(j, i));
          REQUIRE(sum.view(i, j) == before.view(i, j) + x.view(j, i));
        }
        for (Index j = M; j < M + 5; ++j) REQUIRE(wide.view(i, j) == Real(0));
        for (Index j = 0; j < 3; ++j) REQUIRE(sum.view.row(i)[M + j] == Real(7));
      }
    }
  }
}
