#pragma once
/// @file  Dormant neurons, and the reset that wakes them.
///
///   m_i = mean_b |h_bi|,  s_i = m_i / mean_j m_j        h [B x n], activations of one layer
///   β = #(s_i < τ) / #(all i)                           over all layers that are given
///   θ <- a θ + (1 - a) φ                                φ drawn anew, a = clip(1 - 2 β, 0.2,
///   a_max)
///
///     const auto beta = dormant({&seen["0.hidden"], &seen["1.hidden"]}).ratio();
///     Random fresh(seed);
///     reset(model, Model::initialized(fresh), reset_share(beta));
///
/// Where all of a layer is silent, all its units are dormant. The optimizer's memory of what was
/// reset is the caller's to clear.
///
/// Sokar et al., "The dormant neuron phenomenon", arXiv:2302.12902; Xu et al., "DrM",
/// arXiv:2310.19668.

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <limen/core/parameters.hpp>
#include <limen/probe/names.hpp>
#include <limen/probe/record.hpp>

namespace limen::inline LIMEN_ABI {

struct Dormancy {
  Index dormant = 0, units = 0;             ///< of all layers
  std::vector<std::vector<double>> scores;  ///< s of each layer

  double ratio() const { return static_cast<double>(dormant) / static_cast<double>(units); }
};

inline Dormancy dormant(const std::vector<const Activations*>& layers, double tau = 0.025) {
  Dormancy result;
  if (!(tau >= 0)) {
    fail({"dormant: tau", "at least 0", std::to_string(tau)});
    return result;
  }
  for (const Activations* h : layers) {
    if (h->rows == 0 || h->cols == 0) {
      fail({"dormant", "at least one row", "an empty batch"});
      return {};
    }
    std::vector<double> m(static_cast<std::size_t>(h->cols));
    double mean = 0;
    for (Index i = 0; i < h->cols; ++i) {
      double& sum = m[static_cast<std::size_t>(i)];
      for (Index b = 0; b < h->rows; ++b) sum += std::abs((*h)(b, i));
      sum /= static_cast<double>(h->rows);
      mean += sum / static_cast<double>(h->cols);
    }
    for (double& s : m) {
      s = mean > 0 ? s / mean : 0;
      result.dormant += s < tau || !(mean > 0) ? 1 : 0;
    }
    result.units += h->cols;
    result.scores.push_back(std::move(m));
  }
  return result;
}

/// a: how much of the old weights stays.
inline double reset_share(double beta, double most = 0.9, double least = 0.2) {
  return std::min(std::max(least, 1 - 2 * beta), most);
}

/// θ <- a θ + (1 - a) φ for parameters whose name fits one of the patterns; all, without any.
/// Statistics stay.
template <Parametrized L>
void reset(L& model, const L& fresh, double a, const std::vector<std::string>& patterns = {}) {
  if (!(a >= 0 && a <= 1)) {
    fail({"reset: share of the old weights", "0 to 1", std::to_string(a)});
    return;
  }
  for_each_parameter(
      [&](const std::string& name, auto& theta, const auto& phi) {
        using T = std::remove_cvref_t<decltype(theta)>;
        if constexpr (!is_statistic<T>) {
          const bool chosen =
              patterns.empty() || std::any_of(patterns.begin(), patterns.end(),
                                              [&](const auto& p) { return fits(p, name); });
          for (Index i = 0; chosen && i < T::size; ++i) {
            theta[i] = static_cast<typename T::Scalar>(a * static_cast<double>(theta[i]) +
                                                       (1 - a) * static_cast<double>(phi[i]));
          }
        }
      },
      model, fresh);
}

/// The deviation of exploration noise:  0.8 / (1 + exp(-10 (β - 0.2)))
inline double exploration_deviation(double beta) {
  return 0.8 / (1 + std::exp(-10 * (beta - 0.2)));
}

/// The weight of exploitation:  λ_max / (1 + exp(50 (β - 0.2)))
inline double exploitation_weight(double beta, double most) {
  return most / (1 + std::exp(50 * (beta - 0.2)));
}

}  // namespace limen::inline LIMEN_ABI
