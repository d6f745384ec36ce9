#pragma once
/// @file  Reading numbers and doing nothing with them: the limit of whatever streams through
/// memory.

#include <benchmark/benchmark.h>

#include <limen/core/parallel.hpp>
#include <limen/core/simd.hpp>

#include <cstdint>

/// x [n] in whole groups of eight vectors, asked for 8 KiB ahead: the fastest of several ways, from
/// caches as from memory.
inline void read_all(const float* x, limen::Index n) {
  using namespace limen;
  using V = simd::Vec<float>;
  constexpr Index step = 8 * simd::lanes<float>;
  V most[8]{};
  for (Index i = 0; i + step <= n; i += step) {
    LIMEN_UNROLL for (Index k = 0; k < 8; ++k) {
      const float* const from = x + i + k * simd::lanes<float>;
      const auto ahead = reinterpret_cast<std::uintptr_t>(from) + 8192;
      simd::prefetch(reinterpret_cast<const void*>(ahead));  // NOLINT: may be past the end
      most[k] = simd::max(most[k], simd::load<V>(from));
    }
  }
  for (const V& m : most) benchmark::DoNotOptimize(simd::reduce_max(m));
}

/// The same in two halves, by as many threads as are allowed.
inline void read_shared(const float* x, limen::Index n) {
  const limen::Index parts = 2;
  limen::parallel_for(parts, 1e9,
                      [&](limen::Index i) { read_all(x + i * (n / parts), n / parts); });
}
