#pragma once
/// @file  Each expert sees a part of the context of its own; the gate sees all of it.
///
///   y_t = [x_t, ξ_n]        x [T x D], the last d columns are ξ;  ξ_n: part n of N equal ones
///
///     Sequential<ContextTable<...>, SplitContext<MixerRouter<...>, Expert>>
///
/// SplitContext is a MixtureOfExperts whose expert e is Sequential<ContextSlice, Expert>, with part
/// e of E: contexts can be long, and experts small. Each part learns from one expert alone.
///
/// Nzoyem et al., "MixER: better mixture of experts routing for hierarchical meta-learning",
/// arXiv:2502.05335.

#include <type_traits>
#include <utility>

#include <limen/compose/sequential.hpp>
#include <limen/core/denormals.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/prepared.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/moe/mixture_of_experts.hpp>

namespace limen::inline LIMEN_ABI {

struct ContextSliceConfig {
  Index d_model = 0;    ///< D, with the context
  Index d_context = 0;  ///< d, the last of the columns
  Index n_slices = 0;   ///< N
  Index slice = 0;      ///< n
};

template <ContextSliceConfig C, class S = float>
struct ContextSlice {
  static_assert(C.d_context > 0 && C.d_context <= C.d_model,
                "ContextSlice: .d_context must be between 1 and .d_model");
  static_assert(C.n_slices > 0 && C.d_context % C.n_slices == 0,
                "ContextSlice: .n_slices must divide .d_context");
  static_assert(C.slice >= 0 && C.slice < C.n_slices,
                "ContextSlice: .slice must be between 0 and .n_slices - 1");

  static constexpr ContextSliceConfig config = C;
  static constexpr Index D = C.d_model, part = C.d_context / C.n_slices;
  static constexpr Index shared = D - C.d_context, from = shared + C.slice * part;
  static constexpr Index in = D, out = shared + part;
  using Scalar = real_of<S>;
  using Real = Scalar;
  template <class T>
  using with_scalar = ContextSlice<C, T>;

  template <class F, class... L>
  static constexpr void visit(F&&, L&...) {}
  static ContextSlice initialized(Random&) { return {}; }

  static constexpr Index macs(Index) { return 0; }

  using State = NoState;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State>) const {
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    const auto to = y.matrix();
    copy_rows(x.matrix().middle_cols(0, shared), to.middle_cols(0, shared));
    copy_rows(x.matrix().middle_cols(from, part), to.middle_cols(shared, part));
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State&) const noexcept {
    Vector<Real, out> y;
    for (Index d = 0; d < shared; ++d) y[d] = x[d];
    for (Index d = 0; d < part; ++d) y[shared + d] = x[from + d];
    return y;
  }

  struct Cache {
    Index rows = 0;
  };

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const {
    cache.rows = x.rows();
    return forward(SequenceView<Real, in>(x), batch);
  }

  /// 0 for the parts of others
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State>, const Cache& cache,
                              ContextSlice&) const {
    if (!fits_cache(dy.rows(), cache.rows)) return {};
    const FlushDenormals guard;
    auto dx = Sequence<Real, in>::zeros(dy.rows());
    const auto to = dx.matrix();
    copy_rows(dy.matrix().middle_cols(0, shared), to.middle_cols(0, shared));
    copy_rows(dy.matrix().middle_cols(shared, part), to.middle_cols(from, part));
    return dx;
  }
};

namespace detail {

template <class R, class Expert, class Numbers>
struct SplitContextOf;

template <class R, class Expert, Index... E>
struct SplitContextOf<R, Expert, std::integer_sequence<Index, E...>> {
  template <Index N>
  using Slice =
      ContextSlice<ContextSliceConfig{
                       .d_model = R::in, .d_context = R::d, .n_slices = R::experts, .slice = N},
                   typename Expert::Scalar>;
  using type = MixtureOfExperts<R, Sequential<Slice<E>, Expert>...>;
};

}  // namespace detail

/// R: a MixerRouter; Expert takes R::in - d + d / E columns.
template <class R, class Expert>
using SplitContext =
    typename detail::SplitContextOf<R, Expert, std::make_integer_sequence<Index, R::experts>>::type;

}  // namespace limen::inline LIMEN_ABI
