#include <limen/kernel/conv.hpp>

#include <limen/core/random.hpp>

#include <cmath>
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

void near(double got, double expected, double tolerance) {
  REQUIRE(std::abs(got - expected) <= tolerance * (1 + std::abs(expected)));
}

}  // namespace

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

TEST_CASE("Taps turn outwards and back", "[kernel][conv]") {
  const float w[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};  // [2][3][2]
  float turned[12], back[12] = {};
  taps_first(w, 2, 3, 2, turned);
  REQUIRE(Numbers(turned, turned + 6) == Numbers{1, 3, 5, 2, 4, 6});
  add_taps_last(turned, 2, 3, 2, back);
  REQUIRE(Numbers(back, back + 12) == Numbers(w, w + 12));
}
