#pragma once
/// @file  Each row chooses the K experts with the largest scores.
///
///   z = x Wᵀ (+ b)            logits                   x [T x D], W [E x D], z [T x E]
///   s = softmax(z) or σ(z)    scores
///   S = top_K(s + c)          c: balance bias, for the choice only; or among the best groups only
///   w_j = ρ s_j               or, normalised, ρ s_j / Σ_S s
///
///   Switch       softmax, .normalise = false, .top_k = 1
///   Mixtral      softmax                             Qwen: .normalise = norm_topk_prob
///   DeepSeek-V2  softmax, .normalise = false, .n_groups, .top_groups, .scale
///   DeepSeek-V3  .score = RouterScore::sigmoid, .balance_bias = true, .n_groups, .top_groups,
///   .scale
///
/// Equal scores: the lower expert. A group is a run of E / n_groups neighbours, and as good as the
/// sum of its two best with a balance bias, as its best without.
///
/// Fedus, Zoph & Shazeer, arXiv:2101.03961, equations 1 and 2. Jiang et al., "Mixtral of experts",
/// arXiv:2401.04088, section 2.1. DeepSeek-AI, arXiv:2412.19437, equations 12 to 16.

#include <limen/core/initialize.hpp>
#include <limen/kernel/reduce.hpp>
#include <limen/kernel/top_k.hpp>
#include <limen/moe/losses.hpp>
#include <limen/moe/router.hpp>
#include <limen/moe/tell.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

enum class RouterScore { softmax, sigmoid };

struct TopKRouterConfig {
  Index d_model = 0;                         ///< D
  Index n_experts = 0;                       ///< E
  Index top_k = 2;                           ///< K
  RouterScore score = RouterScore::softmax;  ///< s
  bool normalise = true;                     ///< weights of a row sum to .scale
  double scale = 1;                          ///< ρ
  bool bias = false;                         ///< add b, which is learned
  bool balance_bias = false;                 ///< add c for the choice; see moe/losses.hpp
  double balance_rate = 1e-3;                ///< γ: what c moves by after each step
  Index n_groups = 1;                        ///< experts are chosen from
  Index top_groups = 1;                      ///< so many of so many groups
  RouterLosses losses = {};                  ///< added while training
  BadScores bad_scores = BadScores::report;  ///< a row that can not be routed
};

template <TopKRouterConfig C, class S = float>
struct TopKRouter {
  static_assert(C.d_model > 0, "TopKRouter: .d_model must be positive");
  static_assert(C.n_experts > 0, "TopKRouter: .n_experts must be positive");
  static_assert(C.top_k > 0, "TopKRouter: .top_k must be positive, each row needs an expert");
  static_assert(C.top_k <= C.n_experts, "TopKRouter: .top_k must not exceed .n_experts");
  static_assert(C.n_groups > 0 && C.n_experts % C.n_groups == 0,
                "TopKRouter: .n_groups must divide .n_experts");
  static_assert(C.top_groups > 0 && C.top_groups <= C.n_groups,
                "TopKRouter: .top_groups must be between 1 and .n_groups");
  static_assert(C.top_k <= C.top_groups * (C.n_experts / C.n_groups),
                "TopKRouter: the groups that are kept hold fewer than .top_k experts");
  static_assert(C.n_groups == 1 || !C.balance_bias || C.n_experts / C.n_groups >= 2,
                "TopKRouter: with a balance bias a group needs two experts");
  static_assert(!C.normalise || C.top_k > 1 || C.n_experts == 1,
                "TopKRouter: with .top_k = 1 a normalised weight is always 1, and the router would "
                "learn nothing; set .normalise = false");

  static_assert(C.scale > 0, "TopKRouter: .scale must be positive");
  static_assert(C.balance_rate >= 0, "TopKRouter: .balance_rate must not be negative");

  static constexpr TopKRouterConfig config = C;
  static_assert(detail::costs_fit(config.losses.cost, C.n_experts),
                "TopKRouter: .losses.cost needs one number for each expert, none negative");
  static constexpr Index D = C.d_model, E = C.n_experts, K = C.top_k, in = D;
  static constexpr Index experts = E, slots = K;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = TopKRouter<C, T>;

  using Balance = BalanceBias<Real, E, BalanceRate{config.balance_rate}>;

