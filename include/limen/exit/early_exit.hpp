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
/// in between, in `run` as in `step`. With `.skipped = Skipped::note` it takes note of the others
/// too, at the depth where they left (exit/note.hpp), and `run` goes row by row.
///
/// The faces of a layer give all heads side by side, [T x K C]: what the losses of
/// exit/exit_loss.hpp take. BranchyNet (arXiv:1709.01686), MSDNet (arXiv:1703.09844).

#include <array>
#include <utility>

#include <limen/core/denormals.hpp>
#include <limen/exit/all_heads.hpp>
#include <limen/exit/leaving.hpp>

namespace limen::inline LIMEN_ABI {

struct EarlyExitConfig {
  /// Of K - k + 1 heads from k = 1 on, each has the same say in the layers below it: the gradient
  /// of head k counts 1 / (K - k + 1), what comes from deeper (K - k) / (K - k + 1). (Li et al.,
  /// arXiv:1908.06294, gradient equilibrium.) Not the slope of a loss any more.
  bool equilibrium = false;
  bool frozen = false;               ///< only heads learn: layers have no gradient, and x neither
  Skipped skipped = Skipped::still;  ///< what the memory of a layer makes of rows that left before
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
    if constexpr (Config.skipped == Skipped::note) {
      run_by_steps(x, batch, policy, left);
    } else if (x.rows() > 0) {
      detail::Leaving<EarlyExitWith, Policy> leaving{*this, batch, policy, left, {x.rows(), batch}};
      if (!leaving.template from<0>(x)) return {};
    }
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
    LeftStep left;
    detail::LeavingStep<EarlyExitWith, Policy> leaving{*this, state, policy, left};
    leaving.template from<0>(x);
    return left;
  }

  // ── All heads: whole sequence, and step by step ────────────────────────────────────────────────

  /// x [T x in] -> y [T x K C]
  Sequence<Real, out> forward(SequenceView<Real, in> x, Batch<State> batch) const {
    if (!batch.fits(x.rows())) return {};
    const FlushDenormals guard;
    Sequence<Real, out> y(x.rows());
    if (!all().template forward<0>(x, batch, y)) return {};
    return y;
  }

  Vector<Real, out> step(VectorView<Real, in> x, State& state) const noexcept
    requires(streams)
  {
    const FlushDenormals guard;
    Vector<Real, out> y;
    all().template step<0>(x, state, y);
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
    if (!all().template forward<0>(std::move(x), batch, y, cache)) return {};
    return y;
  }

  /// dh_k = a_k head_k'(dz_k) + b_k segment_{k+1}'(dh_{k+1}),  a = b = 1 without equilibrium
  Sequence<Real, in> backward(SequenceView<Real, out> dy, Batch<State> batch, const Cache& cache,
                              EarlyExitWith& gradient) const
    requires(trains)
  {
    if (!batch.fits(dy.rows())) return {};
    const FlushDenormals guard;
    constexpr std::size_t end = depth - 1;
    return all().template backward<end>(Sequence<Real, Plan::takes_at[end]>(), dy, batch, cache,
                                        gradient);
  }

 private:
  detail::AllHeads<EarlyExitWith> all() const { return {*this}; }

  /// A row that leaves has to be noted before the next one comes.
  template <class Policy>
  void run_by_steps(SequenceView<Real, in> x, const Batch<State>& batch, const Policy& policy,
                    Left& left) const {
    for (Index k = 0; k < exits; ++k)
      left.asked[static_cast<std::size_t>(k)] = k + 1 == exits || asks_exit(policy, k);
    for (Index b = 0; b < batch.count(); ++b) {
      State rest{};
      State& state = batch.carries() ? batch[b] : rest;
      for (Index t = batch.begin(b); t < batch.end(b, x.rows()); ++t) {
        const LeftStep one = step(x.row(t), state, policy);
        std::copy_n(one.logits.data(), classes, left.logits.row_data(t));
        left.exit[t] = one.exit;
        ++left.count[static_cast<std::size_t>(one.exit)];
      }
    }
  }
};

template <class... Parts>
using EarlyExit = EarlyExitWith<EarlyExitConfig{}, Parts...>;

}  // namespace limen::inline LIMEN_ABI
