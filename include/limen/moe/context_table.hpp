#pragma once
/// @file  Each row is joined by the context of its environment, which is learned.
///
///   y_t = [x_t, ξ_n]        x [T x (D + 1)]: the last column is n;  ξ [N x C],  y [T x (D + C)]
///
/// An environment is whatever many rows have in common and none of them says: the coefficients of
/// an equation, a user, a machine. For a new one, learn its row with all else frozen. What is no
/// whole number from 0 to N - 1 is an error that names the row; in `step`, which cannot fail, the
/// context is NaN.
///
/// Zintgraf et al., "Fast context adaptation via meta-learning", arXiv:1810.03642, section 3.

#include <limits>

#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/moe/router.hpp>

namespace limen::inline LIMEN_ABI {

struct ContextTableConfig {
  Index d = 0;           ///< D
  Index n_contexts = 0;  ///< N
  Index d_context = 0;   ///< C
};

template <ContextTableConfig C, class S = float>
struct ContextTable {
  static_assert(C.d > 0, "ContextTable: .d must be positive");
  static_assert(C.n_contexts > 0 && C.n_contexts <= Index{1} << 24,
                "ContextTable: .n_contexts must be positive, and a float counts to 2^24 only");
  static_assert(C.d_context > 0, "ContextTable: .d_context must be positive");

  static constexpr ContextTableConfig config = C;
  static constexpr Index D = C.d, N = C.n_contexts, in = D + 1, out = D + C.d_context;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = ContextTable<C, T>;

  Tensor<Real, N, C.d_context> weight;  ///< ξ

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("weight", l.weight...);
  }

  /// All contexts 0.
  static ContextTable initialized(Random&) { return {}; }

  static constexpr Index macs(Index) { return 0; }

  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    for (Index t = 0; t < x.rows(); ++t) {
      const Index n = detail::whole_number(x(t, D), N);
      if (n < 0) {
        detail::bad_number("environment", t, N, static_cast<double>(x(t, D)));
        return {};
      }
      for (Index d = 0; d < D; ++d) y(t, d) = x(t, d);
      for (Index c = 0; c < C.d_context; ++c) y(t, D + c) = weight(n, c);
    }
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    const Index n = detail::whole_number(x[D], N);
    Vector<Real, out> y;
    for (Index d = 0; d < D; ++d) y[d] = x[d];
    for (Index c = 0; c < C.d_context; ++c) {
      y[D + c] = n < 0 ? std::numeric_limits<Real>::quiet_NaN() : weight(n, c);
    }
    return y;
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  struct Cache {
    Buffer<Index> n;
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    auto y = forward(SequenceView<Real, in>(x), batch);
    if (y.rows() != x.rows()) return {};
    if (cache.n.size() != x.rows()) cache.n = Buffer<Index>(x.rows());
    for (Index t = 0; t < x.rows(); ++t) cache.n[t] = static_cast<Index>(x(t, D));
    return y;
  }

  /// dξ_n += Σ of its rows
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              ContextTable& gradient) const {
    if (!fits_cache(dy.rows(), cache.n.size())) return {};
    const FlushDenormals guard;
    Sequence<Real, in> dx(dy.rows());
    for (Index t = 0; t < dy.rows(); ++t) {
      for (Index d = 0; d < D; ++d) dx(t, d) = dy(t, d);
      dx(t, D) = 0;
      for (Index c = 0; c < C.d_context; ++c) gradient.weight(cache.n[t], c) += dy(t, D + c);
    }
    return dx;
  }
};

}  // namespace limen::inline LIMEN_ABI
