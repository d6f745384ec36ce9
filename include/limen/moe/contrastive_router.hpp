#pragma once
/// @file  A router that tells tasks apart: sequences of one task are to be routed alike, those of
/// others not.
///
///   z_t = W tanh(A x_t)                       A [H x D], W [E x H]
///   w = softmax of the K largest z
///   r = mean_t softmax(z_t)                   how a sequence is routed; r' the same by A', W'
///   loss = λ/2 (CE(r_1 M r'_2ᵀ) + CE(r_2 M r'_1ᵀ))          M [E x E]
///   A' += τ (A - A'),  W' += τ (W - W')       after each step, by `settle`
///
/// The loss, while training with .contrast > 0, is of a batch of 2n sequences that holds n tasks
/// twice, in the same order: r_1 [n x E] are those of the first half, r_2 of the second. Row i of a
/// half is to find row i of the other among all n: CE is the mean cross entropy, over rows, whose
/// labels are 0 .. n - 1. Nothing flows back through r'. With one task there is nothing to tell
/// apart, and the loss is 0. The same task twice in one half counts as two.
///
/// Wu et al., "Mixture-of-experts meets in-context reinforcement learning" (T2MIR),
/// arXiv:2506.05426.

#include <cmath>

#include <limen/core/initialize.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/moe/router.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct FollowRate {
  double step = 5e-3;  ///< τ
};

/// Follows a parameter at a distance: in a gradient it gathers (parameter - own value) with weight
/// 1 for each batch of a step, and `settle` moves it by τ of the mean.
template <class Real, FollowRate F, Index... Dims>
class Follower : public Statistic<Real, Dims...> {
 public:
  void settle(const Follower& gathered) {
    if (!(gathered.weight > Real(0))) return;
    const Real share = static_cast<Real>(F.step) / gathered.weight;
    for (Index i = 0; i < this->size; ++i) (*this)[i] += share * gathered[i];
  }
};

template <class Real, FollowRate F, Index... Dims>
inline constexpr bool is_tensor<Follower<Real, F, Dims...>> = true;
template <class Real, FollowRate F, Index... Dims>
inline constexpr bool is_statistic<Follower<Real, F, Dims...>> = true;

struct ContrastiveRouterConfig {
  Index d_model = 0;         ///< D
  Index n_experts = 0;       ///< E
  Index top_k = 2;           ///< K
  Index d_hidden = 0;        ///< H; 0: E
  double contrast = 0;       ///< λ; 0.01 in T2MIR
  double follow = 5e-3;      ///< τ
  RouterLosses losses = {};  ///< added while training
};

template <ContrastiveRouterConfig C, class S = float>
struct ContrastiveRouter {
  static_assert(C.d_model > 0, "ContrastiveRouter: .d_model must be positive");
  static_assert(C.contrast >= 0, "ContrastiveRouter: .contrast must not be negative");
  static_assert(C.follow >= 0 && C.follow <= 1, "ContrastiveRouter: .follow must be in [0, 1]");

  static constexpr ContrastiveRouterConfig config = C;
  static constexpr Index D = C.d_model, E = C.n_experts, K = C.top_k, in = D;
  static constexpr Index H = C.d_hidden > 0 ? C.d_hidden : E;
  static constexpr Index experts = E, slots = K;
  static constexpr bool causal = true, uses_every_slot = true, contrasts = config.contrast > 0;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = ContrastiveRouter<C, T>;
  using Scores = TopKRouter<
      TopKRouterConfig{.d_model = H, .n_experts = E, .top_k = K, .losses = config.losses}, S>;
  template <Index... Dims>
  using Copy = Optional<contrasts, Follower<Real, FollowRate{config.follow}, Dims...>>;

