#include <limen/kernel/depthwise_conv.hpp>

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

double silu(double z) { return z / (1 + std::exp(-z)); }

void near(double got, double expected, double tolerance) {
  REQUIRE(std::abs(got - expected) <= tolerance * (1 + std::abs(expected)));
}

}  // namespace

TEST_CASE("depthwise_conv and its backward are what plain loops give", "[kernel][depthwise_conv]") {
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
