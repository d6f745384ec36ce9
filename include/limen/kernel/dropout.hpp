#pragma once
/// @file  y = x ⊙ m / (1 - p), the mask a function of (generator, position).

#include <cstdint>

#include <limen/core/matrix.hpp>
#include <limen/core/random.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

/// Words 4 k to 4 k + 3 are philox(key, first + k, stream), for 16 k: the loops over k become
/// vectors.
inline void philox_block(std::uint64_t key, std::uint64_t first, std::uint64_t stream,
                         std::uint32_t (&words)[64]) {
  constexpr int n = 16;
  std::uint32_t x0[n], x1[n], x2[n], x3[n];
  for (std::uint32_t k = 0; k < n; ++k) {
    x0[k] = static_cast<std::uint32_t>(first + k);
    x1[k] = static_cast<std::uint32_t>((first + k) >> 32);
    x2[k] = static_cast<std::uint32_t>(stream);
    x3[k] = static_cast<std::uint32_t>(stream >> 32);
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int k = 0; k < n; ++k) {
      const std::uint64_t a = std::uint64_t{0xD2511F53} * x0[k],
                          b = std::uint64_t{0xCD9E8D57} * x2[k];
      x0[k] = static_cast<std::uint32_t>(b >> 32) ^ x1[k] ^ k0;
      x1[k] = static_cast<std::uint32_t>(b);
      x2[k] = static_cast<std::uint32_t>(a >> 32) ^ x3[k] ^ k1;
      x3[k] = static_cast<std::uint32_t>(a);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (int k = 0; k < n; ++k) {
    words[4 * k] = x0[k];
    words[4 * k + 1] = x1[k];
    words[4 * k + 2] = x2[k];
    words[4 * k + 3] = x3[k];
  }
}

}  // namespace detail

/// Number (r, c) is dropped if word r cols + c of the generator's stream is below p 2^32. `y` may
/// be `x`.
template <class Real>
void dropout(std::type_identity_t<MatrixView<const Real>> x, const Random& random, double p,
             MatrixView<Real> y) noexcept {
  const auto below = static_cast<std::uint32_t>(p * 0x1p32);
  const Real scale = static_cast<Real>(1 / (1 - p));
  std::uint32_t words[64];
  Index at = 64;  // none left
  std::uint64_t next = 0;
  for (Index r = 0; r < x.rows; ++r) {
    const Real* from = x.row(r);
    Real* to = y.row(r);
    for (Index c = 0; c < x.cols;) {
      if (at == 64) {
        detail::philox_block(random.key(), next, random.stream(), words);
        next += 16;
        at = 0;
      }
      const Index left = x.cols - c, n = left < 64 - at ? left : 64 - at;
      for (Index i = 0; i < n; ++i) {
        to[c + i] = words[at + i] < below ? Real(0) : from[c + i] * scale;
      }
      c += n;
      at += n;
    }
  }
}

}  // namespace limen::inline LIMEN_ABI
