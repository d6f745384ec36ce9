#pragma once
/// @file  A network whose rows may leave before its end.
///
///     using Net = EarlyExit<Linear<a>, Bend, Exit<Linear<head_a>>,     // exit 0
///                           Linear<b>, Bend, Exit<Linear<head_b>>>;    // exit 1 takes all
///     const auto left = net.run(x, {}, ConfidenceAtLeast{0.9});
///     left.logits [T x C], left.exit [T], executed_macs<Net>(left)
///
///   h_k = segment_k(h_{k-1}),  z_k = head_k(h_k)      row t leaves at the first k that the policy
///   says                                              x [T x in], z_k [T x C], K exits
///
/// Rows that have left are not computed: those that stay close up, in order (kernel/compact.hpp).
/// What a row gets does not depend on the others, to the bit in the inference form. A layer with
/// memory remembers the rows that reached it, as if the others had not been: its state stands still
/// in between, in `run` as in `step`.
///
/// The faces of a layer give all heads side by side, [T x K C]: what the losses of
/// exit/exit_loss.hpp take. BranchyNet (arXiv:1709.01686), MSDNet (arXiv:1703.09844).

#include <algorithm>
#include <array>
#include <utility>

#include <limen/core/denormals.hpp>
#include <limen/exit/exit_plan.hpp>
#include <limen/exit/live_rows.hpp>
#include <limen/exit/policies.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI {

struct EarlyExitConfig {
  /// Of K - k + 1 heads from k = 1 on, each has the same say in the layers below it: the gradient
  /// of head k counts 1 / (K - k + 1), what comes from deeper (K - k) / (K - k + 1). (Li et al.,
  /// arXiv:1908.06294, gradient equilibrium.) Not the slope of a loss any more.
  bool equilibrium = false;
  bool frozen = false;  ///< only heads learn: layers have no gradient, and x neither
};

/// Which way each row took.
template <class Real, Index C, Index K>
struct Exits {
  Sequence<Real, C> logits;      ///< [T x C], of the head where the row left
  Buffer<Index> exit;            ///< [T], 0 to K - 1
  std::array<Index, K> count{};  ///< rows that left there
  std::array<bool, K> asked{};   ///< was the head computed?
};

template <EarlyExitConfig Config, class... Parts>
struct EarlyExitWith {
  static_assert(sizeof...(Parts) > 0, "EarlyExit: needs layers and an Exit");
  static_assert(detail::compose<Parts...>());
  using Plan = detail::ExitPlan<Parts...>;
  static_assert(Plan::sound());
  static_assert(Plan::exits <= Thresholds::most, "EarlyExit: at most 63 exits");

  static constexpr EarlyExitConfig config = Config;
  static constexpr std::size_t depth = sizeof...(Parts);
  static constexpr Index exits = Plan::exits, classes = Plan::classes;
  static constexpr Index in = Plan::takes_at[0], out = exits * classes;
  using Scalar = typename detail::FirstOf<Parts...>::type::Scalar;
  using Real = Scalar;
  template <class T>
  using with_scalar = EarlyExitWith<Config, typename Parts::template with_scalar<T>...>;

