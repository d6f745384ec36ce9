#pragma once
/// @file  Gates that have learned when a row leaves, as a policy.
///
///     net.run(x, {}, gates);           ExitGates<Net::exits - 1>, trained by exit/jei_training.hpp
///
///   f_l = (max p, entropy, margin, power entropy) of p = softmax(z_l)          not differentiated
///   g_l = σ(w_l · f_l + b_l)                                                   l = 1..G, G = K - 1
///   P(E = l) = max(0, min(g_l, 1 - Σ_{i<l} g_i)),   P(E = K) = max(0, 1 - Σ g_i)    sums to 1
///   h_l = P(E = l) / P(E >= l) = 1 if Σ_{i<l} g_i >= 1, else min(1, g_l / (1 - Σ_{i<l} g_i))
///
/// A row leaves at the first l with h_l >= 1/2. JEI-DNN: Chataoui & Coates, "Jointly-learned exit
/// and inference for a dynamic neural network", arXiv:2310.09163, section 4.

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include <limen/core/error.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/prepared.hpp>
#include <limen/core/tensor.hpp>
#include <limen/exit/scores.hpp>

namespace limen::inline LIMEN_ABI {

/// f of one row. NaN where there is no answer.
template <class Real>
std::array<double, 4> exit_features(const RowSums<Real>& row) noexcept {
  return {row.max_probability(), row.entropy(), row.margin(), row.power_entropy()};
}
/// All four in one pass over z.
template <class Real>
LIMEN_NOINLINE std::array<double, 4> exit_features(std::span<const Real> z) noexcept {
  return exit_features(detail::sums_of<detail::Wanted{true, true, true}>(z));
}

/// P(E = 1..G + 1) from g [G].
template <std::size_t G>
constexpr std::array<double, G + 1> exit_law(const std::array<double, G>& g) {
  std::array<double, G + 1> p{};
  double spent = 0, sum = 0;
  for (std::size_t l = 0; l < G; ++l) {
    const double rest = 1 - spent;
    if (g[l] <= rest) p[l] = g[l];
    if (g[l] > rest && rest > 0) p[l] = rest;  // NaN: nobody, and nobody after it
    spent += g[l];
    sum += p[l];
  }
  p[G] = sum < 1 ? 1 - sum : 0;
  return p;
}

/// h of a gate before which the gates add up to `spent`. A quotient of probabilities would be 0
/// where nothing is left but rounding.
constexpr double exit_hazard(double g, double spent) {
  if (spent >= 1) return 1;
  const double h = g / (1 - spent);
  return h > 1 ? 1 : h;  // NaN stays NaN
}

/// As a policy it remembers of each row what the gates before add up to.
template <Index G, class Real = float>
struct ExitGates {
  static_assert(G > 0, "ExitGates: a network with one exit has nothing to decide");
  static constexpr Index gates = G;
  using Scalar = Real;
  template <class T>
  using with_scalar = ExitGates<G, real_of<T>>;

  Tensor<Real, G, 4> weight;  ///< w
  Tensor<Real, G> bias;       ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static ExitGates initialized(Random& random) {
    ExitGates fresh;
    fill_uniform(fresh.weight, 0.5, random);
    fill_uniform(fresh.bias, 0.5, random);
    return fresh;
  }

  /// a_l = w_l · f + b_l, l from 0
  double logit(Index l, const std::array<double, 4>& f) const noexcept {
    double a = static_cast<double>(bias[l]);
    for (Index i = 0; i < 4; ++i) {
      a += static_cast<double>(weight(l, i)) * f[static_cast<std::size_t>(i)];
    }
    return a;
  }
  /// All of one row, z: the heads side by side, C numbers each.
  template <class R>
  std::array<double, std::size_t{G}> open(const R* z, Index classes) const noexcept {
    std::array<double, std::size_t{G}> g{};
    for (Index l = 0; l < G; ++l) {
      const std::span<const R> row(z + l * classes, static_cast<std::size_t>(classes));
      g[static_cast<std::size_t>(l)] = sigmoid(logit(l, exit_features(row)));
    }
    return g;
  }

  // ── As a policy ────────────────────────────────────────────────────────────────────────────────
  struct Memory {
    double spent = 0;
  };
  template <class R>
  bool operator()(std::span<const R> z, Index k, Memory& row) const noexcept {
    return opens(exit_features(z), k, row);
  }
  template <class R>
  bool by_sums(const RowSums<R>& z, Index k, Memory& row) const noexcept {
    return opens(exit_features(z), k, row);
  }
  Status check(Index exits, Index classes) const {
    if (exits != G + 1) {
      return Error{"ExitGates: exits", std::to_string(G + 1) + ", one more than gates",
                   std::to_string(exits)};
    }
    if (classes < 2) return Error{"ExitGates: classes", "2 or more", std::to_string(classes)};
    return {};
  }

  static double sigmoid(double a) noexcept { return 1 / (1 + std::exp(-a)); }

  /// What one gate costs, in multiply-accumulates, with its features: C, 2 C, C + 1, 5 C, 5.
  static constexpr Index macs(Index classes) { return 9 * classes + 6; }

 private:
  LIMEN_NOINLINE bool opens(const std::array<double, 4>& f, Index k, Memory& row) const noexcept {
    const double g = sigmoid(logit(k, f));
    const double h = exit_hazard(g, row.spent);
    row.spent += g;
    return h >= 0.5;
  }
};

}  // namespace limen::inline LIMEN_ABI
