#include <limen/kernel/norm.hpp>

#include <limen/core/random.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

/// Rows of any width that start anywhere, a little apart; what lies between them must stay.
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
        values(static_cast<std::size_t>(r * stride + start + 64), guard) {}
  Rows(Index r, Index c, Index start, Random& random) : Rows(r, c, start) {
    for (Index t = 0; t < r; ++t) {
      for (Index i = 0; i < c; ++i) view()(t, i) = static_cast<Real>(random.normal());
    }
  }
  MatrixView<Real> view() { return {values.data() + offset, rows, cols, stride}; }
  MatrixView<const Real> look() { return view(); }
  Real* data() { return values.data() + offset; }
  double at(Index t, Index i) { return static_cast<double>(view()(t, i)); }
  bool untouched_outside() {
    for (std::size_t k = 0; k < values.size(); ++k) {
      const Index at = static_cast<Index>(k) - offset;
      const bool inside = at >= 0 && at / stride < rows && at % stride < cols;
      if (!inside && values[k] != guard) return false;
    }
    return true;
  }
};

template <class F>
void for_each_shape(F run) {
  Random random(11);
  const Index longest = 4 * simd::lanes<float> + 1;
  for (Index cols = 1; cols <= longest; cols += cols < 20 ? 1 : 5) {
    for (const Index offset : {0, 1, 7}) {
      for (const Index rows : {0, 1, 3, 9}) {
        INFO(rows << " x " << cols << ", start " << offset);
        run(rows, cols, offset, random);
      }
    }
  }
}

bool near(double got, double expected, double epsilons, double size) {
  return std::abs(got - expected) <= epsilons * 1.2e-7 * (1 + size);
}

}  // namespace

TEST_CASE("rms_norm and its backward are what plain loops give", "[kernel][norm]") {
  for_each_shape([](Index rows, Index n, Index offset, Random& random) {
    Rows<float> v(rows, n, offset, random), dy(rows, n, offset, random), w(1, n, offset, random);
    Rows<float> y(rows, n, offset), dv(rows, n, offset), r(1, rows, 0), dw(1, n, offset);
    for (Index i = 0; i < n; ++i) dw.view()(0, i) = 1;
    rms_norm(v.look(), w.data(), 1.0f, 1e-3, y.view(), r.data());
    rms_norm_backward(dy.look(), v.look(), w.data(), 1.0f, r.data(), dv.view(), dw.data());
    std::vector<double> expected_dw(static_cast<std::size_t>(n), 1.0);
    for (Index t = 0; t < rows; ++t) {
      double square = 0, dot = 0;
      for (Index i = 0; i < n; ++i) square += v.at(t, i) * v.at(t, i);
      const double scale = 1 / std::sqrt(square / static_cast<double>(n) + 1e-3);
      for (Index i = 0; i < n; ++i) dot += dy.at(t, i) * (1 + w.at(0, i)) * v.at(t, i);
      for (Index i = 0; i < n; ++i) {
        const double weight = 1 + w.at(0, i);
        REQUIRE(near(y.at(t, i), v.at(t, i) * scale * weight, 8, 8));
        const double g = dy.at(t, i) * weight;
        const double d =
            scale * g - v.at(t, i) * scale * scale * scale * dot / static_cast<double>(n);
        REQUIRE(near(dv.at(t, i), d, 100, 30 * scale));
        expected_dw[static_cast<std::size_t>(i)] += dy.at(t, i) * v.at(t, i) * scale;
      }
    }
    for (Index i = 0; i < n; ++i) {
      REQUIRE(near(dw.at(0, i), expected_dw[static_cast<std::size_t>(i)], 32, 10));
    }
    REQUIRE(y.untouched_outside());
    REQUIRE(dv.untouched_outside());
    REQUIRE(dw.untouched_outside());
  });
}

