#include <limen/core/random.hpp>
#include <limen/train/loss.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../goldens/golden.hpp"
#include "../goldens/train_losses.hpp"

using namespace limen;
using golden::Numbers;
using golden::same;

namespace {

template <class Real, Index D>
Sequence<Real, D> sequence(Numbers values) {
  Sequence<Real, D> x(static_cast<Index>(values.size()) / D);
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<Real>(values[static_cast<std::size_t>(i)]);
  }
  return x;
}

template <class Real, Index D>
void compare(const Loss<Real, D>& loss, double value, Numbers gradient) {
  const double tolerance = sizeof(Real) == 8 ? 1e-10 : 2e-6;
  INFO("loss " << loss.value << ", expected " << value);
  REQUIRE(std::abs(loss.value - value) <= tolerance * (1 + std::abs(value)));
  same("gradient", std::span(loss.dy.data(), static_cast<std::size_t>(loss.dy.size())), gradient,
       tolerance);
}

constexpr Reduction mean = Reduction::mean, sum = Reduction::sum;

}  // namespace

#define IS_PYTORCH_AT(width)                                                                    \
  {                                                                                             \
    namespace g = goldens::losses::width;                                                       \
    INFO(#width);                                                                               \
    constexpr Index D = std::size(g::x) / std::size(g::labels);                                 \
    const auto x = sequence<TestType, D>(g::x), t = sequence<TestType, D>(g::target);           \
    const auto q = sequence<TestType, D>(g::q), share = sequence<TestType, D>(g::share);        \
    const std::span<const int> labels = g::labels;                                              \
    compare(cross_entropy(x, labels), g::plain_mean[0], g::d_plain_mean);                       \
    compare(cross_entropy(x, labels, {.reduction = sum}), g::plain_sum[0], g::d_plain_sum);     \
    compare(cross_entropy(x, labels, {.smoothing = 0.1}), g::smooth_mean[0], g::d_smooth_mean); \
    compare(cross_entropy(x, labels, {.smoothing = 0.1, .reduction = sum}), g::smooth_sum[0],   \
            g::d_smooth_sum);                                                                   \
    compare(kl_divergence(x, q), g::kl_mean[0], g::d_kl_mean);                                  \
    compare(kl_divergence(x, q, sum), g::kl_sum[0], g::d_kl_sum);                               \
    compare(mean_squared_error(x, t), g::squares_mean[0], g::d_squares_mean);                   \
    compare(mean_squared_error(x, t, sum), g::squares_sum[0], g::d_squares_sum);                \
    compare(binary_cross_entropy(x, share), g::binary_mean[0], g::d_binary_mean);               \
    compare(binary_cross_entropy(x, share, sum), g::binary_sum[0], g::d_binary_sum);            \
  }

TEMPLATE_TEST_CASE("Losses and their gradients are PyTorch's", "[train][loss][golden]", double,
                   float){IS_PYTORCH_AT(width_1) IS_PYTORCH_AT(width_5) IS_PYTORCH_AT(width_19)}

TEST_CASE("The gradient of a loss is its slope", "[train][loss]") {
  constexpr Index D = 11;
  Random random(3);
  Sequence<double, D> x(4), q(4);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = 2 * random.normal();
  for (Index i = 0; i < q.size(); ++i) q.data()[i] = random.uniform();  // no distribution
  const std::vector<int> labels{10, 0, 7, 3};
  const auto check = [&](auto loss) {
    const auto at = loss(x);
    for (Index i = 0; i < x.size(); ++i) {
      const double before = x.data()[i], h = 1e-6;
      x.data()[i] = before + h;
      const double above = loss(x).value;
      x.data()[i] = before - h;
      const double below = loss(x).value;
      x.data()[i] = before;
      REQUIRE(std::abs(at.dy.data()[i] - (above - below) / (2 * h)) < 1e-7);
    }
  };
  for (const Reduction r : {mean, sum}) {
    check([&](auto& y) { return cross_entropy(y, labels, {.reduction = r}); });
    check([&](auto& y) { return cross_entropy(y, labels, {.smoothing = 0.3, .reduction = r}); });
    check([&](auto& y) { return cross_entropy(y, labels, {.ignore = 7, .reduction = r}); });
    check([&](auto& y) { return kl_divergence(y, q, r); });
    check([&](auto& y) { return mean_squared_error(y, q, r); });
    check([&](auto& y) { return binary_cross_entropy(y, q, r); });
  }
}

TEMPLATE_TEST_CASE("Large logits neither overflow nor lose the loss", "[train][loss]", double,
                   float) {
  const std::vector<int> labels{1, 0};
  const auto l = cross_entropy(Sequence<TestType, 2>{{1000, -1000}, {1000, -1000}}, labels);
  REQUIRE(l.value == 1000);  // (2000 + 0) / 2
  REQUIRE(l.dy(0, 0) == TestType(0.5));
  REQUIRE(l.dy(0, 1) == TestType(-0.5));
  REQUIRE(l.dy(1, 0) == 0);
  const auto b =
      binary_cross_entropy(Sequence<TestType, 2>{{500, -500}}, Sequence<TestType, 2>{{0, 0}});
  REQUIRE(b.value == 250);
  REQUIRE(b.dy(0, 0) == TestType(0.5));
  REQUIRE(b.dy(0, 1) < 1e-30);
}

TEST_CASE("Rows that do not count have no gradient", "[train][loss]") {
  const Sequence<float, 3> x{{1, 2, 3}, {4, 5, 6}};
  const auto none = cross_entropy(x, std::vector<int>{-1, -1});
  REQUIRE(none.value == 0);
  REQUIRE(none.weight == 0);
  for (Index i = 0; i < 6; ++i) REQUIRE(none.dy.data()[i] == 0);
  const auto second = cross_entropy(x, std::vector<int>{2, 1}, {.ignore = 2});
  REQUIRE(second.weight == 1);
  REQUIRE(second.value == Approx(std::log(std::exp(-1.0) + 1 + std::exp(1.0))).epsilon(1e-6));
  REQUIRE(second.dy(0, 1) == 0);
  REQUIRE(cross_entropy(Sequence<float, 3>(), {}).value == 0);
}

TEST_CASE("The share of right answers is counted", "[train][loss]") {
  const Sequence<float, 3> x{{1, 2, 0}, {5, 4, 3}, {0, 0, 1}, {7, 0, 0}};
  REQUIRE(count_correct(x, std::vector<int>{1, 0, 0, -1}) == 2);
  REQUIRE(count_correct(x, std::vector<int>{2, 2, 2, 0}) == 2);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Sequence<float, 2> broken{{nan, nan}, {nan, 1}, {1, nan}, {nan, 1}};
  REQUIRE(count_correct(broken, std::vector<int>{0, 0, 0, 1}) == 0);  // NaN is no answer
}

#if LIMEN_EXCEPTIONS
TEST_CASE("What has no meaning is refused by name", "[train][loss]") {
  const Sequence<float, 3> x{{1, 2, 3}, {4, 5, 6}};
  const Sequence<float, 3> one{{1, 2, 3}};
  const auto message = [](auto call) {
    try {
      call();
    } catch (const Exception& e) {
      return std::string(e.what());
    }
    return std::string("fine");
  };
  REQUIRE(message([&] { cross_entropy(x, std::vector<int>{0, 3}); }) ==
          "label of row 1: wanted 0 to 2 (or -1: not counted), found 3");
  REQUIRE(message([&] { cross_entropy(x, std::vector<int>{-2, 0}); }) ==
          "label of row 0: wanted 0 to 2 (or -1: not counted), found -2");
  REQUIRE(message([&] { cross_entropy(x, std::vector<int>{0}); }) ==
          "labels: wanted 2, one for each row, found 1");
  REQUIRE(message([&] { cross_entropy(x, std::vector<int>{0, 1}, {.smoothing = 1.5}); }) ==
          "CrossEntropyOptions.smoothing: wanted a share from 0 to 1, found 1.500000");
  REQUIRE(message([&] { kl_divergence(x, one); }) == "rows of the target: wanted 2, found 1");
  REQUIRE(message([&] { mean_squared_error(x, one); }) == "rows of the target: wanted 2, found 1");
  REQUIRE(message([&] { binary_cross_entropy(one, x); }) ==
          "rows of the target: wanted 1, found 2");
  REQUIRE(message([&] { count_correct(x, std::vector<int>{0, 9}); }) ==
          "label of row 1: wanted 0 to 2 (or -1: not counted), found 9");
}
#endif
