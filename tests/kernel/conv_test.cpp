#include <limen/kernel/conv.hpp>

#include <limen/core/random.hpp>

#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

using Numbers = std::vector<float>;

Numbers noise(Index n, Random& random) {
  Numbers x(static_cast<std::size_t>(n));
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

double silu(double z) { return z / (1 + std::exp(-z)); }

void near(double got, double expected, double tolerance) {
  REQUIRE(std::abs(got - expected) <= tolerance * (1 + std::abs(expected)));
}

}  // namespace

TEST_CASE("depthwise_conv and its backward are what plain loops give", "[kernel][conv]") {
  Random random(3);
  for (const Index W : {2, 3, 4, 5, 9}) {
    for (const Index C : {1, 3, 15, 16, 17, 67}) {
      for (const Index T : {0, 1, 2, 7, 16, 33}) {
        for (const bool carried : {false, true}) {
          INFO("W " << W << " C " << C << " T " << T);
          const Numbers x = noise(T * C, random), w = noise(W * C, random), b = noise(C, random);
          const Numbers before = noise((W - 1) * C, random), dy = noise(T * C, random);
          const CausalRows<float> in{{x.data(), T, C, C}, carried ? before.data() : nullptr, W - 1};
          Numbers y(x.size()), z(x.size()), dx(x.size()), d_before(before.size(), 5);
          Numbers dw(w.size(), 1), db(b.size(), 1);
          const MatrixView<float> to{y.data(), T, C, C};
          depthwise_conv(W, true, in, w.data(), b.data(), to);
          depthwise_conv<float>(W, false, in, w.data(), nullptr, {z.data(), T, C, C});
          depthwise_conv_backward<float>(W, {dy.data(), T, C, C}, in, w.data(),
                                         {dx.data(), T, C, C}, d_before.data(), dw.data(),
                                         db.data());
          const auto at = [C](const Numbers& a, Index t, Index c) {
            return static_cast<double>(a[static_cast<std::size_t>(t * C + c)]);
          };
          const auto input = [&](Index t, Index c) {
            return t >= 0 ? at(x, t, c) : carried ? at(before, t + W - 1, c) : 0.0;
          };
          for (Index c = 0; c < C; ++c) {
            double expected_db = 1;
            for (Index t = 0; t < T; ++t) {
              double sum = 0;
              for (Index j = 0; j < W; ++j) sum += at(w, j, c) * input(t - (W - 1) + j, c);
              near(at(z, t, c), sum, 2e-6);
              near(at(y, t, c), silu(sum + at(b, 0, c)), 4e-6);
              expected_db += at(dy, t, c);
            }
            near(at(db, 0, c), expected_db, 1e-5);
            for (Index j = 0; j < W; ++j) {
              double expected = 1;
              for (Index t = 0; t < T; ++t) expected += at(dy, t, c) * input(t - (W - 1) + j, c);
              near(at(dw, j, c), expected, 1e-5);
            }
            for (Index s = 1 - W; s < T; ++s) {
              double expected = 0;
              for (Index j = 0; j < W; ++j) {
                const Index t = s + (W - 1) - j;
                if (t >= 0 && t < T) expected += at(w, j, c) * at(dy, t, c);
              }
              near(s >= 0 ? at(dx, s, c) : at(d_before, s + W - 1, c), expected, 4e-6);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("Windows are gathered and scattered as the equation says", "[kernel][conv]") {
  Random random(4);
  for (const Window2d& s :
       {Window2d{{3, 4}, 2, {2, 2}, {1, 1}, {0, 0}, {1, 1}},
        Window2d{{5, 3}, 17, {3, 3}, {2, 1}, {1, 1}, {1, 1}},
        Window2d{{2, 2}, 3, {3, 5}, {1, 1}, {2, 4}, {1, 1}},  // windows with nothing but padding
        Window2d{{6, 7}, 1, {2, 3}, {1, 2}, {0, 2}, {3, 2}}}) {
    const Index H = s.image.height, W = s.image.width, C = s.channels, P = s.positions();
    const Numbers image = noise(H * W * C, random);
    Numbers columns(static_cast<std::size_t>(P * s.columns()), 99);
    gather_windows(s, image.data(), 0, P / 2, columns.data());
    gather_windows(s, image.data(), P / 2, P - P / 2, columns.data() + P / 2 * s.columns());
    Numbers back(image.size()), expected_back(image.size());
    scatter_windows(s, columns.data(), 0, P, back.data());
    std::size_t at = 0;
    for (Index p = 0; p < P; ++p) {
      for (Index a = 0; a < s.kernel.height; ++a) {
        for (Index b = 0; b < s.kernel.width; ++b) {
          const Index y =
              p / s.out().width * s.stride.height - s.padding.height + a * s.dilation.height;
          const Index x =
              p % s.out().width * s.stride.width - s.padding.width + b * s.dilation.width;
          const bool inside = y >= 0 && y < H && x >= 0 && x < W;
          for (Index c = 0; c < C; ++c, ++at) {
            const auto pixel = static_cast<std::size_t>((y * W + x) * C + c);
            REQUIRE(columns[at] == (inside ? image[pixel] : 0.0f));
            if (inside) expected_back[pixel] += columns[at];
          }
        }
      }
    }
    for (std::size_t i = 0; i < back.size(); ++i) near(back[i], expected_back[i], 1e-6);
  }
}

TEST_CASE("A gradient through a maximum does not touch its neighbours", "[kernel][conv]") {
  const Window2d s{{1, 3}, 1, {1, 2}, {1, 1}, {0, 0}, {1, 1}};
  const float image[] = {1, 3, 2}, dy[] = {10, 100};
  float y[2], d[] = {0, 0, 0};
  max_pool(s, image, y);
  add_max_pool_gradient(s, image, dy, d);
  REQUIRE(y[0] == 3);
  REQUIRE(y[1] == 3);
  REQUIRE(d[0] == 0);
  REQUIRE(d[1] == 110);
  REQUIRE(d[2] == 0);
}

TEST_CASE("Taps turn outwards and back", "[kernel][conv]") {
  const float w[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // [2][3][2]
  float turned[12], back[12] = {};
  taps_first(w, 2, 3, 2, turned);
  REQUIRE(Numbers(turned, turned + 6) == Numbers{1, 3, 5, 2, 4, 6});
  add_taps_last(turned, 2, 3, 2, back);
  REQUIRE(Numbers(back, back + 12) == Numbers(w, w + 12));
}
