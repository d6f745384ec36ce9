#pragma once
/// @file  Environments, not rows, choose an expert; who chooses whom is clustered, not learned by
/// gradient.
///
///   e = argmax_e (W_e ξ + b_e)         x [T x D]: the last columns are the context ξ [d]
///   y_t = f_e(x_t)                     the gate's value does not scale it
///
///     Sequential<ContextTable<...>, MixtureOfExperts<MixerRouter<...>, Expert>>
///
/// Of equal scores the lower expert; with .sum_ties all whose probability is within 1e-6 of the
/// best, added. Gradients reach ξ through the experts, W and b are constants. GateFit sets them:
/// every so many steps contexts are clustered by K-means, each cluster gets the expert that serves
/// it best, and W is the least-squares map from contexts to these experts.
///
/// Nzoyem et al., "MixER: better mixture of experts routing for hierarchical meta-learning",
/// arXiv:2502.05335, algorithm 1.

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/kernel/least_squares.hpp>
#include <limen/kernel/softmax.hpp>
#include <limen/moe/router.hpp>
#include <limen/nn/weight.hpp>

namespace limen::inline LIMEN_ABI {

struct MixerRouterConfig {
  Index d_model = 0;      ///< D
  Index d_context = 0;    ///< d, the last of the columns
  Index n_experts = 0;    ///< E
  bool bias = true;       ///< with b
  bool sum_ties = false;  ///< add all experts that are about equally good
};

template <MixerRouterConfig C, class S = float>
struct MixerRouter {
  static_assert(C.d_context > 0 && C.d_context <= C.d_model,
                "MixerRouter: .d_context must be between 1 and .d_model");
  static_assert(C.n_experts > 0, "MixerRouter: .n_experts must be positive");

  static constexpr MixerRouterConfig config = C;
  static constexpr Index D = C.d_model, d = C.d_context, E = C.n_experts, in = D;
  static constexpr Index experts = E, slots = C.sum_ties ? E : 1, K = slots;
  static constexpr bool causal = true, uses_every_slot = !C.sum_ties;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = MixerRouter<C, T>;

  Statistic<Real, E, d> weight;               ///< W
  Optional<C.bias, Statistic<Real, E>> bias;  ///< b

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
  }

  static MixerRouter initialized(Random& random) {
    MixerRouter router;
    const double limit = 1 / std::sqrt(static_cast<double>(d + C.bias));
    for (Real& w : router.weight.flat()) w = static_cast<Real>(random.uniform(-limit, limit));
    if constexpr (C.bias) {
      for (Real& b : router.bias.flat()) b = static_cast<Real>(random.uniform(-limit, limit));
    }
    return router;
  }

  using Chosen = Assignment<Real, K>;
  struct Cache {
    double loss = 0;
  };

  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen) const {
    chosen.resize(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      std::int32_t* const ids = chosen.expert.data() + t * K;
      if (!choose(x.row(t).data(), ids, chosen.weight.row_data(t)))
        return detail::bad_scores(run, t, 1);
    }
    return true;
  }
  bool route(SequenceView<Real, D> x, const RoutingRun& run, Chosen& chosen, Cache&) const {
    return route(x, run, chosen);
  }
  void route_row(VectorView<Real, D> x, std::int32_t* ids, Real* weights) const noexcept {
    if (choose(x.data(), ids, weights)) return;
    ids[0] = 0;
    weights[0] = std::numeric_limits<Real>::quiet_NaN();
  }

  void backward(SequenceView<Real, D>, const RoutingRun&, const Chosen&, const Cache&,
                const Sequence<Real, K>&, MixerRouter&, Sequence<Real, D>&) const {}

 private:
  bool choose(const Real* x, std::int32_t* ids, Real* weights) const noexcept {
    const Real* const context = x + D - d;
    Real z[E];
    Index best = 0;
    bool numbers = true;
    for (Index e = 0; e < E; ++e) {
      if constexpr (C.bias) {
        z[e] = bias[e];
      } else {
        z[e] = 0;
      }
      for (Index i = 0; i < d; ++i) z[e] += weight(e, i) * context[i];
      numbers = numbers && std::isfinite(z[e]);
      best = z[e] > z[best] ? e : best;
    }
    for (Index j = 0; j < K; ++j) {
      ids[j] = -1;
      weights[j] = 0;
    }
    if (!numbers) return false;
    if constexpr (C.sum_ties) {
      Real p[E];
      softmax_row(z, p, E);
      Index j = 0;
      for (Index e = 0; e < E; ++e) {
        if (!(p[e] > p[best] - Real(1e-6))) continue;
        ids[j] = static_cast<std::int32_t>(e);
        weights[j++] = 1;
      }
    } else {
      ids[0] = static_cast<std::int32_t>(best);
      weights[0] = 1;
    }
    return true;
  }
};

