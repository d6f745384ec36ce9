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
/// the first exit, and the third argument. Beyond that a policy may say
///
///     Status check(Index exits, Index classes) const    is it any use for such a network?
///     bool asks(Index exit) const                       false: nobody leaves there, skip the head
///
/// A confidence that is NaN passes no threshold. Patience: PABEE (Zhou et al., arXiv:2006.04152),
/// with a counter for each row.

#include <array>
#include <chrono>
#include <concepts>
#include <initializer_list>
#include <string>
#include <utility>

#include <limen/core/error.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/pack.hpp>
#include <limen/exit/scores.hpp>

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
    });

template <class P, class Real>
  requires ExitPolicy<P, Real>
bool leaves(const P& policy, std::span<const Real> z, Index k, exit_memory<P>& memory) {
  if constexpr (requires { policy(z, k, memory); }) {
    return policy(z, k, memory);
  } else {
    return policy(z, k);
  }
}

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

/// One number for all exits, or one for each but the last. Takes no memory from the heap.
class Thresholds {
 public:
  static constexpr Index most = 63;

  Thresholds(double all = 0) { values_.fill(all); }  // NOLINT: a number is a threshold
  Thresholds(std::initializer_list<double> each)
      : Thresholds(std::span<const double>(each.begin(), each.size())) {}
  explicit Thresholds(std::span<const double> each) : count_(static_cast<Index>(each.size())) {
    values_.fill(std::numeric_limits<double>::quiet_NaN());  // passes nothing
    std::copy_n(each.begin(), std::min(each.size(), values_.size()), values_.begin());
  }

  double operator[](Index exit) const { return values_[static_cast<std::size_t>(exit)]; }

  /// As many as there are exits, each infinite (nobody, or everybody) or between the two.
  Status check(const char* who, Index exits, double least, double greatest) const {
    if (count_ >= 0 && count_ != exits - 1) {
      return Error{std::string(who) + ": thresholds",
                   "1, or " + std::to_string(exits - 1) + ": all exits but the last",
                   std::to_string(count_)};
    }
    for (Index k = 0; k + 1 < exits; ++k) {
      const double t = (*this)[k];
      if (std::isinf(t) || (t >= least - 1e-12 && t <= greatest + 1e-12)) continue;
      return Error{std::string(who) + ": threshold of exit " + std::to_string(k),
                   std::to_string(least) + " to " + std::to_string(greatest) + ", or infinite",
                   std::to_string(t)};
    }
    return {};
  }

 private:
  std::array<double, std::size_t{most}> values_;
  Index count_ = -1;  ///< -1: one for all
};

// ── By confidence ────────────────────────────────────────────────────────────────────────────────

struct ConfidenceAtLeast {
  Thresholds at_least;
  template <class Real>
  bool operator()(std::span<const Real> z, Index k) const noexcept {
    return max_probability(z) >= at_least[k];
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
    const Index now = predicted_class(z) + 1;
    row.agreed = now > 0 && now == row.last_plus_one ? row.agreed + 1 : 0;
    row.last_plus_one = now;
    return row.agreed == times;
  }
  Status check(Index exits, Index) const {
    // the last head may agree too, but takes the row anyway
    if (times >= 1 && (exits == 1 || times < exits)) return {};
    return Error{"Patience: .times", "1 to " + std::to_string(exits - 1) + ", or it never leaves",
                 std::to_string(times)};
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
  bool operator()(std::span<const Real> z, Index k, Memory& row) const {
    return each([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      return leaves(get<I>(policies), z, k, get<I>(row));
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
