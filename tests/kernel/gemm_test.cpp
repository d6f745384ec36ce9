#include <limen/kernel/gemm.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <limen/core/random.hpp>
#include <limits>
#include <vector>

#include "../allocations.hpp"
#include "../catch.hpp"

using namespace limen;

namespace {

/// A matrix inside a larger array: rows further apart than they are long, a start that is not
/// aligned, and exactly as much memory as it needs, so that a sanitizer sees every step outside.
template <class Real>
struct Inside {
  Inside(Index rows, Index cols, Random& random, Index gap = 3, Index start = 1)
      : numbers(
            static_cast<std::size_t>(start + (rows > 0 ? (rows - 1) * (cols + gap) + cols : 0))),
        view{numbers.data() + start, rows, cols, cols + gap} {
    for (Real& v : numbers) v = static_cast<Real>(random.normal());
  }
  Inside(const Inside& other) : numbers(other.numbers), view(other.view) {
    view.data = numbers.data() + (other.view.data - other.numbers.data());
  }
  std::vector<Real> numbers;
  MatrixView<Real> view;
};

enum class Which { nt, panels, panels_transposed, nn, tn };

/// The plain loops. x(m, k) w(n, k), whatever their storage.
template <class Real>
double plain(Which which, MatrixView<const Real> x, MatrixView<const Real> w, Index m, Index n,
             double& magnitude) {
  double sum = magnitude = 0;
  const bool down = which == Which::nn || which == Which::tn || which == Which::panels_transposed;
  const Index K = which == Which::tn ? x.rows : x.cols;
  for (Index k = 0; k < K; ++k) {
    const double a = which == Which::tn ? x(k, m) : x(m, k), b = down ? w(k, n) : w(n, k);
    sum += a * b;
    magnitude += std::abs(a * b);
  }
  return sum;
}

template <class Real>
void run(Which which, MatrixView<const Real> x, MatrixView<const Real> w, MatrixView<Real> y,
         const Epilogue<Real>& out) {
  switch (which) {
    case Which::nt:
      return product_nt(x, w, y, out);
    case Which::panels:
      return product_nt(x, Panels<Real>::pack(w).view(), y, out);
    case Which::panels_transposed:
      return product_nt(x, Panels<Real>::pack_transposed(w).view(), y, out);
    case Which::nn:
      return product_nn(x, w, y, out);
    case Which::tn:
      return add_product_tn(x, w, y);
  }
}

template <class Real>
void compare(Which which, Index M, Index N, Index K, Random& random) {
  const bool tn = which == Which::tn;
  const bool down = tn || which == Which::nn || which == Which::panels_transposed;
  const Inside<Real> x(tn ? K : M, tn ? M : K, random, 5);
  const Inside<Real> w(down ? K : N, down ? N : K, random, 2);
  const Inside<Real> y(M, N, random), bias(1, N, random, 0);
  const Real epsilon = std::numeric_limits<Real>::epsilon();
  for (int flags = tn ? 2 : 0; flags < (tn ? 3 : 8); ++flags) {
    Inside<Real> found = y;
    const Epilogue<Real> out{.bias = flags & 1 ? bias.view.data : nullptr,
                             .activation = flags & 4 ? Activation::relu : Activation::identity,
                             .accumulate = (flags & 2) != 0};
    run<Real>(which, x.view, w.view, found.view, out);
    double worst = 0;
    for (Index m = 0; m < M; ++m) {
      for (Index n = 0; n < N; ++n) {
        double magnitude;
        double wanted = plain<Real>(which, x.view, w.view, m, n, magnitude);
        if (out.accumulate) wanted += y.view(m, n);
        if (out.bias != nullptr) wanted += out.bias[n];
        if (flags & 4) wanted = std::max(wanted, 0.0);
        worst = std::max(worst, std::abs(found.view(m, n) - wanted) / (magnitude + 4));
        found.view(m, n) = y.view(m, n);
      }
    }
    CAPTURE(static_cast<int>(which), M, N, K, flags);
    REQUIRE(worst <= 4 * epsilon * std::sqrt(static_cast<double>(K + 1)));
    REQUIRE(found.numbers == y.numbers);  // nothing between the rows has changed
  }
}

bool same_bits(const void* a, const void* b, std::size_t bytes) {
  return std::memcmp(a, b, bytes) == 0;
}

constexpr Which all[] = {Which::nt, Which::panels, Which::panels_transposed, Which::nn, Which::tn};

}  // namespace

