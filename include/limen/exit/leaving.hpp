#pragma once
/// @file  A run of an EarlyExit in which rows leave: part after part for the rows that are there, a
/// parting of ways at each exit.

#include <algorithm>
#include <numeric>
#include <utility>

#include <limen/exit/asking.hpp>
#include <limen/exit/exit_plan.hpp>
#include <limen/exit/note.hpp>
#include <limen/exit/policies.hpp>
#include <limen/kernel/rows.hpp>

namespace limen::inline LIMEN_ABI::detail {

/// Part I of a network.
template <class Net, std::size_t I>
using part_at = std::remove_cvref_t<decltype(get<I>(std::declval<const Net&>().parts))>;

/// A head with memory has to see the rows; another one only if somebody may leave.
template <class Part, class Policy>
bool has_to_run(const Policy& policy, Index k) {
  return asks_exit(policy, k) || !std::is_empty_v<typename Part::State>;
}

template <class Policy>
inline constexpr bool has_cap =
    requires(const Policy& p, std::span<const Index> left) { p.may_stay(left, Index{}, Index{}); };

// ── Many rows ────────────────────────────────────────────────────────────────────────────────────

template <class Net, class Policy>
struct Leaving {
  using Real = typename Net::Scalar;
  using Plan = typename Net::Plan;
  static constexpr std::size_t depth = Net::depth;
  static constexpr Index C = Net::classes;
  using Logits = Sequence<Real, C>;

  const Net& net;
  const Batch<typename Net::State>& batch;
  const Policy& policy;
  typename Net::Left& left;
  LiveRows<exit_memory<Policy>> live;

  /// Part I and what comes after it. False after an error of a layer.
  template <std::size_t I, class X>
  bool from(X x) {
    constexpr Index k = Plan::exit_of[I];
    if constexpr (!Plan::exit_at[I]) {
      auto y = run<I>(x);
      if (!LIMEN_EXCEPTIONS && y.rows() != live.count) return false;
      x = X();  // its memory serves the layers to come
      return from<I + 1>(std::move(y));
    } else if constexpr (I + 1 == depth) {
      auto z = run<I>(x);
      if (!LIMEN_EXCEPTIONS && z.rows() != live.count) return false;
      left.asked[k] = true;
      arrive(std::move(z));
      return true;
    } else {
      left.asked[k] = has_to_run<part_at<Net, I>>(policy, k);
      if (left.asked[k]) {
        const auto z = run<I>(x);
        if (!LIMEN_EXCEPTIONS && z.rows() != live.count) return false;
        part_ways<k>(z, x);
        if (live.count == 0) return true;
      }
      return from<I + 1>(std::move(x));
    }
  }

 private:
  template <std::size_t I, class X>
  auto run(const X& x) const {
    TapScope scope(batch.context, position_names<depth>[I]);
    return layer_of(get<I>(net.parts))
        .forward(here(x), scope.of(part_of<I>(batch).over(live.offsets.data())));
  }
  /// The rows that are there: of a view all, of memory of ours the first.
  template <Index D>
  SequenceView<Real, D> here(const SequenceView<Real, D>& x) const {
    return x;
  }
  template <Index D>
  SequenceView<Real, D> here(const Sequence<Real, D>& x) const {
    return {x.data(), live.count};
  }

  /// At an exit that is not the last: those who leave are written down, the others close up.
  template <Index k, Index D>
  void part_ways(const Logits& z, Sequence<Real, D>& x) {
    Index stay = ask_rows(policy, here(z), here(x), k, live);
    for (Index j = 0; j < live.count - stay; ++j) write(z, live.gone[j], k);
    if constexpr (has_cap<Policy>) {
      const Index most = policy.may_stay({left.count.data(), std::size_t{k}}, live.count, k);
      if (stay > most) stay = send_away(z, k, stay, std::max<Index>(most, 0));
    }
    left.count[k] = live.count - stay;
    if (stay > 0 && stay < live.count) compact_rows(x.matrix(), live.kept.data(), stay);
    if (stay < live.count) live.compact(stay);
  }

