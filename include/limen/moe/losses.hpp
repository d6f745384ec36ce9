#pragma once
/// @file  What keeps experts from being idle: auxiliary losses with their gradients, and a bias
/// that needs none.
///
///   load balance   α E Σ_e f_e P_e             f share of the choices, P mean of softmax(z)
///     of work      α E Σ_e r_e f_e P_e         r = cost / mean cost: where f = P it is least where
///                                              r f is the same for all experts
///   z              (β / T) Σ_t lse(z_t)²       lse = log Σ_e e^z
///   sequence       α Σ_e f_e P_e               f = E count / (K T), P mean of σ(z) / Σ σ(z)
///   importance     λ var(v) / mean(v)²         v_e = Σ_t weight of e
///   bias           b_e += γ sign(mean load - load_e), after each step of the optimizer
///
/// T rows, E experts, K choices per row. f and the choices are constants in backward. Each function
/// gives the loss and adds its slope to dz [T x E] (or dv) if there is one. Sums run in double.
///
/// Fedus, Zoph & Shazeer, "Switch Transformers", arXiv:2101.03961, equations 4 to 6. Zoph et al.,
/// "ST-MoE", arXiv:2202.08906, equation 5. DeepSeek-AI, "DeepSeek-V3", arXiv:2412.19437, equations
/// 16 to 20. Shazeer et al., "Outrageously large neural networks", arXiv:1701.06538, equation 7.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include <limen/core/macs.hpp>
#include <limen/core/matrix.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/parameters.hpp>
#include <limen/core/tensor.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/softmax.hpp>