TEMPLATE_TEST_CASE("Products are what the plain loop gives at every height of a tile",
                   "[kernel][gemm]", float, double) {
  Random random(1);
  for (const Which which : all) {
    for (Index M = 0; M <= 40; ++M) {
      for (const Index N : {7, 40, 100, 130})
        compare<TestType>(which, M, N, M % 2 ? 9 : 33, random);
    }
  }
}

TEMPLATE_TEST_CASE("Products are what the plain loop gives at every width", "[kernel][gemm]", float,
                   double) {
  Random random(2);
  const Index sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100};
  for (const Which which : all) {
    for (const Index M : {1, 2, 3, 5, 18}) {
      for (const Index N : sizes) {
        for (const Index K : sizes) compare<TestType>(which, M, N, K, random);
      }
    }
  }
  for (const Which which : all) {
    for (const Index M : {1, 13}) {
      for (const Index N : {0, 1, 33}) compare<TestType>(which, M, N, 0, random);
      for (const Index N : {257, 300}) compare<TestType>(which, M, N, 20, random);
    }
  }
}

TEMPLATE_TEST_CASE("Products are what the plain loop gives where they are cut into slices",
                   "[kernel][gemm]", float, double) {
  Random random(3);
  for (const Which which : all) {
    for (const Index K : {255, 256, 257, 511, 513, 1030})
      compare<TestType>(which, 5, 33, K, random);
    compare<TestType>(which, 30, 65, 600, random);
    compare<TestType>(which, 450, 70, 40, random);
  }
}

