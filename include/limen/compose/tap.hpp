#pragma once
/// @file  A named point, where a listener may look at the rows that pass and change them.
///
///     using Block = Residual<Sequential<RmsNorm<n>, Tap<"mixer", Mixer>>>;
///     using Model = Tap<"blocks", Repeat<12, Block>>;
///
///     Context run{.taps = &listener};                   // any TapListener
///     model.forward(x, Batch<Model::State>(state, &run));
///     // listener.at("blocks.3.inner.1.mixer", [T x D]) and so on, then at("blocks", [T x D])
///
/// y is what the layer gives, as the listener leaves it. A tap is known by the names that lead to
/// it: those of the taps around it and of the parts, as parameters have them. A tap itself is not
/// in the names of parameters: putting one in does not change a checkpoint.
///
/// Without a listener it costs a comparison. `step` passes taps by, whatever the listener; a stream
/// under observation runs `forward`, one row at a time. In training the listener sees the forward
/// pass; backward takes a change for a constant that was added, and hands dy on, as `back_at` of
/// the listener leaves it.

#include <algorithm>
#include <string_view>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/prepared.hpp>

namespace limen::inline LIMEN_ABI {

/// Text as a template argument.
template <std::size_t N>
struct TapName {
  consteval TapName(const char (&letters)[N]) { std::copy_n(letters, N, text); }  // NOLINT
  constexpr std::string_view view() const { return {text, N - 1}; }
  char text[N];
};

template <TapName name, class L>
struct Tap {
  static_assert(!name.view().empty(), "Tap: needs a name");
  static_assert(detail::compose<L>());

  static constexpr Index in = L::in, out = L::out;
  using Scalar = typename L::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = Tap<name, typename L::template with_scalar<T>>;

  L inner;

  /// As if there were no tap.
  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    L::visit(f, m.inner...);
  }
  template <class M>
  void prepare_from(const Tap<name, M>& learned) {
    prepare_into(inner, learned.inner);
  }

  static Tap initialized(Random& random) { return {L::initialized(random)}; }

  static constexpr Index macs(Index rows) { return limen::macs<L>(rows); }

  // ── Whole sequence, and step by step ───────────────────────────────────────────────────────────
  using State = typename L::State;

  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    detail::TapScope scope(batch.context, name.view());
    return heard(inner.forward(x, scope.of(batch)), batch);
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires Streaming<L>
  {
    return inner.step(x, state);
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const
    requires(!Streaming<L>)
  {
    static_assert(detail::Rules<L>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = detail::cache_of<L>;

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires Trainable<L>
  {
    detail::TapScope scope(batch.context, name.view());
    return heard(inner.forward(std::move(x), scope.of(batch), cache), batch);
  }

  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              Tap& gradient) const
    requires Trainable<L>
  {
    detail::TapScope scope(batch.context, name.view());
    if (batch.context == nullptr || batch.context->taps == nullptr) {
      return inner.backward(dy, batch, cache, gradient.inner);
    }
    auto heard = dy.copy();
    batch.context->taps->back_at(name.view(), heard.matrix());
    return inner.backward(heard, scope.of(batch), cache, gradient.inner);
  }

 private:
  static Sequence<Real, out> heard(Sequence<Real, out> y, const Batch<State>& batch) {
    if (batch.context != nullptr && batch.context->taps != nullptr) {
      batch.context->taps->at(name.view(), y.matrix());
    }
    return y;
  }
};

}  // namespace limen::inline LIMEN_ABI
