#pragma once
/// @file  PonderNet: a recurrent layer that learns when to stop, as a probability.
///
///   (y_n, a_n) = L(x, state_{n-1}),  λ_n = σ(a_n), λ_N = 1,  p_n = λ_n Π_{j<n} (1 - λ_j)
///   loss = Σ_n p_n CE(y_n, label) + β KL(p ‖ prior)     prior_n ~ λ_p (1 - λ_p)^{n-1}, n <= N
///
///   x [T x in]; L gives C + 1 numbers, the last is a. forward: all N steps side by side,
///   [T x N (C + 1)], which `ponder_loss` takes; `run`: until each row stops.
///
/// Banino, Balaguer & Blundell, arXiv:2107.05407. The prior is cut at N and sums to 1.

#include <cmath>
#include <string>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>
#include <limen/exit/ponder_steps.hpp>
#include <limen/train/loss.hpp>

namespace limen::inline LIMEN_ABI {

struct PonderConfig {
  Index most = 10;  ///< N
};

enum class Halting {
  median,  ///< the first n with p_1 + ... + p_n >= 1/2
  likely,  ///< the first n with λ_n >= 1/2
  sample   ///< a coin with λ_n at each step, from the row's own stream
};

template <PonderConfig C, class L>
struct Ponder {
  static_assert(detail::compose<L>());
  static_assert(C.most >= 1, "Ponder: .most must be at least 1");
  static_assert(L::out >= 2, "Ponder: the layer must give an answer and, last, a halting logit");
  static_assert(!std::is_empty_v<typename L::State>,
                "Ponder: the layer must have memory, or its steps are all the same");
  static_assert(Streaming<L>, "Ponder: the layer must have a step");

  static constexpr PonderConfig config = C;
  static constexpr Index N = C.most, in = L::in, classes = L::out - 1, out = N * L::out;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Ponder<C, typename L::template with_scalar<T>>;

  L inner;

  template <class F, class... P>
  static constexpr void visit(F&& f, P&... p) {
    f("inner", p.inner...);
  }
  static Ponder initialized(Random& random) { return {L::initialized(random)}; }

  /// All N steps.
  static constexpr Index macs(Index rows) { return rows * limen::macs<L>(N); }

  // ── Until each row stops ───────────────────────────────────────────────────────────────────────
  struct Answer {
    Sequence<Real, classes> y;  ///< [T x C]
    Buffer<Index> steps;        ///< [T], n
  };

  /// `random` for Halting::sample only: row t draws from random->split(t).
  Answer run(SequenceView<Real, in> x, Halting rule = Halting::median,
             const Random* random = nullptr) const {
    if (rule == Halting::sample && random == nullptr) {
      fail({"Ponder: random", "a generator, to sample", "none"});
      return {};
    }
    const FlushDenormals guard;
    Answer answer{Sequence<Real, classes>(x.rows()), Buffer<Index>(x.rows())};
    Buffer<double> going(x.rows());  // Π (1 - λ) of the rows that are still there
    for (double& g : going) g = 1;
    const bool ran = detail::ponder(
        inner, x, N, nullptr,
        [&](Index t, Index i, Index n, VectorView<Real, L::out> s) {
          const double lambda = 1 / (1 + std::exp(-static_cast<double>(s[classes])));
          going[i] *= 1 - lambda;
          const bool stop = rule == Halting::median   ? going[i] <= 0.5
                            : rule == Halting::likely ? lambda >= 0.5
                                                      : coin(*random, t, n) < lambda;
          if (!stop && n < N) return false;
          std::copy_n(s.data(), classes, answer.y.row_data(t));
          answer.steps[t] = n;
          return true;
        },
        [&](const Index* kept, Index stay) { compact_values(going.data(), kept, stay); });
    if (!ran) return {};
    return answer;
  }

  // ── All steps ──────────────────────────────────────────────────────────────────────────────────
  using State = NoState;

  /// x [T x in] -> [T x N (C + 1)]
  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto offsets = detail::equal_offsets(x.rows(), N);
    return side_by_side(
        inner.forward(detail::repeat_rows(x, N),
                      detail::from_rest_at<typename L::State>(offsets, batch.context)));
  }

  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    typename L::State state{};
    for (Index n = 0; n < N; ++n) {
      const auto s = inner.step(x, state);
      std::copy_n(s.data(), L::out, y.data() + n * L::out);
    }
    return y;
  }

  using Cache = detail::cache_of<L>;

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires Trainable<L>
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    const auto offsets = detail::equal_offsets(x.rows(), N);
    return side_by_side(
        inner.forward(detail::repeat_rows(SequenceView<Real, in>(x), N),
                      detail::from_rest_at<typename L::State>(offsets, batch.context), cache));
  }

  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Ponder& gradient) const
    requires Trainable<L>
  {
    if (!batch.fits(dy.rows())) return {};
    const FlushDenormals guard;
    const auto offsets = detail::equal_offsets(dy.rows(), N);
    const auto touching = dy.copy();  // rows of dy may lie apart; then they are N rows each
    const auto dx = inner.backward(SequenceView<Real, L::out>(touching.data(), dy.rows() * N),
                                   detail::from_rest_at<typename L::State>(offsets, batch.context),
                                   cache, gradient.inner);
    return detail::sum_repeats(dx, N);
  }

 private:
  static double coin(const Random& random, Index t, Index n) {
    Random own = random.split(static_cast<std::uint64_t>(t));
    own.skip_to(static_cast<std::uint64_t>(n));
    return own.uniform();
  }

  /// [T N x (C + 1)] is [T x N (C + 1)].
  static Sequence<Real, out> side_by_side(const Sequence<Real, L::out>& s) {
    return SequenceView<Real, out>(s.data(), s.rows() / N).copy();
  }
};

