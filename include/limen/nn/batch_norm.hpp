#pragma once
/// @file  Batch norm: each channel shifted to mean 0 and scaled to variance 1, as measured over the
/// batch.
///
///   y = w ⊙ x̂ + b,   x̂ = (x - m) s,   s = 1 / sqrt(var + eps)
///
///   x, y [T x P D]   P positions of D channels in a row (the pixels of an image); w, b [D]
///   training         m, var: over all T P positions of the batch, whatever sequence they are in
///   inference        m, var: the running ones
///
/// The running mean and variance are Statistics: a layer does not change while it runs, so training
/// gathers in the gradient what was measured, and `settle` moves them. The running variance is the
/// unbiased one, T P / (T P - 1) var, as in PyTorch. Behind a Linear or a Conv2d the inference form
/// is a map of theirs: `fold(linear, norm)`.
///
/// Ioffe & Szegedy, "Batch Normalization", arXiv:1502.03167, algorithm 1.

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/norm.hpp>
#include <limen/nn/linear.hpp>

namespace limen::inline LIMEN_ABI {

struct BatchNormConfig {
  Index d = 0;          ///< D, channels
  Index positions = 1;  ///< P, in a row
  double eps = 1e-5;    ///< added to the variance
  bool weight = true;   ///< multiply by w
  bool bias = true;     ///< add b
};

template <BatchNormConfig C, class S = float>
struct BatchNorm {
  static_assert(C.d > 0, "BatchNorm: .d must be positive");
  static_assert(C.positions > 0, "BatchNorm: .positions must be positive");
  static_assert(C.eps > 0, "BatchNorm: .eps must be positive");

  static constexpr BatchNormConfig config = C;
  static constexpr Index D = C.d, P = C.positions, in = P * D, out = P * D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = BatchNorm<C, T>;

  // ── What it has learned, and measured ──────────────────────────────────────────────────────────
  Optional<C.weight, Tensor<Real, D>> weight;  ///< w
  Optional<C.bias, Tensor<Real, D>> bias;      ///< b
  Statistic<Real, D> running_mean;             ///< m in inference
  Statistic<Real, D> running_var;              ///< var in inference

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
    f("bias", l.bias...);
    f("running_mean", l.running_mean...);
    f("running_var", l.running_var...);
  }

