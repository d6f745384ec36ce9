#pragma once
/// @file  When a row leaves a network early.
///
///     ConfidenceAtLeast{0.9}              max p >= 0.9, at every exit
///     EntropyBelow{{0.2, 0.5}}            a threshold for each exit but the last, which takes all
///     Patience{.times = 2}                so many heads in a row agree with the one before
///     Deadline<>{.until = t, .next_ns = {900, 400}}      no time for what comes next
///     any_of(Deadline<>{...}, ConfidenceAtLeast{0.9})
///     [](auto z, Index k) { return z[0] > 3; }             your own
///
/// A policy is a value whose call says whether the row with logits z leaves at exit k (from 0). One
/// that remembers something of each row on its way names it: `Memory`, trivially copyable, zero at
/// the first exit, and the third argument; the fourth, if it takes one, is what the head looked at.
/// Beyond that a policy may say
///
///     bool by_sums(const RowSums<Real>& z, Index exit[, Memory&]) const
///                                                       the same answer from what scores are made
///                                                       of: asked in many rows at once
///     Status check(Index exits, Index classes) const    is it any use for such a network?
///     bool asks(Index exit) const                       false: nobody leaves there, skip the head
///     Index may_stay(std::span<const Index> left, Index here, Index exit) const
///                                                       how many of the `here` rows may go on
///                                                       (exit/caps.hpp)
///
/// A confidence that is NaN passes no threshold. Patience: PABEE (Zhou et al., arXiv:2006.04152),
/// with a counter for each row.

#include <array>
#include <chrono>
#include <concepts>
#include <string>
#include <utility>

#include <limen/core/error.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/pack.hpp>
#include <limen/exit/scores.hpp>
#include <limen/exit/thresholds.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {
template <class P>
struct ExitMemory {
  using type = NoState;
};
template <class P>
  requires requires { typename P::Memory; }
struct ExitMemory<P> {
  using type = typename P::Memory;
};
}  // namespace detail

/// What a policy remembers of a row between exits.
template <class P>
using exit_memory = typename detail::ExitMemory<P>::type;

template <class P, class Real>
concept ExitPolicy =
    std::is_trivially_copyable_v<exit_memory<P>> &&
    (requires(const P& leaves, std::span<const Real> z, Index k) {
      { leaves(z, k) } -> std::convertible_to<bool>;
    } || requires(const P& leaves, std::span<const Real> z, Index k, exit_memory<P>& memory) {
      { leaves(z, k, memory) } -> std::convertible_to<bool>;
    } || requires(const P& leaves, std::span<const Real> z, Index k, exit_memory<P>& memory) {
      { leaves(z, k, memory, z) } -> std::convertible_to<bool>;
    });

/// h: what the head looked at.
template <class P, class Real>
  requires ExitPolicy<P, Real>
bool leaves(const P& policy, std::span<const Real> z, Index k, exit_memory<P>& memory,
            [[maybe_unused]] std::span<const Real> h = {}) {
  if constexpr (requires { policy(z, k, memory, h); }) {
    return policy(z, k, memory, h);
  } else if constexpr (requires { policy(z, k, memory); }) {
    return policy(z, k, memory);
  } else {
    return policy(z, k);
  }
}

namespace detail {
template <class P, class Real>
inline constexpr bool reads_sums = requires(const P& policy, const RowSums<Real>& z, Index k) {
  policy.by_sums(z, k);
} || requires(const P& policy, const RowSums<Real>& z, Index k, exit_memory<P>& memory) {
  policy.by_sums(z, k, memory);
};

template <class P, class Real>
bool leaves_by_sums(const P& policy, const RowSums<Real>& z, Index k, exit_memory<P>& memory) {
  if constexpr (requires { policy.by_sums(z, k, memory); }) {
    return policy.by_sums(z, k, memory);
  } else {
    return policy.by_sums(z, k);
  }
}
}  // namespace detail

template <class P>
bool asks_exit(const P& policy, Index k) {
  if constexpr (requires { policy.asks(k); }) return policy.asks(k);
  return true;
}

template <class P>
Status check_exits(const P& policy, Index exits, Index classes) {
  if constexpr (requires { policy.check(exits, classes); }) return policy.check(exits, classes);
  return {};
}

// ── By confidence ────────────────────────────────────────────────────────────────────────────────

struct ConfidenceAtLeast {
  Thresholds at_least;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k) const noexcept {
    return max_probability(z) >= at_least[k];
  }
  template <class Real>
  bool by_sums(const RowSums<Real>& z, Index k) const noexcept {
    return z.max_probability() >= at_least[k];
  }
  bool asks(Index k) const noexcept { return at_least[k] <= 1; }
  Status check(Index exits, Index) const {
    return at_least.check("ConfidenceAtLeast", exits, 0, 1);
  }
};

struct MarginAtLeast {
  Thresholds at_least;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k) const noexcept {
    return probability_margin(z) >= at_least[k];
  }
  template <class Real>
  bool by_sums(const RowSums<Real>& z, Index k) const noexcept {
    return z.margin() >= at_least[k];
  }
  bool asks(Index k) const noexcept { return at_least[k] <= 1; }
  Status check(Index exits, Index classes) const {
    if (classes < 2) return Error{"MarginAtLeast: classes", "2 or more", std::to_string(classes)};
    return at_least.check("MarginAtLeast", exits, 0, 1);
  }
};

struct EntropyBelow {
  Thresholds below;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k) const noexcept {
    return entropy(z) < below[k];
  }
  template <class Real>
  bool by_sums(const RowSums<Real>& z, Index k) const noexcept {
    return z.entropy() < below[k];
  }
  bool asks(Index k) const noexcept { return below[k] > 0; }
  Status check(Index exits, Index classes) const {
    return below.check("EntropyBelow", exits, 0, std::log(static_cast<double>(classes)));
  }
};