/// Which of the two: the paper's, or the other way round as in a widely read implementation.
enum class PonderPrior { kl_of_p, kl_of_prior };

struct PonderLossOptions {
  double beta = 0.01;   ///< β
  double prior = 0.25;  ///< λ_p, about 1 / (expected steps)
  PonderPrior direction = PonderPrior::kl_of_p;
  CrossEntropyOptions labels{};
};

namespace detail {

/// Halting of one row: log p, gradients.
struct PonderRow {
  Buffer<double> log_p, log_prior, lambda;

  PonderRow(Index n, double prior) : log_p(n), log_prior(n), lambda(n) {
    double sum = 0;
    for (Index i = 0; i < n; ++i) sum += prior * std::pow(1 - prior, static_cast<double>(i));
    for (Index i = 0; i < n; ++i) {
      log_prior[i] = std::log(prior) + static_cast<double>(i) * std::log1p(-prior) - std::log(sum);
    }
  }

  static double log_sigmoid(double a) {
    return a < 0 ? a - std::log1p(std::exp(a)) : -std::log1p(std::exp(-a));
  }

  /// log p_n = log σ(a_n) + Σ_{j<n} log σ(-a_j), without the first term at the end.
  template <class A>
  void halt(A a) {
    double going = 0;
    const Index n = log_p.size();
    for (Index i = 0; i < n; ++i) {
      lambda[i] = i + 1 < n ? 1 / (1 + std::exp(-a(i))) : 1;
      log_p[i] = going + (i + 1 < n ? log_sigmoid(a(i)) : 0);
      if (i + 1 < n) going += log_sigmoid(-a(i));
    }
  }

  double p(Index i) const { return std::exp(log_p[i]); }

  /// 0 where p is 0 is its limit.
  double divergence(PonderPrior direction) const {
    double sum = 0;
    for (Index i = 0; i < log_p.size(); ++i) {
      const bool own = direction == PonderPrior::kl_of_p;
      const double weight = own ? p(i) : std::exp(log_prior[i]);
      if (weight > 0) sum += weight * (own ? 1 : -1) * (log_p[i] - log_prior[i]);
    }
    return sum;
  }
  /// p_n times the slope of the divergence in p_n.
  double p_slope(Index i, PonderPrior direction) const {
    if (direction == PonderPrior::kl_of_prior) return -std::exp(log_prior[i]);
    return p(i) > 0 ? p(i) * (log_p[i] - log_prior[i] + 1) : 0;
  }
};

}  // namespace detail

/// y [T x N (C + 1)] of a Ponder, labels [T].  `ponder_loss<10>(y, labels)`
///   with c_n = p_n times the slope of the loss in p_n:
///   dy_n = p_n (softmax(y_n) - onehot),  da_k = (1 - λ_k) c_k - λ_k Σ_{n>k} c_n      each / T
template <Index N, class Real, Index D>
Loss<Real, D> ponder_loss(SequenceView<Real, D> y, std::span<const int> labels,
                          const PonderLossOptions& options = {}) {
  static_assert(N > 0 && D % N == 0 && D / N >= 2, "ponder_loss: y must have N steps side by side");
  constexpr Index O = D / N, C = O - 1;
  const Index count = detail::check_labels(labels, y.rows(), C, options.labels.ignore);
  if (count < 0) return {};
  if (!(options.prior > 0 && options.prior < 1) || !(options.beta >= 0)) {
    fail({"ponder_loss: .prior, .beta", "between 0 and 1, 0 or more",
          std::to_string(options.prior) + ", " + std::to_string(options.beta)});
    return {};
  }
  return detail::reduced<Real, D>(
      y.rows(), static_cast<double>(count), options.labels.reduction,
      [&](MatrixView<Real> dy, double scale) {
        detail::PonderRow row(N, options.prior);
        Buffer<double> c(N);
        double loss = 0;
        for (Index t = 0; t < y.rows(); ++t) {
          const int label = labels[static_cast<std::size_t>(t)];
          if (label == options.labels.ignore) {
            std::fill_n(dy.row(t), D, Real(0));
            continue;
          }
          const Real* from = y.row(t).data();
          Real* to = dy.row(t);
          row.halt([&](Index n) { return static_cast<double>(from[n * O + C]); });
          for (Index n = 0; n < N; ++n) {
            const double own = detail::cross_entropy<Real>(
                MatrixView<const Real>{from + n * O, 1, C, C}, std::span<const int>(&label, 1),
                MatrixView<Real>{to + n * O, 1, C, C}, options.labels, row.p(n) * scale);
            loss += row.p(n) * own;
            c[n] = row.p(n) * own + options.beta * row.p_slope(n, options.direction);
          }
          loss += options.beta * row.divergence(options.direction);
          double later = 0;
          for (Index n = N - 1; n >= 0; --n) {
            const double l = row.lambda[n];
            to[n * O + C] =
                n + 1 < N ? static_cast<Real>(scale * ((1 - l) * c[n] - l * later)) : Real(0);
            later += c[n];
          }
        }
        return loss;
      });
}

template <Index N, class Real, Index D>
Loss<Real, D> ponder_loss(const Sequence<Real, D>& y, std::span<const int> labels,
                          const PonderLossOptions& options = {}) {
  return ponder_loss<N>(SequenceView<Real, D>(y), labels, options);
}

}  // namespace limen::inline LIMEN_ABI
