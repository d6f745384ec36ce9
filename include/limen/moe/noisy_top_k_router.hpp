#pragma once
/// @file  The K largest of noisy scores, with losses that keep experts equally important and busy.
///
///   z = x Wᵀ,  s = softplus(x Nᵀ) + ε,  h = z + n ⊙ s     n normal; W, N [E x D]
///   w = softmax of the K largest h                        .d_hidden:  z = W tanh(A x), A [H x D]
///   V-MoE:  s = 1 / E for all, and w = softmax of all h   .fixed_noise, .normalise = false
///   importance_e = Σ_t w_te      load_e = Σ_t Φ((z_te - τ_te) / s_te)      Φ normal distribution
///   loss = λ_i CV²(importance) + λ_l CV²(load)            see moe/losses.hpp
///
/// τ_te is what expert e has to beat: the (K + 1)-th largest h_t if e is chosen, else the K-th.
/// Noise and losses are for training with a generator in the run's Context; without one h = z.
///
/// Shazeer et al., "Outrageously large neural networks: the sparsely-gated mixture-of-experts
/// layer", arXiv:1701.06538, equations 3 to 11. Riquelme et al., "Scaling vision with sparse
/// mixture of experts" (V-MoE), arXiv:2106.05974, section 2.3.

#include <algorithm>
#include <cmath>
#include <numbers>

#include <limen/core/initialize.hpp>
#include <limen/core/random.hpp>
#include <limen/kernel/activation.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/kernel/top_k.hpp>
#include <limen/moe/losses.hpp>
#include <limen/moe/router.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct NoisyTopKRouterConfig {
  Index d_model = 0;                         ///< D
  Index n_experts = 0;                       ///< E
  Index top_k = 2;                           ///< K
  Index d_hidden = 0;                        ///< H; 0: scores are linear. T2MIR: E
  double least_noise = 1e-2;                 ///< ε
  double fixed_noise = 0;                    ///< s of all, in place of a learned one
  double importance = 0;                     ///< λ_i
  double load = 0;                           ///< λ_l
  bool population_variance = false;          ///< divide by E, not E - 1
  bool normalise = true;                     ///< weights of a row sum to 1
  BadScores bad_scores = BadScores::report;  ///< a row that can not be routed
};

template <NoisyTopKRouterConfig C, class S = float>
struct NoisyTopKRouter {
  static_assert(C.d_model > 0, "NoisyTopKRouter: .d_model must be positive");
  static_assert(C.n_experts > 0, "NoisyTopKRouter: .n_experts must be positive");
  static_assert(C.top_k > 0 && C.top_k <= C.n_experts,
                "NoisyTopKRouter: .top_k must be between 1 and .n_experts");
  static_assert(C.least_noise > 0, "NoisyTopKRouter: .least_noise must be positive");

  static_assert(C.fixed_noise >= 0, "NoisyTopKRouter: .fixed_noise must not be negative");

  static constexpr NoisyTopKRouterConfig config = C;
  static constexpr Index D = C.d_model, E = C.n_experts, K = C.top_k, in = D;
  static constexpr Index experts = E, slots = K;
  static constexpr bool causal = true, uses_every_slot = true;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = NoisyTopKRouter<C, T>;

  static constexpr bool deep = C.d_hidden > 0, learns_noise = config.fixed_noise == 0;
  static constexpr Index H = deep ? C.d_hidden : D;  ///< columns of W

