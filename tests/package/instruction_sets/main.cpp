// Calls every unit, twice and in both orders, and compares what they computed.
#include "unit.hpp"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>

#define VARIANT(name) Result run_##name();
#include "variants.inc"
#undef VARIANT

int main() {
  constexpr Result (*units[])() = {
#define VARIANT(name) run_##name,
#include "variants.inc"
#undef VARIANT
  };
  constexpr int count = static_cast<int>(std::size(units));
  const Result first = units[0]();
  for (int round = 0; round < 2 * count; ++round) {
    const int i = round < count ? round : 2 * count - 1 - round;
    const Result result = units[i]();
    double worst = 0;
    for (std::size_t k = 0; k < std::size(result.y); ++k) {
      const double difference = std::abs(result.y[k] - first.y[k]);
      if (!(difference <= worst)) worst = difference;
    }
    std::printf("%-12s differs from %s by %.2g\n", result.isa, first.isa, worst);
    if (!(worst <= 1e-5)) return 1;
    if (i > 0 && std::strcmp(result.isa, first.isa) == 0) return 2;
  }
}
