#pragma once
/// @file  What a mixture chooses from: copies of one layer, or layers of different kinds; and how
/// threads share them.

#include <algorithm>
#include <array>

#include <limen/compose/parts.hpp>
#include <limen/compose/rules.hpp>
#include <limen/core/macs.hpp>
#include <limen/core/parallel.hpp>
#include <limen/kernel/dispatch.hpp>

#if LIMEN_EXCEPTIONS
#include <exception>
#include <vector>
#endif

namespace limen::inline LIMEN_ABI::detail {

LIMEN_RULE(experts_take_the_same, "MixtureOfExperts: all experts must take the same width");
LIMEN_RULE(experts_give_the_same, "MixtureOfExperts: all experts must give the same width");

template <class... Layers>
constexpr bool fit_as_experts() {
  constexpr Index take[] = {Layers::in...}, give[] = {Layers::out...};
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return (experts_take_the_same < take[0] == take[I], layer<0>, takes<take[0]>, layer<I>,
            takes < take[I] >> ::ok && ...) &&
           (experts_give_the_same < give[0] == give[I], layer<0>, gives<give[0]>, layer<I>,
            gives < give[I] >> ::ok && ...);
  }(std::index_sequence_for<Layers...>{});
}

/// macs of L if they do not depend on data, else 0.
template <class L>
constexpr Index macs_if_fixed(Index rows) {
  if constexpr (requires { requires L::work_depends_on_data; }) {
    return 0;
  } else {
    return macs<L>(rows);
  }
}

/// N experts of one kind; the compiler sees it once.
template <Index N, class... Layers>
struct Experts;

template <Index N, class L>
struct Experts<N, L> {
  static constexpr std::size_t count = std::size_t{N};
  static constexpr bool remembers = !std::is_empty_v<typename L::State>;
  static constexpr Index macs_of_row = macs_if_fixed<L>(1);
  using States = std::conditional_t<remembers, std::array<typename L::State, count>,
                                    typename L::State>;  // an array of nothing is not empty
  using Caches = std::array<cache_of<L>, count>;

  std::array<L, count> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    for (std::size_t e = 0; e < count; ++e) f(position_names<count>[e], m.layers[e]...);
  }
  static Experts initialized(Random& random) {
    Experts experts;
    for (L& layer : experts.layers) layer = L::initialized(random);
    return experts;
  }

  /// f(position) for expert e; the position finds its layer, its state, its cache.
  template <class F>
  static void at(Index e, F&& f) {
    f(static_cast<std::size_t>(e));
  }
  template <class A>
  static auto& part(A& all, std::size_t e) {
    if constexpr (std::is_same_v<std::remove_const_t<A>, States> && !remembers) {
      return all;
    } else {
      return all[e];
    }
  }
};

/// One expert of each kind.
template <Index N, class First, class Second, class... Layers>
struct Experts<N, First, Second, Layers...> {
  static constexpr std::size_t count = 2 + sizeof...(Layers);
  static_assert(std::size_t{N} == count,
                "MixtureOfExperts: give one expert, or as many as the router chooses from");
  static constexpr Index macs_of_row = 0;
  using States = Pack<typename First::State, typename Second::State, typename Layers::State...>;
  using Caches = Pack<cache_of<First>, cache_of<Second>, cache_of<Layers>...>;

  Pack<First, Second, Layers...> layers;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    visit_parts<count>(f, m.layers...);
  }
  static Experts initialized(Random& random) {
    return {initialized_parts<First, Second, Layers...>(random)};
  }

  template <class F>
  static void at(Index e, F&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      static_cast<void>(
          ((e == Index{I} && (f(std::integral_constant<std::size_t, I>{}), true)) || ...));
    }(std::make_index_sequence<count>{});
  }
  template <class A, std::size_t I>
  static auto& part(A& all, std::integral_constant<std::size_t, I>) {
    return get<I>(all);
  }
};

/// The experts that have rows, in shares of about the same work, one for each thread. One share
/// where threads help more inside an expert: few rows, or one expert with most of them.
class ExpertShares {
 public:
  /// `row_ns`: what a row takes, about.  `alone`: what the experts use is not for several threads.
  ExpertShares(const Dispatch& plan, double row_ns, bool alone)
      : order_(plan.experts()), starts_(plan.experts() + 1), work_ns_(0) {
    Index busy = 0, total = plan.places();
    for (Index e = 0; e < plan.experts(); ++e) {
      if (plan.count(e) > 0) order_[busy++] = e;
    }
    starts_[0] = 0;
    starts_[1] = busy;
    work_ns_ = row_ns * static_cast<double>(total);
    const Index threads = std::min(Index{Threads::allowed()}, busy);
    if (alone || threads < 2 || work_ns_ < worth_a_thread_ns) return;
    Buffer<Index> by_size(busy), share(plan.experts()), load(threads);
    std::copy(order_.begin(), order_.begin() + busy, by_size.begin());
    std::sort(by_size.begin(), by_size.end(), [&](Index a, Index b) {
      return plan.count(a) != plan.count(b) ? plan.count(a) > plan.count(b) : a < b;
    });
    for (Index& l : load) l = 0;
    for (const Index e : by_size) {  // the largest first, each to who has least
      const Index to = std::min_element(load.begin(), load.end()) - load.begin();
      share[e] = to;
      load[to] += plan.count(e);
    }
    const Index most = *std::max_element(load.begin(), load.end());
    if (4 * most * threads > 5 * total) return;
    count_ = threads;
    for (Index s = 0, at = 0; s < threads; ++s) {
      for (const Index e : by_size) {
        if (share[e] == s) order_[at++] = e;
      }
      starts_[s + 1] = at;
    }
  }

  bool parallel() const { return count_ > 1; }

  /// f(e) for each expert with rows. False if one of them was.
  template <class F>
  bool run(F f) const {
    if (!parallel()) {
      for (Index i = 0; i < starts_[1]; ++i) {
        if (!f(order_[i])) return false;
      }
      return true;
    }
    Buffer<char> failed(count_);
    for (char& no : failed) no = 0;
    const auto serve = [&](Index s) {
      for (Index i = starts_[s]; i < starts_[s + 1] && failed[s] == 0; ++i) {
        if (!f(order_[i])) failed[s] = 1;
      }
    };
#if LIMEN_EXCEPTIONS
    std::vector<std::exception_ptr> thrown(static_cast<std::size_t>(count_));
    parallel_for(count_, work_ns_, [&](Index s) {
      try {
        serve(s);
      } catch (...) {  // an exception must not leave its thread
        thrown[static_cast<std::size_t>(s)] = std::current_exception();
      }
    });
    for (const auto& what : thrown) {
      if (what) std::rethrow_exception(what);
    }
#else
    parallel_for(count_, work_ns_, serve);
#endif
    return std::all_of(failed.begin(), failed.end(), [](char no) { return no == 0; });
  }

 private:
  Buffer<Index> order_, starts_;
  double work_ns_;
  Index count_ = 1;
};

}  // namespace limen::inline LIMEN_ABI::detail