struct GateFitOptions {
  Index most_passes = 20;   ///< of K-means; an update that needs all of them is given up
  double tolerance = 1e-4;  ///< K-means ends where no centroid moves more than this + 1e-5 of it
  double noise = 1e-4;      ///< on contexts, so that the map does not hang on them
  Index starts = 1;         ///< of K-means; the others from contexts drawn at random. The tightest
                            ///< clusters are kept. The paper has one
};

/// Sets the gate from contexts and from how well each expert alone serves each environment.
/// Remembers the centroids of the last update that was accepted.
template <class R>
class GateFit {
  static constexpr Index d = R::d, E = R::E;
  using Real = typename R::Real;

 public:
  explicit GateFit(GateFitOptions options = {}) : options_(options) {}

  /// contexts [N x d], losses [N x E]. False, and the gate left as it is, if a cluster is empty or
  /// K-means takes too long: that happens, above all at the start.
  bool update(R& router, SequenceView<Real, d> contexts, SequenceView<Real, E> losses,
              Random& random) {
    if (contexts.rows() != losses.rows()) {
      fail({"GateFit: rows of losses", std::to_string(contexts.rows()) + ", one for each context",
            std::to_string(losses.rows())});
      return false;
    }
    if (!tightest(contexts, random)) {
      centroids_.clear();
      ++given_up_;
      return false;
    }
    match(losses);
    solve(router, contexts, random);
    return true;
  }

  /// To start K-means from; [E x d].
  void set_centroids(std::vector<double> centroids) { centroids_ = std::move(centroids); }
  const std::vector<double>& centroids() const { return centroids_; }
  const std::vector<Index>& clusters() const { return clusters_; }  ///< [N]
  const std::vector<Index>& experts() const { return experts_; }    ///< [E] of each cluster
  Index passes() const { return passes_; }
  Index given_up() const { return given_up_; }

 private:
  /// From where the last update ended, or near 0; and from other starts, if there are to be some.
  bool tightest(SequenceView<Real, d> contexts, Random& random) {
    if (centroids_.size() != static_cast<std::size_t>(E * d)) {
      centroids_.resize(static_cast<std::size_t>(E * d));
      for (double& c : centroids_) c = random.uniform(-1e-3, 1e-3);
    }
    bool found = cluster(contexts);
    for (Index start = 1; start < options_.starts && contexts.rows() > 0; ++start) {
      GateFit other(options_);
      for (Index j = 0; j < E; ++j) {
        const auto from = random.below(static_cast<std::uint64_t>(contexts.rows()));
        for (const Real c :
             std::span(contexts.row(static_cast<Index>(from)).data(), std::size_t{d})) {
          other.centroids_.push_back(static_cast<double>(c));
        }
      }
      if (!other.cluster(contexts)) continue;
      if (found && !(other.spread(contexts) < spread(contexts))) continue;
      centroids_ = std::move(other.centroids_);
      clusters_ = std::move(other.clusters_);
      passes_ = other.passes_;
      found = true;
    }
    return found;
  }

  /// Distances of all contexts to their centroids, added.
  double spread(SequenceView<Real, d> contexts) const {
    double sum = 0;
    for (Index i = 0; i < contexts.rows(); ++i) {
      sum += distance(contexts.row(i).data(), clusters_[static_cast<std::size_t>(i)]);
    }
    return sum;
  }