  Optional<deep, Weight<S, H, D>> hidden;         ///< A
  Weight<S, E, H> weight;                         ///< W
  Optional<learns_noise, Weight<S, E, D>> noise;  ///< N

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("hidden", l.hidden...);
    f("weight", l.weight...);
    f("noise", l.noise...);
  }

  /// W and N zero, as the paper starts: every expert is as likely. With A, W is as usual.
  static NoisyTopKRouter initialized(Random& random) {
    NoisyTopKRouter router;
    if constexpr (deep) {
      fill_fan_in(router.hidden, random);
      fill_fan_in(router.weight, random);
    }
    return router;
  }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    return choose_all(run, linear(inner(x), weight), chosen, nullptr);
  }

  void route_row(VectorView<Real, D> x, std::int32_t* ids, Real* weights) const noexcept {
    const auto z = linear(inner(x), weight);
    std::int32_t order[beaten];
    if (!choose(z.data(), order, weights)) {
      for (Index j = 0; j < K; ++j) weights[j] = std::numeric_limits<Real>::quiet_NaN();
    }
    for (Index j = 0; j < K; ++j) ids[j] = order[j];
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  /// So many of the best are looked at: the chosen, and the first that was not.
  static constexpr Index beaten = K < E ? K + 1 : K;

  struct Cache {
    Sequence<Real, H> h;         ///< tanh(A x); no rows without A
    Sequence<Real, E> n, slope;  ///< noise; of softplus at x Nᵀ
    Sequence<Real, E> noisy;     ///< h, where all of it counts
    Sequence<Real, E> dz, ds;    ///< slopes of the load loss
    Sequence<Real, K> dweight;   ///< of the importance loss
    double loss = 0;
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const {
    const Index rows = x.rows();
    if constexpr (deep) cache.h = inner(x);
    const auto z = [&] {
      if constexpr (deep) {
        return linear(cache.h, weight);
      } else {
        return linear(x, weight);
      }
    }();
    const auto s = noise_of(x, cache.slope);
    cache.n = Sequence<Real, E>::zeros(rows);
    if (run.context != nullptr && run.context->random != nullptr) {
      for (Index i = 0; i < s.size(); ++i) {
        cache.n.data()[i] = static_cast<Real>(run.context->random->normal());
      }
    }
    auto h = z;
    for (Index i = 0; i < h.size(); ++i) h.data()[i] += cache.n.data()[i] * s.data()[i];
    Buffer<std::int32_t> order(rows * beaten);
    if (!choose_all(run, h, chosen, order.data())) return false;
    if constexpr (!C.normalise) cache.noisy = h;
    cache.loss = importance_loss(chosen, cache.dweight);
    cache.loss += load_loss(z, s, h, order.data(), cache);
    return true;
  }

  /// normalised  dh_S = w (dw - Σ_S w dw)        else  dh = p (dp - Σ p dp),  dp_S = dw
  /// dz = dh,  ds = dh n,  d(x Nᵀ) = ds softplus'
  void backward(SequenceView<Real, D> x, const RoutingRun&, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, NoisyTopKRouter& gradient,
                Sequence<Real, D>& dx) const {
    auto dz = cache.dz, ds = cache.ds;
    for (Index t = 0; t < x.rows(); ++t) {
      const std::int32_t* const ids = chosen.expert.data() + t * K;
      Real dw[K], mean = 0;
      for (Index j = 0; j < K; ++j) {
        dw[j] = dweight(t, j) + cache.dweight(t, j);
        mean += chosen.weight(t, j) * dw[j];
      }
      Real dh[E] = {};
      if constexpr (!C.normalise) {
        softmax_row(cache.noisy.row(t).data(), dh, E);
        for (Real& p : dh) p *= -mean;
        for (Index j = 0; j < K; ++j) dh[ids[j]] += chosen.weight(t, j) * dw[j];
      } else {
        for (Index j = 0; j < K; ++j) dh[ids[j]] += chosen.weight(t, j) * (dw[j] - mean);
      }
      for (Index e = 0; e < E; ++e) {
        dz(t, e) += dh[e];
        ds(t, e) += dh[e] * cache.n(t, e);
      }
    }
    if constexpr (deep) {  // dh = (1 - h²) Wᵀ dz
      add_linear_weight_gradient(dz, cache.h, gradient.weight);
      auto dh = linear_input_gradient(dz, weight);
      for (Index i = 0; i < dh.size(); ++i) {
        dh.data()[i] *= Real(1) - cache.h.data()[i] * cache.h.data()[i];
      }
      add_linear_weight_gradient(dh, x, gradient.hidden);
      add_linear_input_gradient(dh, hidden, dx);
    } else {
      add_linear_weight_gradient(dz, x, gradient.weight);
      add_linear_input_gradient(dz, weight, dx);
    }
    if constexpr (learns_noise) {
      for (Index i = 0; i < ds.size(); ++i) ds.data()[i] *= cache.slope.data()[i];
      add_linear_weight_gradient(ds, x, gradient.noise);
      add_linear_input_gradient(ds, noise, dx);
    }
  }

 private:
  /// s [T x E], and the slope of softplus where it is learned.
  Sequence<Real, E> noise_of(SequenceView<Real, D> x, Sequence<Real, E>& slope) const {
    if constexpr (learns_noise) {
      auto s = linear(x, noise);
      slope = s;
      activate(Activation::sigmoid, s.data(), slope.data(), s.size());
      activate(Activation::softplus, s.data(), s.data(), s.size());
      for (Index i = 0; i < s.size(); ++i) s.data()[i] += static_cast<Real>(config.least_noise);
      return s;
    } else {
      Sequence<Real, E> s(x.rows());
      std::fill_n(s.data(), s.size(), static_cast<Real>(config.fixed_noise));
      return s;
    }
  }

  /// What W sees.
  template <class X>
  auto inner(const X& x) const {
    if constexpr (deep) {
      return linear(x, hidden, static_cast<const Real*>(nullptr), Activation::tanh);
    } else {
      return x;
    }
  }

  /// order [beaten], of which the first K are chosen.
  static bool choose(const Real* h, std::int32_t* order, Real* w) noexcept {
    Real best[beaten];
    const bool sound = top_k(h, E, beaten, order, best);
    if constexpr (C.normalise) {
      softmax_row(best, w, K);
    } else {
      Real p[E];
      softmax_row(h, p, E);
      for (Index j = 0; j < K; ++j) w[j] = p[order[j]];
    }
    Real sum = 0;
    for (Index j = 0; j < K; ++j) sum += w[j];
    return sound && std::isfinite(sum);
  }

  static bool choose_all(const RoutingRun& run, const Sequence<Real, E>& h, Chosen& chosen,
                         std::int32_t* orders) {
    chosen.resize(h.rows());
    for (Index t = 0; t < h.rows(); ++t) {
      std::int32_t mine[beaten];
      std::int32_t* const order = orders == nullptr ? mine : orders + t * beaten;
      Real* const w = chosen.weight.row_data(t);
      if (!choose(h.row(t).data(), order, w)) {
        if constexpr (C.bad_scores == BadScores::report) return detail::bad_scores(run, t, K);
        for (Index j = 0; j < K; ++j) w[j] = std::numeric_limits<Real>::quiet_NaN();
      }
      for (Index j = 0; j < K; ++j) chosen.expert[t * K + j] = order[j];
    }
    return true;
  }

  static double importance_loss(const Chosen& chosen, Sequence<Real, K>& dweight) {
    const Index count = chosen.weight.size();
    double v[E] = {}, dv[E];
    for (Index i = 0; i < count; ++i) {
      v[chosen.expert[i]] += static_cast<double>(chosen.weight.data()[i]);
    }
    const double loss = squared_variation(v, E, config.importance, C.population_variance, dv);
    dweight = Sequence<Real, K>(chosen.weight.rows());
    for (Index i = 0; i < count; ++i) {
      dweight.data()[i] = static_cast<Real>(dv[chosen.expert[i]]);
    }
    return loss;
  }

  /// With u = (z - τ) / s and q_te = dload_e φ(u) / s:  dz += q,  ds -= q u,  dh_τ -= q.
  static double load_loss(const Sequence<Real, E>& z, const Sequence<Real, E>& s,
                          const Sequence<Real, E>& h, const std::int32_t* orders, Cache& cache) {
    const Index rows = z.rows();
    cache.dz = Sequence<Real, E>::zeros(rows);
    cache.ds = Sequence<Real, E>::zeros(rows);
    if constexpr (config.load == 0 || K == E) return 0;  // K = E: all have the same load
    const auto rival = [&](Index t, Index e) {
      const std::int32_t* const order = orders + t * beaten;
      for (Index j = 0; j < K; ++j) {
        if (order[j] == e) return Index{order[beaten - 1]};
      }
      return Index{order[K - 1]};
    };
    const auto margin = [&](Index t, Index e) {
      return static_cast<double>((z(t, e) - h(t, rival(t, e))) / s(t, e));
    };
    double load[E] = {}, dload[E];
    for (Index t = 0; t < rows; ++t) {
      for (Index e = 0; e < E; ++e) {
        load[e] += 0.5 * std::erfc(-margin(t, e) / std::numbers::sqrt2);
      }
    }
    const double loss = squared_variation(load, E, config.load, C.population_variance, dload);
    for (Index t = 0; t < rows; ++t) {
      for (Index e = 0; e < E; ++e) {
        const double u = margin(t, e);
        const double density = std::exp(-0.5 * u * u) / std::sqrt(2 * std::numbers::pi);
        const Real q = static_cast<Real>(dload[e] * density) / s(t, e);
        const Index r = rival(t, e);
        cache.dz(t, e) += q;
        cache.ds(t, e) -= q * static_cast<Real>(u);
        cache.dz(t, r) -= q;
        cache.ds(t, r) -= q * cache.n(t, r);
      }
    }
    return loss;
  }
};

}  // namespace limen::inline LIMEN_ABI
