#pragma once
/// @file  Rotary position embedding: which channels of a head turn, and how fast.
///
///   φ_i = p f_i,  f_i = θ^(-2i/R)        i < R / 2, p the position: kernel/rope.hpp
///
/// A score of two rotated rows depends on the distance of their positions only. Contexts longer
/// than the trained one are reached by slowing some of the f_i down (`scaling`).
///
/// Su et al., "RoFormer", arXiv:2104.09864, section 3.4; Peng et al., "YaRN", arXiv:2309.00071.

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include <limen/kernel/rope.hpp>

namespace limen::inline LIMEN_ABI {

enum class RopeScaling {
  none,
  linear,  ///< positions divided by .factor
  ntk,     ///< θ grows so that the slowest pair is .factor times as slow
  yarn,    ///< fast pairs stay, slow ones are divided by .factor, a ramp between
  llama3   ///< the same with bands given by wavelength
};

struct RopeConfig {
  double base = 0;          ///< θ, usually 10000; 0: nothing turns
  Index width = 0;          ///< R, channels of a head that turn; 0: all
  bool neighbours = false;  ///< pairs are channels 2i and 2i + 1 (GPT-J), not i and i + R/2 (Llama)
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;          ///< how much longer the context is
  double trained = 8192;      ///< positions of the training, for yarn and llama3
  double fast = 0, slow = 0;  ///< turns in `trained` positions that bound the ramp; 0: 32 and 1 for
                              ///< yarn, 4 and 1 for llama3
  double scale = 0;           ///< m, times queries and keys; 0: 1, and 0.1 log(factor) + 1 for yarn

  constexpr bool on() const { return base > 0; }
};

/// The frequencies f [R / 2] of a config with .width R.
inline void rope_frequencies(const RopeConfig& c, Index R, double* f) {
  using enum RopeScaling;
  const auto n = static_cast<double>(R);
  const bool yarn_scaled = c.scaling == yarn;
  const double base = c.scaling == ntk && R > 2 ? c.base * std::pow(c.factor, n / (n - 2)) : c.base;
  const double fast = c.fast > 0 ? c.fast : (yarn_scaled ? 32 : 4);
  const double slow = c.slow > 0 ? c.slow : 1;
  const auto pair_with = [&](double turns) {  // the pair that turns so often in .trained positions
    return n * std::log(c.trained / (turns * 2 * std::numbers::pi)) / (2 * std::log(c.base));
  };
  const double low = std::max(std::floor(pair_with(fast)), 0.0);
  double high = std::min(std::ceil(pair_with(slow)), n - 1);
  if (low == high) high += 0.001;
  for (Index i = 0; i < R / 2; ++i) {
    f[i] = std::pow(base, -2 * static_cast<double>(i) / n);
    double kept = 1;  // the share of f that stays; the rest is divided by .factor
    if (c.scaling == linear) kept = 0;
    if (yarn_scaled) kept = 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    if (c.scaling == llama3) {
      const double turns = c.trained * f[i] / (2 * std::numbers::pi);
      kept = std::clamp((turns - slow) / (fast - slow), 0.0, 1.0);
    }
    f[i] *= kept + (1 - kept) / c.factor;
  }
}

template <Index R>
std::array<double, static_cast<std::size_t>(R / 2)> rope_frequencies(const RopeConfig& c) {
  std::array<double, static_cast<std::size_t>(R / 2)> f{};
  rope_frequencies(c, R, f.data());
  return f;
}

/// Worked out before main, so that a step neither waits nor computes it.
template <RopeConfig C, Index R>
inline const std::array<double, static_cast<std::size_t>(R / 2)> rope_table =
    rope_frequencies<R>(C);

/// What turns heads of d channels.
template <RopeConfig C, Index d>
RopeRule rope_rule() noexcept {
  constexpr Index R = C.width > 0 ? C.width : d;
  static_assert(R % 2 == 0 && R <= d && R <= 2 * most_rope_pairs,
                "rope: .width must be even, at most a head wide");
  static_assert(C.factor > 0 && C.trained > 0, "rope: .factor and .trained must be positive");
  static constexpr RopeConfig config = C;
  const bool longer = config.scaling == RopeScaling::yarn && config.factor > 1;
  const double scale =
      config.scale > 0 ? config.scale : (longer ? 0.1 * std::log(config.factor) + 1 : 1.0);
  return {rope_table<C, R>.data(), R, d, config.neighbours, scale};
}

}  // namespace limen::inline LIMEN_ABI