  /// Of those who want to stay only `most` may: the surest go, the first of equals first.
  Index send_away(const Logits& z, Index k, Index stay, Index most) {
    Buffer<double> doubt(stay);
    Buffer<Index> order(stay);
    for (Index j = 0; j < stay; ++j) {
      const double sure = max_probability(logits(z, live.kept[j]));
      doubt[j] = std::isnan(sure) ? 2 : -sure;
    }
    std::iota(order.begin(), order.end(), Index{0});
    const auto surer = [&](Index a, Index b) {
      return doubt[a] < doubt[b] || (doubt[a] == doubt[b] && a < b);
    };
    const Index go = stay - most;
    std::nth_element(order.begin(), order.begin() + (go - 1), order.end(), surer);
    for (Index j = 0; j < go; ++j) {
      write(z, live.kept[order[j]], k);
      live.kept[order[j]] = -1;
    }
    std::remove(live.kept.begin(), live.kept.begin() + stay, Index{-1});
    return most;
  }

  static std::span<const Real> logits(const Logits& z, Index i) {
    return {z.row(i).data(), std::size_t{C}};
  }
  void write(const Logits& z, Index i, Index k) {
    std::copy_n(z.row(i).data(), C, left.logits.row_data(live.id[i]));
    left.exit[live.id[i]] = k;
  }

  void arrive(Logits z) {
    left.count[Net::exits - 1] = live.count;
    for (Index i = 0; i < live.count; ++i) left.exit[live.id[i]] = Net::exits - 1;
    if (live.count == left.logits.rows()) {
      left.logits = std::move(z);
    } else {
      scatter_rows(std::as_const(z).matrix(), live.id.data(), left.logits.matrix());
    }
  }
};

// ── One row ──────────────────────────────────────────────────────────────────────────────────────

template <class Net, class Policy>
struct LeavingStep {
  using Real = typename Net::Scalar;
  using Plan = typename Net::Plan;
  static constexpr Index C = Net::classes;

  const Net& net;
  typename Net::State& state;
  const Policy& policy;
  typename Net::LeftStep& left;
  exit_memory<Policy> memory{};

  template <std::size_t I, class X>
  void from(const X& x) noexcept {
    constexpr Index k = Plan::exit_of[I];
    const auto& layer = layer_of(get<I>(net.parts));
    if constexpr (!Plan::exit_at[I]) {
      from<I + 1>(layer.step(x, get<I>(state)));
    } else if constexpr (I + 1 == Net::depth) {
      left = {layer.step(x, get<I>(state)), k};
    } else {
      if (has_to_run<part_at<Net, I>>(policy, k)) {
        const auto z = layer.step(x, get<I>(state));
        if (goes(z, x, k)) {
          left = {z, k};
          if constexpr (Net::config.skipped == Skipped::note) note_from<I + 1>(x);
          return;
        }
      }
      from<I + 1>(x);
    }
  }

 private:
  template <class X>
  bool goes(const Vector<Real, C>& z, const X& x, Index k) noexcept {
    const bool goes = leaves(policy, std::span<const Real>(z.data(), std::size_t{C}), k, memory,
                             std::span<const Real>(x.data(), static_cast<std::size_t>(X::size())));
    if constexpr (has_cap<Policy>) {
      constexpr std::array<Index, std::size_t{Net::exits}> nobody{};
      const std::span<const Index> before(nobody.data(), static_cast<std::size_t>(k));
      return goes || policy.may_stay(before, 1, k) < 1;
    }
    return goes;
  }

  /// What was skipped takes note of the last x there was.
  template <std::size_t I, class X>
  void note_from(const X& x) noexcept {
    if constexpr (I < Net::depth) {
      using Part = part_at<Net, I>;
      if constexpr (!std::is_empty_v<typename Part::State>) {
        static_assert(Part::in == X::size(),
                      "EarlyExit: .skipped = note needs layers with memory of one width");
        note(layer_of(get<I>(net.parts)), VectorView<Real, Part::in>(x.data()), get<I>(state));
      }
      note_from<I + 1>(x);
    }
  }
};

}  // namespace limen::inline LIMEN_ABI::detail