struct NormalisedEntropyBelow {
  Thresholds below;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k) const noexcept {
    return normalised_entropy(z) < below[k];
  }
  bool asks(Index k) const noexcept { return below[k] > 0; }
  Status check(Index exits, Index classes) const {
    if (classes < 2) {
      return Error{"NormalisedEntropyBelow: classes", "2 or more", std::to_string(classes)};
    }
    return below.check("NormalisedEntropyBelow", exits, 0, 1);
  }
};

struct PowerEntropyBelow {
  Thresholds below;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k) const noexcept {
    return power_entropy(z) < below[k];
  }
  template <class Real>
  bool by_sums(const RowSums<Real>& z, Index k) const noexcept {
    return z.power_entropy() < below[k];
  }
  bool asks(Index k) const noexcept { return below[k] > 0; }
  Status check(Index exits, Index classes) const {
    return below.check("PowerEntropyBelow", exits, 0, std::log(static_cast<double>(classes)));
  }
};

// ── By agreement ─────────────────────────────────────────────────────────────────────────────────

/// Leaves where `times` heads in a row have predicted what the head before them did. Classes 2, 1,
/// 1, 1, 1 with times = 2 leave at the fourth head.
struct Patience {
  int times = 1;

  struct Memory {
    Index last_plus_one = 0;  ///< 0: no head before, or one without an answer
    int agreed = 0;
  };
  template <class Real>
  bool operator()(std::span<const Real> z, Index, Memory& row) const noexcept {
    return agrees(predicted_class(z), row);
  }
  template <class Real>
  bool by_sums(const RowSums<Real>& z, Index, Memory& row) const noexcept {
    return agrees(z.best, row);
  }
  Status check(Index exits, Index) const {
    // the last head may agree too, but takes the row anyway
    if (times >= 1 && (exits == 1 || times < exits)) return {};
    return Error{"Patience: .times", "1 to " + std::to_string(exits - 1) + ", or it never leaves",
                 std::to_string(times)};
  }

 private:
  bool agrees(Index predicted, Memory& row) const noexcept {
    const Index now = predicted + 1;
    row.agreed = now > 0 && now == row.last_plus_one ? row.agreed + 1 : 0;
    row.last_plus_one = now;
    return row.agreed == times;
  }
};

/// Patience for a number instead of a class: leaves where `times` heads in a row are less than
/// `tau` from the one before.
struct PatienceWithin {
  double tau = 0;
  int times = 1;

  struct Memory {
    double last = 0;
    int heads = 0, agreed = 0;
  };
  template <class Real>
  bool operator()(std::span<const Real> z, Index, Memory& row) const noexcept {
    const double now = static_cast<double>(z[0]);
    row.agreed = row.heads++ > 0 && std::abs(now - row.last) < tau ? row.agreed + 1 : 0;
    row.last = now;
    return row.agreed == times;
  }
  Status check(Index exits, Index classes) const {
    if (classes != 1) return Error{"PatienceWithin: classes", "1", std::to_string(classes)};
    if (!(tau > 0)) return Error{"PatienceWithin: .tau", "more than 0", std::to_string(tau)};
    return Patience{times}.check(exits, classes);
  }
};

// ── By time, and without asking ──────────────────────────────────────────────────────────────────

/// Leaves where less time is left than the way to the next exit takes. No lock, no heap: for a
/// loop that has to answer in time. It does not look at the logits.
template <class Clock = std::chrono::steady_clock>
struct Deadline {
  typename Clock::time_point until{};
  Thresholds next_ns = 0;  ///< from each exit to the next, measured where it will run

  template <class Real>
  bool operator()(std::span<const Real>, Index k) const noexcept {
    const std::chrono::duration<double, std::nano> left = until - Clock::now();
    return left.count() < next_ns[k];
  }
  Status check(Index exits, Index) const { return next_ns.check("Deadline", exits, 0, 1e18); }
};

struct AlwaysLeave {
  template <class Real>
  bool operator()(std::span<const Real>, Index) const noexcept {
    return true;
  }
};

struct NeverLeave {
  template <class Real>
  bool operator()(std::span<const Real>, Index) const noexcept {
    return false;
  }
  bool asks(Index) const noexcept { return false; }
};

/// Leaves where one of them does. All are asked, so that each remembers what it saw.
template <class... P>
struct AnyOf {
  Pack<P...> policies;
  using Memory = Pack<exit_memory<P>...>;

  template <class Real>
  bool operator()(std::span<const Real> z, Index k, Memory& row,
                  std::span<const Real> h = {}) const {
    return each([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      return leaves(get<I>(policies), z, k, get<I>(row), h);
    });
  }
  template <class Real>
    requires(detail::reads_sums<P, Real> && ...)
  bool by_sums(const RowSums<Real>& z, Index k, Memory& row) const {
    return each([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      return detail::leaves_by_sums(get<I>(policies), z, k, get<I>(row));
    });
  }
  bool asks(Index k) const {
    return each([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      return asks_exit(get<I>(policies), k);
    });
  }
  Status check(Index exits, Index classes) const {
    Status first;
    each([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      if (first) first = check_exits(get<I>(policies), exits, classes);
      return false;
    });
    return first;
  }

 private:
  template <class F>
  static bool each(F f) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      bool any = false;
      ((any = f(std::integral_constant<std::size_t, I>{}) || any), ...);
      return any;
    }(std::index_sequence_for<P...>{});
  }
};

template <class... P>
AnyOf<P...> any_of(const P&... policies) {
  AnyOf<P...> all;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    ((get<I>(all.policies) = policies), ...);
  }(std::index_sequence_for<P...>{});
  return all;
}

}  // namespace limen::inline LIMEN_ABI