  bool cluster(SequenceView<Real, d> contexts) {
    const Index n = contexts.rows();
    clusters_.assign(static_cast<std::size_t>(n), 0);
    for (passes_ = 1; passes_ < options_.most_passes; ++passes_) {
      std::vector<double> sums(centroids_.size()), counts(static_cast<std::size_t>(E));
      for (Index i = 0; i < n; ++i) {
        const Index j = nearest(contexts.row(i).data());
        clusters_[static_cast<std::size_t>(i)] = j;
        counts[static_cast<std::size_t>(j)] += 1;
        for (Index c = 0; c < d; ++c) {
          sums[static_cast<std::size_t>(j * d + c)] += static_cast<double>(contexts(i, c));
        }
      }
      bool still = true;
      for (std::size_t k = 0; k < sums.size(); ++k) {
        const double count = counts[k / static_cast<std::size_t>(d)];
        if (count == 0) return false;
        const double mean = sums[k] / count, old = centroids_[k];
        still = still && std::abs(mean - old) <= options_.tolerance + 1e-5 * std::abs(old);
        centroids_[k] = mean;
      }
      if (still) return true;
    }
    return false;
  }

  /// By mean absolute distance.
  Index nearest(const Real* context) const {
    Index best = 0;
    double least = 0;
    for (Index j = 0; j < E; ++j) {
      const double far = distance(context, j);
      if (j > 0 && !(far < least)) continue;
      best = j;
      least = far;
    }
    return best;
  }

  double distance(const Real* context, Index j) const {
    double sum = 0;
    for (Index c = 0; c < d; ++c) {
      sum += std::abs(static_cast<double>(context[c]) -
                      centroids_[static_cast<std::size_t>(j * d + c)]);
    }
    return sum;
  }

  /// Each cluster, in order, takes the expert that is left with the least median loss.
  void match(SequenceView<Real, E> losses) {
    experts_.assign(static_cast<std::size_t>(E), 0);
    std::vector<bool> taken(static_cast<std::size_t>(E));
    for (Index j = 0; j < E; ++j) {
      Index best = -1;
      double least = 0;
      for (Index e = 0; e < E; ++e) {
        if (taken[static_cast<std::size_t>(e)]) continue;
        const double m = median(losses, j, e);
        if (best >= 0 && !(m < least)) continue;
        best = e;
        least = m;
      }
      experts_[static_cast<std::size_t>(j)] = best;
      taken[static_cast<std::size_t>(best)] = true;
    }
  }

  double median(SequenceView<Real, E> losses, Index cluster, Index e) const {
    std::vector<double> of;
    for (Index i = 0; i < losses.rows(); ++i) {
      if (clusters_[static_cast<std::size_t>(i)] == cluster) {
        of.push_back(static_cast<double>(losses(i, e)));
      }
    }
    std::sort(of.begin(), of.end());
    return (of[(of.size() - 1) / 2] + of[of.size() / 2]) / 2;
  }

  /// Least squares from [ξ, 1] to the expert of its cluster, one-hot.
  void solve(R& router, SequenceView<Real, d> contexts, Random& random) const {
    constexpr bool bias = R::config.bias;
    const Index n = contexts.rows(), columns = d + bias;
    Buffer<double> design(n * columns), wanted(n * E), map(columns * E);
    const MatrixView<double> a{design.data(), n, columns, columns}, y{wanted.data(), n, E, E},
        w{map.data(), columns, E, E};
    for (Index i = 0; i < n; ++i) {
      for (Index c = 0; c < d; ++c) {
        const double noise = options_.noise > 0 ? options_.noise * random.normal() : 0;
        a(i, c) = static_cast<double>(contexts(i, c)) + noise;
      }
      if (bias) a(i, d) = 1;
      const Index j = clusters_[static_cast<std::size_t>(i)];
      for (Index e = 0; e < E; ++e) y(i, e) = e == experts_[static_cast<std::size_t>(j)] ? 1 : 0;
    }
    least_squares(a, y, w);
    for (Index e = 0; e < E; ++e) {
      for (Index c = 0; c < d; ++c) router.weight(e, c) = static_cast<Real>(w(c, e));
      if constexpr (bias) router.bias[e] = static_cast<Real>(w(d, e));
    }
  }

  GateFitOptions options_;
  std::vector<double> centroids_;  ///< [E x d]; empty: none
  std::vector<Index> clusters_, experts_;
  Index passes_ = 0, given_up_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