  Weight<S, E, D> weight;                              ///< W
  Optional<C.bias, Tensor<Real, E>> bias;              ///< b
  Optional<C.balance_bias, Balance> score_correction;  ///< c

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
    f("e_score_correction_bias", l.score_correction...);
  }

  static TopKRouter initialized(Random& random) {
    TopKRouter router;
    fill_normal(router.weight, 0.02, random);
    return router;
  }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    const auto z = logits(x);
    detail::tell_scores(run.context, z);
    return choose_all(run, z, chosen);
  }

  /// x [D] -> ids [K], weights [K]; NaN weights where the scores name no K experts.
  void route_row(VectorView<Real, D> x, std::int32_t* ids, Real* weights) const noexcept {
    const auto z = logits(x);
    if (!choose(z.data(), ids, weights)) {
      for (Index j = 0; j < K; ++j) weights[j] = std::numeric_limits<Real>::quiet_NaN();
    }
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, E> z;
    double loss = 0;            ///< of .losses
    Sequence<Real, E> dz;       ///< its slope; no rows without losses of z
    Sequence<Real, K> dweight;  ///< likewise, of the importance
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const {
    cache.z = logits(x);
    detail::tell_scores(run.context, cache.z);
    if (!choose_all(run, cache.z, chosen)) return false;
    add_losses(run, chosen, cache);
    return true;
  }

  /// The same where somebody else chooses: choose(z, ids) fills ids [T x K], or says no.
  template <class Choose>
  bool route_by(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache,
                Choose choose) const {
    cache.z = logits(x);
    detail::tell_scores(run.context, cache.z);
    chosen.resize(x.rows());
    if (!choose(cache.z, chosen.expert.data())) return false;
    for (Index t = 0; t < x.rows(); ++t) {
      weigh(cache.z.row(t).data(), chosen.expert.data() + t * K, chosen.weight.row_data(t));
    }
    add_losses(run, chosen, cache);
    return true;
  }

  /// softmax, normalised     dz_S = q (dq - Σ_S q dq),  q = w / ρ,  dq = ρ dw
  /// softmax                 dz   = p (dp - Σ p dp),    dp_S = ρ dw
  /// sigmoid, normalised     ds   = (ρ dw - Σ_S w dw) / Σ_S s,   dz_S = ds s (1 - s)
  void backward(SequenceView<Real, D> x, const RoutingRun&, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, TopKRouter& gradient,
                Sequence<Real, D>& dx) const {
    const Index rows = x.rows();
    auto dz = cache.dz.rows() == rows ? cache.dz : Sequence<Real, E>::zeros(rows);
    for (Index t = 0; t < rows; ++t) {
      const std::int32_t* const ids = chosen.expert.data() + t * K;
      Real dw[K];
      for (Index j = 0; j < K; ++j) {
        dw[j] = dweight(t, j);
        if (cache.dweight.rows() == rows) dw[j] += cache.dweight(t, j);
      }
      add_score_gradient(cache.z.row(t).data(), ids, chosen.weight.row(t).data(), dw,
                         dz.row_data(t));
    }
    add_linear_weight_gradient(dz, x, gradient.weight);
    if constexpr (C.bias) add_bias_gradient<Real, E>(dz, gradient.bias);
    if constexpr (C.balance_bias) add_load(chosen, rows, gradient.score_correction);
    add_linear_input_gradient(dz, weight, dx);
  }

 private:
  static constexpr bool normalise = C.normalise;
  static constexpr Real rho = static_cast<Real>(config.scale), tiny = Real(1e-20);

  template <class X>
  auto logits(const X& x) const {
    if constexpr (C.bias) {
      return linear(x, weight, bias.data());
    } else {
      return linear(x, weight);
    }
  }

  bool choose_all(const RoutingRun& run, const Sequence<Real, E>& z, Chosen& chosen) const {
    chosen.resize(z.rows());
    for (Index t = 0; t < z.rows(); ++t) {
      Real* const w = chosen.weight.row_data(t);
      if (choose(z.row(t).data(), chosen.expert.data() + t * K, w)) continue;
      if constexpr (C.bad_scores == BadScores::report) return detail::bad_scores(run, t, K);
      for (Index j = 0; j < K; ++j) w[j] = std::numeric_limits<Real>::quiet_NaN();
    }
    return true;
  }

  /// One row. Without a bias the order of z is that of s, and finer.
  bool choose(const Real* z, std::int32_t* ids, Real* w) const noexcept {
    Real best[K];
    bool sound;
    if constexpr (C.balance_bias || C.n_groups > 1) {
      // Not read from C at run time: clang may look for them in the wrong place.
      constexpr Index groups = C.n_groups, kept = C.top_groups, best_of = C.balance_bias ? 2 : 1;
      Real c[E], sums[groups], best_groups[kept];
      std::int32_t id_groups[kept];
      scores_for_choice(z, c);
      bool numbers = true;
      for (Index e = 0; e < E; ++e) numbers = numbers && !std::isnan(z[e]);
      if constexpr (groups > 1) {
        keep_top_groups(c, E, groups, kept, best_of, id_groups, best_groups, sums);
      }
      sound = top_k(c, E, K, ids, best) && numbers;
    } else {
      sound = top_k(z, E, K, ids, best);
    }
    weigh(z, ids, w);
    Real sum = 0;
    for (Index j = 0; j < K; ++j) sum += w[j];
    return sound && std::isfinite(sum);
  }

  void scores_for_choice(const Real* z, Real* c) const noexcept {
    if constexpr (C.balance_bias) {
      if constexpr (C.score == RouterScore::softmax) {
        softmax_row(z, c, E);
      } else {
        activate(Activation::sigmoid, z, c, E);
      }
      for (Index e = 0; e < E; ++e) c[e] += score_correction[e];
    } else {
      for (Index e = 0; e < E; ++e) c[e] = z[e];
    }
  }

  static void weigh(const Real* z, const std::int32_t* ids, Real* w) noexcept {
    for (Index j = 0; j < K; ++j) w[j] = z[ids[j]];
    if constexpr (C.score == RouterScore::softmax && normalise) {
      softmax_row(w, w, K);  // over all, then divided by the sum of the chosen, is the same
    } else if constexpr (C.score == RouterScore::softmax) {
      Real p[E];
      softmax_row(z, p, E);
      for (Index j = 0; j < K; ++j) w[j] = p[ids[j]];
    } else {
      activate(Activation::sigmoid, w, w, K);
      if constexpr (normalise) {
        Real sum = tiny;
        for (Index j = 0; j < K; ++j) sum += w[j];
        for (Index j = 0; j < K; ++j) w[j] /= sum;
      }
    }
    for (Index j = 0; j < K; ++j) w[j] *= rho;
  }

  static void add_score_gradient(const Real* z, const std::int32_t* ids, const Real* w,
                                 const Real* dw, Real* dz) noexcept {
    Real mean = 0;  // Σ_S w dw
    for (Index j = 0; j < K; ++j) mean += w[j] * dw[j];
    if constexpr (C.score == RouterScore::softmax && normalise) {
      for (Index j = 0; j < K; ++j) dz[ids[j]] += w[j] * (dw[j] - mean / rho);
    } else if constexpr (C.score == RouterScore::softmax) {
      Real p[E];
      softmax_row(z, p, E);
      for (Index e = 0; e < E; ++e) dz[e] -= p[e] * mean;
      for (Index j = 0; j < K; ++j) dz[ids[j]] += w[j] * dw[j];
    } else {
      Real s[K], sum = normalise ? tiny : Real(1);
      for (Index j = 0; j < K; ++j) s[j] = z[ids[j]];
      activate(Activation::sigmoid, s, s, K);
      for (Index j = 0; normalise && j < K; ++j) sum += s[j];
      for (Index j = 0; j < K; ++j) {
        const Real ds = (rho * dw[j] - (normalise ? mean : Real(0))) / sum;
        dz[ids[j]] += ds * s[j] * (Real(1) - s[j]);
      }
    }
  }

  static void add_losses(const RoutingRun& run, const Chosen& chosen, Cache& cache) {
    constexpr RouterLosses losses = config.losses;
    constexpr bool by_cost = losses.cost != ExpertCosts{};
    const Sequence<Real, E>& z = cache.z;
    const Index rows = z.rows();
    cache.loss = 0;
    cache.dz = {};
    cache.dweight = {};
    if constexpr (losses.load_balance != 0 || losses.z != 0 || losses.sequence != 0) {
      cache.dz = Sequence<Real, E>::zeros(rows);
      const auto dz = cache.dz.matrix();
      cache.loss +=
          load_balance_loss(z.matrix(), chosen.expert.data(), K, losses.load_balance,
                            losses.divide_by_k, dz, by_cost ? losses.cost.data() : nullptr);
      cache.loss += router_z_loss(z.matrix(), losses.z, dz);
      Index full = 0;  // sequences with rows
      for (Index b = 0; b < run.sequences; ++b) full += run.end(b, rows) > run.begin(b);
      for (Index b = 0; b < run.sequences; ++b) {
        const Index first = run.begin(b), count = run.end(b, rows) - first;
        if (count == 0) continue;
        cache.loss += sequence_balance_loss(
            z.matrix().middle_rows(first, count), chosen.expert.data() + first * K, K,
            losses.sequence / static_cast<double>(full), dz.middle_rows(first, count));
      }
    }
    if constexpr (losses.importance != 0) {
      double v[E] = {}, dv[E];
      const Index n = rows * K;
      for (Index i = 0; i < n; ++i) {
        v[chosen.expert[i]] += static_cast<double>(chosen.weight.data()[i]);
      }
      cache.loss += squared_variation(v, E, losses.importance, losses.population_variance, dv);
      cache.dweight = Sequence<Real, K>(rows);
      for (Index i = 0; i < n; ++i) {
        cache.dweight.data()[i] = static_cast<Real>(dv[chosen.expert[i]]);
      }
    }
  }

  /// gathered_e += K T - E load_e: whole numbers, so that equal loads give 0.
  static void add_load(const Chosen& chosen, Index rows, Balance& gathered) {
    for (Index e = 0; e < E; ++e) gathered[e] += static_cast<Real>(rows * K);
    for (Index i = 0; i < rows * K; ++i) gathered[chosen.expert[i]] -= static_cast<Real>(E);
  }
};

}  // namespace limen::inline LIMEN_ABI