  Pack<Parts...> parts;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    detail::visit_parts<depth>(f, m.parts...);
  }

  static EarlyExitWith initialized(Random& random) {
    return {detail::initialized_parts<Parts...>(random)};
  }

  /// All heads.
  static constexpr Index macs(Index rows) {
    return (limen::macs<detail::runs_as<Parts>>(rows) + ...);
  }

  static constexpr bool streams = (Streaming<detail::runs_as<Parts>> && ...);
  static constexpr bool trains = (Trainable<detail::runs_as<Parts>> && ...);

  // ── Leaving early ──────────────────────────────────────────────────────────────────────────────
  using State = Pack<typename Parts::State...>;
  using Left = Exits<Real, classes, exits>;

  /// x [T x in]. Without rows after an error, such as thresholds that do not fit.
  template <class Policy>
  Left run(SequenceView<Real, in> x, Batch<State> batch, const Policy& policy) const {
    static_assert(ExitPolicy<Policy, Real>,
                  "EarlyExit: a policy must say bool(std::span<const Scalar> logits, Index exit)");
    if (!batch.fits(x.rows())) return {};
    if (const Status fits = check_exits(policy, exits, classes); !fits) {
      fits.value();
      return {};
    }
    const FlushDenormals guard;
    Left left;
    left.logits = Sequence<Real, classes>(x.rows());
    left.exit = Buffer<Index>(x.rows());
    detail::LiveRows<exit_memory<Policy>> live(x.rows(), batch);
    if (x.rows() > 0 && !run_from<0>(x, live, batch, policy, left)) return {};
    return left;
  }

  struct LeftStep {
    Vector<Real, classes> logits;
    Index exit;
  };

  /// One row. Thresholds are not checked here: a step cannot fail.
  template <class Policy>
  LeftStep step(VectorView<Real, in> x, State& state, const Policy& policy) const noexcept
    requires(streams && ExitPolicy<Policy, Real>)
  {
    const FlushDenormals guard;
    exit_memory<Policy> memory{};
    LeftStep left;
    step_out<0>(x, state, policy, memory, left);
    return left;
  }

  // ── All heads: whole sequence, and step by step ────────────────────────────────────────────────

  /// x [T x in] -> y [T x K C]
  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    if (!through<0>(x, batch, y)) return {};
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(streams)
  {
    const FlushDenormals guard;
    Vector<Real, out> y;
    step_through<0>(x, state, y);
    return y;
  }

  template <class... Asked>
  Vector<Real, out> step(Asked&&...) const
    requires(!streams)
  {
    static_assert(detail::Rules<detail::runs_as<Parts>...>::steps());
    return {};
  }

  // ── Training ───────────────────────────────────────────────────────────────────────────────────
  using Cache = Pack<detail::cache_of<detail::runs_as<Parts>>...>;

  Sequence<Real, out> forward(Sequence<Real, in> x, Batch<State> batch, Cache& cache) const
    requires(trains)
  {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    if (!through<0>(std::move(x), batch, y, cache)) return {};
    return y;
  }

  /// dh_k = a_k head_k'(dz_k) + b_k segment_{k+1}'(dh_{k+1}),  a = b = 1 without equilibrium
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              EarlyExitWith& gradient) const
    requires(trains)
  {
    if (!batch.fits(dy.rows())) return {};
    const FlushDenormals guard;
    return back_from<depth - 1>(Sequence<Real, Plan::takes_at[depth - 1]>(), dy, batch, cache,
                                gradient);
  }

 private:
  template <std::size_t I>
  static constexpr bool exit_at = Plan::exit_at[I];
  template <std::size_t I>
  static constexpr Index exit_of = Plan::exit_of[I];

  template <std::size_t I>
  const auto& layer() const {
    if constexpr (exit_at<I>) {
      return get<I>(parts).head;
    } else {
      return get<I>(parts);
    }
  }
  template <std::size_t I>
  static auto& layer_of(EarlyExitWith& model) {
    if constexpr (exit_at<I>) {
      return get<I>(model.parts).head;
    } else {
      return get<I>(model.parts);
    }
  }

  /// The rows that are there: of a view all, of memory of ours the first.
  template <Index D>
  static SequenceView<Real, D> first(const SequenceView<Real, D>& x, Index rows) {
    return x.middle_rows(0, rows);
  }
  template <Index D>
  static SequenceView<Real, D> first(const Sequence<Real, D>& x, Index rows) {
    return {x.data(), rows};
  }

  template <std::size_t I, class X, class Live, class Policy>
  bool run_from(X x, Live& live, const Batch<State>& batch, const Policy& policy,
                Left& left) const {
    const auto rows = first(x, live.count);
    constexpr Index k = exit_of<I>;
    if constexpr (exit_at<I>) {
      // A head with memory has to see the rows; another one only if somebody may leave.
      left.asked[k] =
          I + 1 == depth || asks_exit(policy, k) || !std::is_empty_v<typename PackType<I>::State>;
      if (left.asked[k]) {
        detail::TapScope scope(batch.context, detail::position_names<depth>[I]);
        auto z = layer<I>().forward(rows, scope.of(mine<I>(batch, live)));
        if (!LIMEN_EXCEPTIONS && z.rows() != live.count) return false;
        if constexpr (I + 1 == depth) {
          arrive(std::move(z), live, left);
          return true;
        } else {
          if (!part_ways<k>(z, x, live, policy, left)) return true;
        }
      }
      if constexpr (I + 1 < depth) return run_from<I + 1>(std::move(x), live, batch, policy, left);
    } else {
      detail::TapScope scope(batch.context, detail::position_names<depth>[I]);
      auto y = layer<I>().forward(rows, scope.of(mine<I>(batch, live)));
      if (!LIMEN_EXCEPTIONS && y.rows() != live.count) return false;
      x = X();  // its memory serves the layers to come
      return run_from<I + 1>(std::move(y), live, batch, policy, left);
    }
    return true;
  }

  template <std::size_t I>
  using PackType = detail::PackElement<I, Parts...>;

  template <std::size_t I, class Live>
  static auto mine(const Batch<State>& batch, const Live& live) {
    return detail::part_of<I>(batch).over(live.offsets.data());
  }

  /// At an exit that is not the last: writes down who leaves, and the others close up. Is anybody
  /// left?
  template <Index k, class X, class Live, class Policy>
  static bool part_ways(const Sequence<Real, classes>& z, X& x, Live& live, const Policy& policy,
                        Left& left) {
    Index stay = 0;
    for (Index i = 0; i < live.count; ++i) {
      if (leaves(policy, std::span<const Real>(z.row(i).data(), std::size_t{classes}), k,
                 live.memory_of(i))) {
        const Index t = live.id[i];
        std::copy_n(z.row(i).data(), classes, left.logits.row_data(t));
        left.exit[t] = k;
      } else {
        live.kept[stay++] = i;
      }
    }
    left.count[k] = live.count - stay;
    if (stay > 0 && stay < live.count) {
      compact_rows(x.matrix(), live.kept.data(), stay);
      live.compact(stay);
    }
    return stay > 0;
  }

  template <class Live>
  static void arrive(Sequence<Real, classes> z, const Live& live, Left& left) {
    left.count[exits - 1] = live.count;
    for (Index i = 0; i < live.count; ++i) left.exit[live.id[i]] = exits - 1;
    if (live.count == left.logits.rows()) {
      left.logits = std::move(z);
    } else {
      scatter_rows(std::as_const(z).matrix(), live.id.data(), left.logits.matrix());
    }
  }

  template <std::size_t I, class X, class Policy, class Memory>
  void step_out(const X& x, State& state, const Policy& policy, Memory& memory,
                LeftStep& left) const noexcept {
    constexpr Index k = exit_of<I>;
    if constexpr (!exit_at<I>) {
      step_out<I + 1>(layer<I>().step(x, get<I>(state)), state, policy, memory, left);
    } else if constexpr (I + 1 == depth) {
      left = {layer<I>().step(x, get<I>(state)), k};
    } else {
      if (asks_exit(policy, k) || !std::is_empty_v<typename PackType<I>::State>) {
        const auto z = layer<I>().step(x, get<I>(state));
        if (leaves(policy, std::span<const Real>(z.data(), std::size_t{classes}), k, memory)) {
          left = {z, k};
          return;
        }
      }
      step_out<I + 1>(x, state, policy, memory, left);
    }
  }

  template <std::size_t I, class X>
  void step_through(const X& x, State& state, Vector<Real, out>& y) const noexcept {
    const auto h = layer<I>().step(x, get<I>(state));
    if constexpr (exit_at<I>) {
      std::copy_n(h.data(), classes, y.data() + exit_of<I> * classes);
      if constexpr (I + 1 < depth) step_through<I + 1>(x, state, y);
    } else {
      step_through<I + 1>(h, state, y);
    }
  }

  /// With a cache or without.
  template <std::size_t I, class X, class... C>
  bool through(X x, const Batch<State>& batch, Sequence<Real, out>& y, C&... cache) const {
    detail::TapScope scope(batch.context, detail::position_names<depth>[I]);
    const auto part = scope.of(detail::part_of<I>(batch));
    if constexpr (exit_at<I>) {
      const auto z = [&] {
        if constexpr (I + 1 < depth && sizeof...(C) > 0) {
          return layer<I>().forward(X(x), part, get<I>(cache)...);  // the layers to come need it
        } else if constexpr (sizeof...(C) > 0) {
          return layer<I>().forward(std::move(x), part, get<I>(cache)...);
        } else {
          return layer<I>().forward(x, part);
        }
      }();
      if (!LIMEN_EXCEPTIONS && z.rows() != y.rows()) return false;
      copy_rows(z.matrix(), y.matrix().middle_cols(exit_of<I> * classes, classes));
      if constexpr (I + 1 < depth) return through<I + 1>(std::move(x), batch, y, cache...);
      return true;
    } else {
      auto h = layer<I>().forward(std::move(x), part, get<I>(cache)...);
      if (!LIMEN_EXCEPTIONS && h.rows() != y.rows()) return false;
      x = X();
      return through<I + 1>(std::move(h), batch, y, cache...);
    }
  }

  /// dh: gradient of what part I gives, or where it is an exit passes on; none yet at the end.
  template <std::size_t I, class DH>
  Sequence<Real, in> back_from(DH dh, SequenceView<Real, out> dy, const Batch<State>& batch,
                               const Cache& cache, EarlyExitWith& gradient) const {
    const auto part = detail::part_of<I>(batch);
    if constexpr (exit_at<I>) {
      constexpr Index k = exit_of<I>, deeper = exits - 1 - k;
      const SequenceView<Real, classes> dz{dy.data() + k * classes, dy.rows(), dy.stride()};
      auto from_head = layer<I>().backward(dz, part, get<I>(cache), layer_of<I>(gradient));
      if (!LIMEN_EXCEPTIONS && from_head.rows() != dy.rows()) return {};
      if constexpr (deeper > 0 && !Config.frozen) {
        if constexpr (Config.equilibrium) {
          scale(from_head, Real(1) / Real(deeper + 1));
          scale(dh, Real(deeper) / Real(deeper + 1));
        }
        add_rows<Real>(std::as_const(from_head).matrix(), dh.matrix());
        return back_from<I - 1>(std::move(dh), dy, batch, cache, gradient);
      } else {
        return back_from<I - 1>(std::move(from_head), dy, batch, cache, gradient);
      }
    } else if constexpr (Config.frozen) {
      if constexpr (I == 0) {
        return Sequence<Real, in>::zeros(dy.rows());
      } else {
        return back_from<I - 1>(Sequence<Real, Plan::takes_at[I]>(), dy, batch, cache, gradient);
      }
    } else {
      auto dx = layer<I>().backward(dh, part, get<I>(cache), layer_of<I>(gradient));
      if constexpr (I == 0) {
        return dx;
      } else {
        if (!LIMEN_EXCEPTIONS && dx.rows() != dy.rows()) return {};
        dh = DH();
        return back_from<I - 1>(std::move(dx), dy, batch, cache, gradient);
      }
    }
  }

  template <Index D>
  static void scale(Sequence<Real, D>& x, Real by) {
    const simd::Vec<Real> factor(by);
    simd::transform(x.data(), x.data(), x.size(), [&](auto v) { return v * factor; });
  }
};

template <class... Parts>
using EarlyExit = EarlyExitWith<EarlyExitConfig{}, Parts...>;

}  // namespace limen::inline LIMEN_ABI