  Weight<S, H, D> hidden;                         ///< A
  Scores scores;                                  ///< W
  Copy<H, D> target_hidden;                       ///< A'
  Copy<E, H> target;                              ///< W'
  Optional<contrasts, Tensor<Real, E, E>> match;  ///< M

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("hidden", l.hidden...);
    f("weight", l.scores.weight...);
    f("target_hidden", l.target_hidden...);
    f("target", l.target...);
    f("match", l.match...);
  }

  static ContrastiveRouter initialized(Random& random) {
    ContrastiveRouter router;
    fill_fan_in(router.hidden, random);
    fill_fan_in(router.scores.weight, random);
    if constexpr (contrasts) {
      std::copy_n(router.hidden.data(), H * D, router.target_hidden.data());
      std::copy_n(router.scores.weight.data(), E * H, router.target.data());
      fill_normal(router.match, 1, random);
    }
    return router;
  }

  using Chosen = Assignment<Real, K>;

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    return scores.route(inner(x), run, chosen);
  }
  void route_row(VectorView<Real, D> x, std::int32_t* ids, Real* weights) const noexcept {
    scores.route_row(inner(x), ids, weights);
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, H> h;  ///< tanh(A x)
    typename Scores::Cache scores;
    Buffer<Real> dmatch;  ///< [E x E] slope of the loss
    double loss = 0;
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache& cache) const {
    cache.h = inner(x);
    if (!scores.route(cache.h, run, chosen, cache.scores)) return false;
    cache.loss = cache.scores.loss;
    if constexpr (contrasts) return contrast(x, run, cache);
    return true;
  }

  /// dh = (1 - h²) Wᵀ dz,  dA += dhᵀ x,  dx += dh A
  void backward(SequenceView<Real, D> x, const RoutingRun& run, const Chosen& chosen,
                const Cache& cache, const Sequence<Real, K>& dweight, ContrastiveRouter& gradient,
                Sequence<Real, D>& dx) const {
    auto dh = Sequence<Real, H>::zeros(x.rows());
    scores.backward(cache.h, run, chosen, cache.scores, dweight, gradient.scores, dh);
    for (Index i = 0; i < dh.size(); ++i) {
      dh.data()[i] *= Real(1) - cache.h.data()[i] * cache.h.data()[i];
    }
    add_linear_weight_gradient(dh, x, gradient.hidden);
    add_linear_input_gradient(dh, hidden, dx);
    if constexpr (contrasts) {
      for (Index i = 0; i < E * E; ++i) gradient.match[i] += cache.dmatch[i];
      follow(hidden, target_hidden, gradient.target_hidden);
      follow(scores.weight, target, gradient.target);
    }
  }

 private:
  static constexpr const Real* no_bias = nullptr;

  template <class X>
  auto inner(const X& x) const {
    return linear(x, hidden, no_bias, Activation::tanh);
  }

  template <class P, class Q>
  static void follow(const P& leader, const Q& copy, Q& gathered) {
    for (Index i = 0; i < Q::size; ++i) gathered[i] += leader[i] - copy[i];
    gathered.weight += 1;
  }

  /// mean_t softmax(z_t) of every sequence: [B x E].
  static Sequence<Real, E> means(const Sequence<Real, E>& z, const RoutingRun& run) {
    auto r = Sequence<Real, E>::zeros(run.sequences);
    Real p[E];
    for (Index b = 0; b < run.sequences; ++b) {
      const Index first = run.begin(b), end = run.end(b, z.rows());
      for (Index t = first; t < end; ++t) {
        softmax_row(z.row(t).data(), p, E);
        for (Index e = 0; e < E; ++e) r(b, e) += p[e] / static_cast<Real>(end - first);
      }
    }
    return r;
  }

  /// With Δ = λ (softmax - I) / (2n) of a half:  dr = Δ r' Mᵀ,  dM = rᵀ Δ r',
  /// dz_t = p_t (dr - ⟨p_t, dr⟩) / rows.
  bool contrast(SequenceView<Real, D> x, const RoutingRun& run, Cache& cache) const {
    const Index n = run.sequences / 2, rows = x.rows();
    if (run.sequences % 2 != 0) {
      fail({"ContrastiveRouter: sequences of a batch", "the same tasks twice, so an even number",
            std::to_string(run.sequences)});
      return false;
    }
    if (cache.dmatch.size() != E * E) cache.dmatch = Buffer<Real>(E * E);
    for (Real& d : cache.dmatch) d = 0;
    if (cache.scores.dz.rows() != rows) cache.scores.dz = Sequence<Real, E>::zeros(rows);
    if (n == 0) return true;
    const auto r = means(cache.scores.z, run);
    const Tensor<Real, H, D>& a = target_hidden;
    const Tensor<Real, E, H>& w = target;
    const auto other = means(linear(linear(x, a, no_bias, Activation::tanh), w), run);
    auto dr = Sequence<Real, E>::zeros(2 * n);
    cache.loss +=
        half(n, r, 0, other, n, dr, cache.dmatch) + half(n, r, n, other, 0, dr, cache.dmatch);
    Real p[E];
    for (Index b = 0; b < 2 * n; ++b) {
      const Index first = run.begin(b), end = run.end(b, rows);
      for (Index t = first; t < end; ++t) {
        softmax_row(cache.scores.z.row(t).data(), p, E);
        Real mean = 0;
        for (Index e = 0; e < E; ++e) mean += p[e] * dr(b, e);
        for (Index e = 0; e < E; ++e) {
          cache.scores.dz(t, e) += p[e] * (dr(b, e) - mean) / static_cast<Real>(end - first);
        }
      }
    }
    return true;
  }

  /// λ/2 CE of rows `mine` .. `mine + n` of r against rows `theirs` .. of the other, with its
  /// slope.
  double half(Index n, const Sequence<Real, E>& r, Index mine, const Sequence<Real, E>& other,
              Index theirs, Sequence<Real, E>& dr, Buffer<Real>& dmatch) const {
    double loss = 0;
    const double scale = config.contrast / (2 * static_cast<double>(n));
    Buffer<Real> s(n);
    for (Index i = 0; i < n; ++i) {
      Real rm[E] = {};  // r_i M
      for (Index e = 0; e < E; ++e) {
        for (Index f = 0; f < E; ++f) rm[f] += r(mine + i, e) * match(e, f);
      }
      for (Index j = 0; j < n; ++j) {
        s[j] = 0;
        for (Index f = 0; f < E; ++f) s[j] += rm[f] * other(theirs + j, f);
      }
      const double label = static_cast<double>(s[i]);
      loss += scale * (softmax_row(s.data(), s.data(), n) - label);
      s[i] -= 1;
      for (Index j = 0; j < n; ++j) {
        const Real d = static_cast<Real>(scale) * s[j];
        for (Index e = 0; e < E; ++e) {
          for (Index f = 0; f < E; ++f) {
            dr(mine + i, e) += d * match(e, f) * other(theirs + j, f);
            dmatch[e * E + f] += d * r(mine + i, e) * other(theirs + j, f);
          }
        }
      }
    }
    return loss;
  }
};

}  // namespace limen::inline LIMEN_ABI