TEST_CASE("layer_norm and its backward are what plain loops give", "[kernel][norm]") {
  for_each_shape([](Index rows, Index n, Index offset, Random& random) {
    constexpr Index groups = 2;
    const Index cols = groups * n;
    Rows<float> v(rows, cols, offset, random), dy(rows, cols, offset, random);
    Rows<float> w(1, cols, offset, random), b(1, cols, offset, random);
    Rows<float> y(rows, cols, offset), dv(rows, cols, offset), moments(1, 2 * groups * rows, 0);
    Rows<float> dw(1, cols, offset), db(1, cols, offset);
    for (Index i = 0; i < cols; ++i) dw.view()(0, i) = db.view()(0, i) = 0;
    layer_norm(v.look(), groups, w.data(), b.data(), 0.1, y.view(), moments.data());
    layer_norm_backward(dy.look(), v.look(), groups, w.data(), moments.data(), dv.view(), dw.data(),
                        db.data());
    const double share = 1 / static_cast<double>(n);
    std::vector<double> expected_dw(static_cast<std::size_t>(cols)), expected_db = expected_dw;
    for (Index t = 0; t < rows; ++t) {
      for (Index q = 0; q < groups; ++q) {
        double m = 0, var = 0, mean_g = 0, mean_gv = 0;
        const auto hat = [&](Index i) { return (v.at(t, i) - m) / std::sqrt(var + 0.1); };
        const auto g = [&](Index i) { return dy.at(t, i) * w.at(0, i); };
        const Index first = q * n, end = first + n;
        for (Index i = first; i < end; ++i) m += share * v.at(t, i);
        for (Index i = first; i < end; ++i) var += share * (v.at(t, i) - m) * (v.at(t, i) - m);
        for (Index i = first; i < end; ++i) {
          mean_g += share * g(i);
          mean_gv += share * g(i) * hat(i);
        }
        for (Index i = first; i < end; ++i) {
          REQUIRE(near(y.at(t, i), hat(i) * w.at(0, i) + b.at(0, i), 32, 8));
          const double d = (g(i) - mean_g - hat(i) * mean_gv) / std::sqrt(var + 0.1);
          REQUIRE(near(dv.at(t, i), d, 100, 10));
          expected_dw[static_cast<std::size_t>(i)] += dy.at(t, i) * hat(i);
          expected_db[static_cast<std::size_t>(i)] += dy.at(t, i);
        }
      }
    }
    for (Index i = 0; i < cols; ++i) {
      REQUIRE(near(dw.at(0, i), expected_dw[static_cast<std::size_t>(i)], 64, 10));
      REQUIRE(near(db.at(0, i), expected_db[static_cast<std::size_t>(i)], 16, 10));
    }
    REQUIRE(y.untouched_outside());
    REQUIRE(dv.untouched_outside());
    REQUIRE(dw.untouched_outside());
    REQUIRE(db.untouched_outside());
  });
}

TEST_CASE("column_moments are the mean and variance of each column", "[kernel][norm]") {
  for_each_shape([](Index rows, Index n, Index offset, Random& random) {
    rows = 11 * rows + 1;
    Rows<float> v(rows, n, offset, random), mean(1, n, offset), var(1, n, offset);
    for (Index t = 0; t < rows; ++t) v.view()(t, 0) += 1000;  // the variance must not drown
    column_moments(v.look(), mean.data(), var.data());
    for (Index i = 0; i < n; ++i) {
      double m = 0, s = 0;
      for (Index t = 0; t < rows; ++t) m += v.at(t, i) / static_cast<double>(rows);
      for (Index t = 0; t < rows; ++t) s += (v.at(t, i) - m) * (v.at(t, i) - m);
      REQUIRE(near(mean.at(0, i), m, 32, std::abs(m)));
      REQUIRE(near(var.at(0, i), s / static_cast<double>(rows), i == 0 ? 5000 : 32, 2));
    }
    REQUIRE(mean.untouched_outside());
    REQUIRE(var.untouched_outside());
  });
}

TEST_CASE("A NaN poisons its own row only", "[kernel][norm]") {
  Random random(1);
  Rows<float> v(6, 9, 0, random), w(1, 9, 0, random), y(6, 9, 0);
  v.view()(2, 3) = std::numeric_limits<float>::quiet_NaN();
  rms_norm(v.look(), w.data(), 0.0f, 1e-5, y.view());
  for (Index t = 0; t < 6; ++t) REQUIRE(std::isnan(y.at(t, 8)) == (t == 2));
}