TEMPLATE_TEST_CASE("A row has the same bits whatever other rows are there", "[kernel][gemm]", float,
                   double) {
  Random random(4);
  for (const Which which : all) {
    for (const Index N : {1, 5, 16, 32, 33, 64, 70, 96, 130, 250, 600}) {
      for (const Index K : {1, 30, 64, 300, 700}) {
        const Index rows = 50;
        const bool tn = which == Which::tn;
        const bool down = tn || which == Which::nn || which == Which::panels_transposed;
        const Inside<TestType> x(tn ? K : rows, tn ? rows : K, random);
        const Inside<TestType> w(down ? K : N, down ? N : K, random);
        const Inside<TestType> y(rows, N, random);
        const auto bytes = static_cast<std::size_t>(N) * sizeof(TestType);
        Inside<TestType> whole = y;
        run<TestType>(which, x.view, w.view, whole.view, {});
        Inside<TestType> few = y;  // weights as they are: few rows go another way, alike among them
        run<TestType>(which, tn ? x.view.middle_cols(0, 1) : x.view.middle_rows(0, 1), w.view,
                      few.view.middle_rows(0, 1), {});
        for (const Index M : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 24, 25, 37}) {
          for (const Index first : {0, 9}) {
            Inside<TestType> part = y;
            run<TestType>(which, tn ? x.view.middle_cols(first, M) : x.view.middle_rows(first, M),
                          w.view, part.view.middle_rows(first, M), {});
            CAPTURE(static_cast<int>(which), M, N, K, first);
            const bool unpacked = which == Which::nt && M < worth_packing;
            if (unpacked) {
              if (first == 0) REQUIRE(same_bits(part.view.row(0), few.view.row(0), bytes));
            } else {
              for (Index m = first; m < first + M; ++m) {
                REQUIRE(same_bits(part.view.row(m), whole.view.row(m), bytes));
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("Two threads give the bits of one product", "[kernel][gemm]") {
  Random random(5);
  for (const Which which : all) {
    for (const auto& [M, N, K] :
         {std::array<Index, 3>{300, 200, 300}, {900, 40, 300}, {3, 900, 900}}) {
      const bool tn = which == Which::tn;
      const bool down = tn || which == Which::nn || which == Which::panels_transposed;
      const Inside<float> x(tn ? K : M, tn ? M : K, random);
      const Inside<float> w(down ? K : N, down ? N : K, random);
      Inside<float> one(M, N, random), two = one;
      run<float>(which, x.view, w.view, one.view, {});
      const Threads threads(2);
      run<float>(which, x.view, w.view, two.view, {});
      REQUIRE(one.numbers == two.numbers);
    }
  }
}

TEST_CASE("A NaN and an infinity stay in their row and column", "[kernel][gemm]") {
  Random random(6);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Which which : all) {
    for (const Index M : {5, 30}) {
      for (const Index N : {20, 70}) {
        const Index K = 37;
        const bool tn = which == Which::tn;
        const bool down = tn || which == Which::nn || which == Which::panels_transposed;
        const Inside<float> x(tn ? K : M, tn ? M : K, random);
        const Inside<float> w(down ? K : N, down ? N : K, random);
        (tn ? x.view(36, 3) : x.view(3, 36)) = nan;
        (down ? w.view(36, 17) : w.view(17, 36)) = infinity;
        Inside<float> y(M, N, random);
        run<float>(which, x.view, w.view, y.view, {});
        for (Index m = 0; m < M; ++m) {
          for (Index n = 0; n < N; ++n) {
            CAPTURE(static_cast<int>(which), M, N, m, n);
            REQUIRE(std::isnan(y.view(m, n)) == (m == 3));
            REQUIRE(std::isinf(y.view(m, n)) == (n == 17 && m != 3));
          }
        }
      }
    }
  }
}

TEST_CASE("Activations that are not fused see the whole sum once", "[kernel][gemm]") {
  Random random(7);
  for (const Which which : {Which::nt, Which::panels, Which::nn}) {
    for (const Index M : {1, 4, 30}) {
      const Index N = 300, K = 600;
      const Inside<float> x(M, K, random),
          w(which == Which::nn ? K : N, which == Which::nn ? N : K, random);
      const Inside<float> bias(1, N, random, 0);
      Inside<float> plain(M, N, random), activated = plain;
      run<float>(which, x.view, w.view, plain.view, {.bias = bias.view.data});
      run<float>(which, x.view, w.view, activated.view,
                 {.bias = bias.view.data, .activation = Activation::silu});
      for (Index m = 0; m < M; ++m)
        activate(Activation::silu, plain.view.row(m), plain.view.row(m), N);
      REQUIRE(plain.numbers == activated.numbers);
    }
  }
}

TEST_CASE("Few rows allocate nothing, and packing allocates only once", "[kernel][gemm]") {
  Random random(8);
  const Inside<float> x(64, 90, random), w(70, 90, random);
  Inside<float> y(64, 70, random);
  const auto packed = Panels<float>::pack(w.view);
  product_nt<float>(x.view, w.view, y.view);
  const std::size_t before = allocations();
  for (const Index M : {1, 7, 15, 64}) {
    const auto rows = x.view.middle_rows(0, M);
    product_nt<float>(rows, w.view, y.view.middle_rows(0, M));
    product_nt<float>(rows, packed.view(), y.view.middle_rows(0, M));
  }
  REQUIRE(allocations() == before);
}

TEST_CASE("Panels are a value", "[kernel][gemm]") {
  Random random(9);
  const Inside<float> x(3, 20, random), w(40, 20, random);
  Inside<float> y(3, 40, random), again(3, 40, random);
  auto original = Panels<float>::pack(w.view);
  product_nt<float>(x.view, original.view(), y.view);
  Panels<float> copy = original, moved = std::move(original);
  REQUIRE(original.rows() == 0);  // NOLINT: what a moved-from one is, on purpose
  original = copy;
  const Panels<float>& itself = original;
  original = itself;
  for (const auto* panels : {&copy, &moved, &original}) {
    REQUIRE(panels->rows() == 40);
    REQUIRE(panels->cols() == 20);
    product_nt<float>(x.view, panels->view(), again.view);
    for (Index m = 0; m < 3; ++m) REQUIRE(same_bits(y.view.row(m), again.view.row(m), 160));
  }
}
