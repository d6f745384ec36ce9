#pragma once
/// @file  Experts without a product, for rows that need none.
///
///   Identity   y = x
///   Zero       y = 0        with a residual around the mixture: the row skips it
///   Constant   y = v        v [O], learned
///
///     MixtureOfExperts<Route, GatedLinear<ffn>, Mamba<m>, Identity<IdentityConfig{.d = 512}>>
///
/// Jin et al., "MoE++: accelerating mixture-of-experts methods with zero-computation experts",
/// arXiv:2410.07348, equations 3 to 5 (where the constant is mixed with x).

#include <cstring>

#include <limen/core/denormals.hpp>
#include <limen/core/initialize.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/reduce.hpp>

namespace limen::inline LIMEN_ABI {

struct IdentityConfig {
  Index d = 0;  ///< D, of input and output
};

template <IdentityConfig C, class S = float>
struct Identity {
  static_assert(C.d > 0, "Identity: .d must be positive");

  static constexpr IdentityConfig config = C;
  static constexpr Index D = C.d, in = D, out = D;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Identity<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static Identity initialized(Random&) { return {}; }

  using State = NoState;

  Sequence<Real, D> forward(SequenceView<Real, D> x, Batch<State>) const { return x.copy(); }
  Vector<Real, D> step(VectorView<Real, D> x, State&) const noexcept { return x.copy(); }

  struct Cache {
    Index rows = 0;
  };
  Sequence<Real, D> forward(Sequence<Real, D> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    cache.rows = x.rows();
    return x;
  }
  Sequence<Real, D> backward(SequenceView<Real, D> dy, Batch<State>, const Cache& cache,
                             Identity&) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    return dy.copy();
  }
};

struct ZeroConfig {
  Index d_in = 0;   ///< I
  Index d_out = 0;  ///< O
};

template <ZeroConfig C, class S = float>
struct Zero {
  static_assert(C.d_in > 0, "Zero: .d_in must be positive");
  static_assert(C.d_out > 0, "Zero: .d_out must be positive");

  static constexpr ZeroConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Zero<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static Zero initialized(Random&) { return {}; }

  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    return Sequence<Real, out>::zeros(x.rows());
  }
  Vector<Real, out> step(VectorView<Real, in>, State&) const noexcept {
    return Vector<Real, out>{};
  }

  struct Cache {
    Index rows = 0;
  };
  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State>, Cache& cache) const
    requires(!is_prepared<S>)
  {
    cache.rows = x.rows();
    return Sequence<Real, out>::zeros(x.rows());
  }
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Zero&) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    return Sequence<Real, in>::zeros(dy.rows());
  }
};

struct ConstantConfig {
  Index d_in = 0;   ///< I
  Index d_out = 0;  ///< O
};

template <ConstantConfig C, class S = float>
struct Constant {
  static_assert(C.d_in > 0, "Constant: .d_in must be positive");
  static_assert(C.d_out > 0, "Constant: .d_out must be positive");

  static constexpr ConstantConfig config = C;
  static constexpr Index in = C.d_in, out = C.d_out;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = Constant<C, T>;

  Tensor<Real, out> value;  ///< v

  template <class F, class... L>
  static constexpr void visit(F&& f, L&... l) {
    f("value", l.value...);
  }
  static Constant initialized(Random& random) {
    Constant layer;
    fill_normal(layer.value, 0.02, random);
    return layer;
  }

  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    Sequence<Real, out> y(x.rows());
    for (Index t = 0; t < y.rows(); ++t) put(y.row_data(t));
    return y;
  }
  Vector<Real, out> step(VectorView<Real, in>, State&) const noexcept {
    Vector<Real, out> y;
    put(y.data());
    return y;
  }

  struct Cache {
    Index rows = 0;
  };
  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(!is_prepared<S>)
  {
    cache.rows = x.rows();
    return forward(SequenceView<Real, in>(x), batch);
  }
  /// dv = Σ_t dy_t,  dx = 0
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              Constant& gradient) const
    requires(!is_prepared<S>)
  {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    const FlushDenormals guard;
    add_column_sums(dy.matrix(), gradient.value.data());
    return Sequence<Real, in>::zeros(dy.rows());
  }

 private:
  void put(Real* y) const noexcept {
    std::memcpy(y, value.data(), sizeof(Real) * std::size_t(out));
  }
};

}  // namespace limen::inline LIMEN_ABI
