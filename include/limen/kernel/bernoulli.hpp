#pragma once
/// @file  A row of coins, the same on every machine: element c of row t is 1 where u < p_c, with u
/// from the counter-based generator (core/random.hpp) at (key, t, c).
///
/// No generator is advanced, so rows can be drawn in any order and by any thread. u has 24 bits,
/// which is what a float can compare with: 0 is never drawn as 1, and 1 always is.

#include <cstdint>

#include <limen/core/random.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// philox of `Lanes` counters from `counter` on: word w of lane l is words[w][l]. Written as loops
/// over lanes, which compilers turn into vectors.
template <int Lanes>
inline void philox_lanes(std::uint64_t key, std::uint64_t counter, std::uint64_t stream,
                         std::uint32_t (&words)[4][Lanes]) noexcept {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int l = 0; l < Lanes; ++l) {
    const std::uint64_t at = counter + static_cast<std::uint64_t>(l);
    words[0][l] = static_cast<std::uint32_t>(at);
    words[1][l] = static_cast<std::uint32_t>(at >> 32);
    words[2][l] = static_cast<std::uint32_t>(stream);
    words[3][l] = static_cast<std::uint32_t>(stream >> 32);
  }
  for (int round = 0; round < 10; ++round) {
    LIMEN_UNROLL
    for (int l = 0; l < Lanes; ++l) {
      const std::uint64_t a = std::uint64_t{0xD2511F53} * words[0][l];
      const std::uint64_t b = std::uint64_t{0xCD9E8D57} * words[2][l];
      words[0][l] = static_cast<std::uint32_t>(b >> 32) ^ words[1][l] ^ k0;
      words[1][l] = static_cast<std::uint32_t>(b);
      words[2][l] = static_cast<std::uint32_t>(a >> 32) ^ words[3][l] ^ k1;
      words[3][l] = static_cast<std::uint32_t>(a);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
}

}  // namespace detail

/// s_c = [u < p_c] for c < n; NaN stays NaN. p may be s.
template <class Real>
void bernoulli_row(const Real* p, Index n, std::uint64_t key, std::uint64_t stream, std::uint64_t t,
                   Real* s) noexcept {
  constexpr int lanes = 16;
  constexpr Index block = 4 * lanes;
  const std::uint64_t counters = static_cast<std::uint64_t>((n + 3) / 4);  // of a row
  std::uint32_t words[4][lanes];
  for (Index c = 0; c < n; c += block) {
    detail::philox_lanes<lanes>(key, t * counters + static_cast<std::uint64_t>(c / 4), stream,
                                words);
    const Index count = n - c < block ? n - c : block;
    for (Index i = 0; i < count; ++i) {
      const Real u = static_cast<Real>(static_cast<std::int32_t>(words[i % 4][i / 4] >> 8)) *
                     static_cast<Real>(0x1p-24);
      const Real q = p[c + i];
      s[c + i] = q != q ? q : u < q ? Real(1) : Real(0);
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
