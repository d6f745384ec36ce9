#pragma once
/// @file  The length of a gradient, and a limit to it:  g *= min(1, c / (‖g‖ + 1e-6)), where ‖g‖ is
/// over all parameters together. Pascanu, Mikolov & Bengio, arXiv:1211.5063.

#include <cmath>
#include <string>

#include <limen/train/elementwise.hpp>

namespace limen::inline LIMEN_ABI {

template <Parametrized M>
double global_norm(const M& gradient) {
  double sum = 0;
  detail::for_each_learned(
      [&](std::size_t, const auto& g) { sum += detail::squared_norm(g.data(), g.size); }, gradient);
  return std::sqrt(sum);
}

/// The same where the norm is known already.
template <Parametrized M>
void clip_to(M& gradient, double norm, double limit) {
  const double factor = limit / (norm + 1e-6);
  if (!(factor < 1)) return;
  detail::for_each_learned([&](std::size_t, auto& g) { detail::scale(g.data(), factor, g.size); },
                           gradient);
}

/// Gives the norm from before.
template <Parametrized M>
double clip_global_norm(M& gradient, double limit) {
  const double norm = global_norm(gradient);
  clip_to(gradient, norm, limit);
  return norm;
}

/// The first parameter with a number whose square is not finite; empty if there is none.
template <Parametrized M>
std::string first_not_finite(const M& model) {
  std::string found;
  for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        if (found.empty() && !std::isfinite(detail::squared_norm(tensor.data(), tensor.size))) {
          found = name;
        }
      },
      model);
  return found;
}

}  // namespace limen::inline LIMEN_ABI