namespace limen::inline LIMEN_ABI {

/// What a row costs with each expert, in any unit. All 0: the same.
using ExpertCosts = std::array<double, 32>;

/// Multiply-accumulates of each kind of expert.
template <class... Experts>
  requires(sizeof...(Experts) <= std::tuple_size_v<ExpertCosts>)
constexpr ExpertCosts expert_costs() {
  return {static_cast<double>(macs<Experts>(1))...};
}

/// Coefficients; 0 leaves a loss out.
struct RouterLosses {
  double load_balance = 0;           ///< α of the load balance; 0.01 in Switch
  bool divide_by_k = true;           ///< f sums to 1; false: to K, as in transformers
  double z = 0;                      ///< β; 0.001 in ST-MoE
  double sequence = 0;               ///< α per sequence; 0.0001 in DeepSeek-V3
  double importance = 0;             ///< λ
  bool population_variance = false;  ///< divide by E, not E - 1
  ExpertCosts cost = {};             ///< load balance counts work instead of choices
};

namespace detail {

/// None at all, or one for each of so many experts.
constexpr bool costs_fit(const ExpertCosts& cost, Index experts) {
  if (cost == ExpertCosts{}) return true;
  if (experts > Index{std::tuple_size_v<ExpertCosts>}) return false;
  for (std::size_t e = 0; e < cost.size(); ++e) {
    if (!(cost[e] >= 0) || (cost[e] > 0 && static_cast<Index>(e) >= experts)) return false;
  }
  return true;
}

/// counts [E] of each expert among n ids; -1 is nobody.
inline Buffer<double> count_choices(const std::int32_t* ids, Index n, Index experts) {
  Buffer<double> count(experts);
  for (double& c : count) c = 0;
  for (Index i = 0; i < n; ++i) {
    if (ids[i] >= 0) count[ids[i]] += 1;
  }
  return count;
}

/// r_e = cost_e / mean cost, on top of what is counted.
inline void weigh_by_cost(Buffer<double>& count, const double* cost) {
  double sum = 0;
  for (Index e = 0; e < count.size(); ++e) sum += cost[e];
  if (sum <= 0) return;  // all cost the same
  for (Index e = 0; e < count.size(); ++e) {
    count[e] *= cost[e] * static_cast<double>(count.size()) / sum;
  }
}

}  // namespace detail

/// ids [T x K]: all choices, also those that were dropped later. cost [E]; null: the same.
template <class Real>
double load_balance_loss(std::type_identity_t<MatrixView<const Real>> z, const std::int32_t* ids,
                         Index k, double alpha, bool divide_by_k, MatrixView<Real> dz,
                         const double* cost = nullptr) {
  const Index rows = z.rows, experts = z.cols;
  if (rows == 0 || alpha == 0) return 0;
  auto count = detail::count_choices(ids, rows * k, experts);
  if (cost != nullptr) detail::weigh_by_cost(count, cost);
  const double of = static_cast<double>(divide_by_k ? rows * k : rows);
  const double scale = alpha * static_cast<double>(experts) / static_cast<double>(rows);
  Buffer<Real> p(experts), g(experts);
  for (Index e = 0; e < experts; ++e) g[e] = static_cast<Real>(scale * count[e] / of);
  double loss = 0;
  for (Index t = 0; t < rows; ++t) {
    softmax_row(z.row(t), p.data(), experts);
    double mean = 0;
    for (Index e = 0; e < experts; ++e) {
      mean += static_cast<double>(p[e]) * scale * count[e] / of;
    }
    loss += mean;
    if (dz.data == nullptr) continue;
    for (Index e = 0; e < experts; ++e) {
      dz(t, e) += p[e] * (g[e] - static_cast<Real>(mean));
    }
  }
  return loss;
}

template <class Real>
double router_z_loss(std::type_identity_t<MatrixView<const Real>> z, double beta,
                     MatrixView<Real> dz) {
  const Index rows = z.rows, experts = z.cols;
  if (rows == 0 || beta == 0) return 0;
  const double scale = beta / static_cast<double>(rows);
  Buffer<Real> p(experts);
  double loss = 0;
  for (Index t = 0; t < rows; ++t) {
    const double lse = softmax_row(z.row(t), p.data(), experts);
    loss += scale * lse * lse;
    if (dz.data == nullptr) continue;
    const Real slope = static_cast<Real>(2 * scale * lse);
    for (Index e = 0; e < experts; ++e) dz(t, e) += slope * p[e];
  }
  return loss;
}

/// z and ids of one sequence.
template <class Real>
double sequence_balance_loss(std::type_identity_t<MatrixView<const Real>> z,
                             const std::int32_t* ids, Index k, double alpha, MatrixView<Real> dz) {
  const Index rows = z.rows, experts = z.cols;
  if (rows == 0 || alpha == 0) return 0;
  auto g = detail::count_choices(ids, rows * k, experts);  // counts, then α f / T
  const double t_rows = static_cast<double>(rows);
  for (double& c : g) {
    c *= alpha * static_cast<double>(experts) / (static_cast<double>(k) * t_rows * t_rows);
  }
  Buffer<Real> s(experts);
  double loss = 0;
  for (Index t = 0; t < rows; ++t) {
    activate(Activation::sigmoid, z.row(t), s.data(), experts);
    double sum = 0, mean = 0;
    for (Index e = 0; e < experts; ++e) sum += static_cast<double>(s[e]);
    for (Index e = 0; e < experts; ++e) mean += g[e] * static_cast<double>(s[e]) / sum;
    loss += mean;
    if (dz.data == nullptr) continue;
    for (Index e = 0; e < experts; ++e) {
      const double v = static_cast<double>(s[e]);
      dz(t, e) += static_cast<Real>((g[e] - mean) / sum * v * (1 - v));
    }
  }
  return loss;
}

/// λ CV²(v) of v [E]; writes dv [E] if not null.
///
///   dCV²/dv_i = 2 (v_i - m) / ((E - 1) c) - 2 m var / (E c²),   c = m² + 1e-10
inline double squared_variation(const double* v, Index n, double lambda, bool population,
                                double* dv) {
  for (Index i = 0; dv != nullptr && i < n; ++i) dv[i] = 0;
  if (n < 2 || lambda == 0) return 0;
  const double of = static_cast<double>(population ? n : n - 1), all = static_cast<double>(n);
  double m = 0, var = 0;
  for (Index i = 0; i < n; ++i) m += v[i] / all;
  for (Index i = 0; i < n; ++i) var += (v[i] - m) * (v[i] - m) / of;
  const double c = m * m + 1e-10;
  for (Index i = 0; dv != nullptr && i < n; ++i) {
    dv[i] = lambda * (2 * (v[i] - m) / (of * c) - 2 * m * var / (all * c * c));
  }
  return lambda * var / c;
}

// ── Balance without a loss ───────────────────────────────────────────────────────────────────────

struct BalanceRate {
  double step = 1e-3;  ///< γ; 0: the bias stands still
};

/// b [E], added to scores when experts are chosen, never when they are weighed. It has no slope and
/// optimizers leave it alone; in a gradient it gathers E (mean load - load_e) over all batches of a
/// step, and `settle`, which a Trainer calls after each step, moves it by γ towards the experts
/// with less than the mean load.
template <class Real, Index E, BalanceRate R = BalanceRate{}>
class BalanceBias : public Statistic<Real, E> {
 public:
  void settle(const BalanceBias& gathered) { move(gathered, R.step); }
  void move(const BalanceBias& gathered, double rate) {
    for (Index e = 0; e < E; ++e) {
      const Real lack = gathered[e];
      (*this)[e] += static_cast<Real>(rate) * static_cast<Real>((lack > 0) - (lack < 0));
    }
  }
};

template <class Real, Index E, BalanceRate R>
inline constexpr bool is_tensor<BalanceBias<Real, E, R>> = true;
template <class Real, Index E, BalanceRate R>
inline constexpr bool is_statistic<BalanceBias<Real, E, R>> = true;

template <class T>
inline constexpr bool is_balance_bias = false;
template <class Real, Index E, BalanceRate R>
inline constexpr bool is_balance_bias<BalanceBias<Real, E, R>> = true;

/// Moves every BalanceBias of the model by `rate`, whatever its own γ is, and clears what the
/// gradient gathered, so that `settle` finds nothing. For training loops with a γ that changes.
template <Parametrized L>
void balance(L& model, L& gradient, double rate) {
  for_each_tensor(
      [rate](auto& b, auto& gathered) {
        using T = std::remove_cvref_t<decltype(b)>;
        if constexpr (is_balance_bias<T>) {
          b.move(gathered, rate);
          for (auto& g : gathered.flat()) g = 0;
        }
      },
      model, gradient);
}

}  // namespace limen::inline LIMEN_ABI