  static BatchNorm initialized(Random&) {
    BatchNorm layer;
    if constexpr (C.weight) fill(layer.weight, 1);
    fill(layer.running_var, 1);
    return layer;
  }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    if (P == 1) {
      run(x.matrix(), y.matrix());
    } else {
      for (Index t = 0; t < x.rows(); ++t)
        run(positions(x.row(t).data()), positions(y.row_data(t)));
    }
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const FlushDenormals guard;
    Vector<Real, out> y;
    run(positions(x.data()), positions(y.data()));
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Sequence<Real, in> x;  ///< [T x P D]
    Buffer<Real> mean;     ///< [D], m of the batch
    Buffer<Real> var;      ///< [D]
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    if (x.rows() > 0) {
      cache.mean = Buffer<Real>(D);
      cache.var = Buffer<Real>(D);
      column_moments(positions(x.data(), x.rows()), cache.mean.data(), cache.var.data());
      normalize_columns(positions(x.data(), x.rows()), cache.mean.data(), cache.var.data(),
                        data_or_null(weight), data_or_null(bias), config.eps,
                        positions(y.data(), y.rows()));
    }
    cache.x = std::move(x);
    return y;
  }

  /// Over the n = T P positions:  db = Σ dy,  dw = Σ dy ⊙ x̂,
  ///                              dx = w s (dy - db / n - x̂ dw / n)
  /// The running statistics gather n (measured - running).
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              BatchNorm& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, in> dx(dy.rows());
    if (dy.rows() == 0) return dx;
    const Index n = dy.rows() * P;
    const Real *m = cache.mean.data(), *var = cache.var.data(), *w = data_or_null(weight);
    Buffer<Real> s(D), db(D), dw(D);
    for (Index d = 0; d < D; ++d) {
      s[d] = 1 / std::sqrt(var[d] + static_cast<Real>(config.eps));
      db[d] = dw[d] = 0;
    }
    for_each_block(dy, [&](MatrixView<const Real> dy_rows, Index t) {
      const auto x = positions(cache.x.row(t).data(), dy_rows.rows / P);
      add_column_products(dy_rows, x, m, s.data(), db.data(), dw.data());
    });
    for_each_block(dy, [&](MatrixView<const Real> dy_rows, Index t) {
      const Index rows = dy_rows.rows / P;
      normalize_columns_backward(dy_rows, positions(cache.x.row(t).data(), rows), m, s.data(), w,
                                 db.data(), dw.data(), n, positions(dx.row_data(t), rows));
    });
    const Real count = static_cast<Real>(n), unbiased = n > 1 ? count / (count - 1) : Real(1);
    for (Index d = 0; d < D; ++d) {
      if constexpr (C.weight) gradient.weight[d] += dw[d];
      if constexpr (C.bias) gradient.bias[d] += db[d];
      gradient.running_mean[d] += count * (m[d] - running_mean[d]);
      gradient.running_var[d] += count * (unbiased * var[d] - running_var[d]);
    }
    gradient.running_mean.weight += count;
    gradient.running_var.weight += count;
    return dx;
  }

 private:
  static MatrixView<const Real> positions(const Real* data, Index rows = 1) {
    return {data, rows * P, D, D};
  }
  static MatrixView<Real> positions(Real* data, Index rows = 1) { return {data, rows * P, D, D}; }

  /// Rows of many positions may be apart in memory: then one by one.
  template <class F>
  static void for_each_block(SequenceView<Real, in> x, F f) {
    if (P == 1) {
      f(x.matrix(), Index{0});
    } else if (x.stride() == in) {
      f(positions(x.data(), x.rows()), Index{0});
    } else {
      for (Index t = 0; t < x.rows(); ++t) f(positions(x.row(t).data()), t);
    }
  }

  void run(MatrixView<const Real> x, MatrixView<Real> y) const noexcept {
    normalize_columns(x, running_mean.data(), running_var.data(), data_or_null(weight),
                      data_or_null(bias), config.eps, y);
  }
};

namespace detail {

/// What the norm multiplies channel o by, and its new bias:  scale (bias - m) + b
template <BatchNormConfig N, class Real>
struct FoldedChannel {
  Real scale;
  Real bias;

  FoldedChannel(const BatchNorm<N, Real>& norm, Index o, Real before)
      : scale(1 / std::sqrt(norm.running_var[o] + static_cast<Real>(N.eps))) {
    if constexpr (N.weight) scale *= norm.weight[o];
    bias = scale * (before - norm.running_mean[o]);
    if constexpr (N.bias) bias += norm.bias[o];
  }
};

constexpr LinearConfig with_bias(LinearConfig c) {
  c.bias = true;
  return c;
}

}  // namespace detail

/// One Linear that computes norm(linear(x)) as in inference:  W' = s w ⊙ W,  b' = s w (b - m) +
/// b_norm
template <LinearConfig C, BatchNormConfig N, class Real>
Linear<detail::with_bias(C), Real> fold(const Linear<C, Real>& linear,
                                        const BatchNorm<N, Real>& norm) {
  static_assert(N.d == C.d_out && N.positions == 1, "fold: the norm must fit the output");
  Linear<detail::with_bias(C), Real> folded;
  for (Index o = 0; o < C.d_out; ++o) {
    Real before = 0;
    if constexpr (C.bias) before = linear.bias[o];
    const detail::FoldedChannel<N, Real> channel(norm, o, before);
    for (Index i = 0; i < C.d_in; ++i) folded.weight(o, i) = channel.scale * linear.weight(o, i);
    folded.bias[o] = channel.bias;
  }
  return folded;
}

}  // namespace limen::inline LIMEN_ABI
