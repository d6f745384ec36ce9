#pragma once
/// @file  A layer under examination: what the laws feed it, and how they compare.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <limen/check/report.hpp>
#include <limen/core/layer.hpp>
#include <limen/core/memory.hpp>
#include <limen/core/random.hpp>

namespace limen::inline LIMEN_ABI::check {

template <Runs L>
struct Subject {
  using Layer = L;
  using Real = typename L::Scalar;
  using State = typename L::State;
  static constexpr Index in = L::in, out = L::out;
  using X = Sequence<Real, in>;
  using Y = Sequence<Real, out>;

  const L& layer;
  Options options;
  Random random;
  Report report;

  Subject(const L& l, const Options& o) : layer(l), options(o), random(o.seed) {
    constexpr bool is_double = sizeof(Real) == 8;
    if (options.tolerance == 0) options.tolerance = is_double ? 1e-10 : 2e-4;
    if (options.slope == 0) options.slope = is_double ? 1e-6 : 2e-2;
  }

  template <Index D>
  Sequence<Real, D> noise(Index rows) {
    Sequence<Real, D> x(rows);
    for (Index i = 0; i < x.size(); ++i) {
      x.data()[i] = static_cast<Real>(options.amplitude * random.normal());
    }
    return x;
  }

  /// What the layer is fed: noise, or tokens.
  X inputs(Index rows) {
    if (options.tokens == 0) return noise<in>(rows);
    X x(rows);
    for (Index i = 0; i < x.size(); ++i) {
      x.data()[i] = static_cast<Real>(random.below(static_cast<std::uint64_t>(options.tokens)));
    }
    return x;
  }

  static std::unique_ptr<State> rest() { return std::make_unique<State>(); }

  static const std::vector<Index>& ragged() {
    static const std::vector<Index> offsets{0, 2, 2, 3, 8, 12};
    return offsets;
  }

  std::span<const Index> offsets_of(Index rows) {
    single_[1] = rows;
    return single_;
  }

  Context context() {
    draws_ = Random(options.seed + 17);  // the same for every call
    Context c;
    if (options.random) c.random = &draws_;
    return c;
  }

  std::size_t allocations() const {
    return options.allocations != nullptr ? options.allocations() : pool_allocations();
  }

  /// The state as numbers, if that is what it is made of.
  static constexpr Index state_numbers() {
    if constexpr (std::is_empty_v<State>) {
      return 0;
    } else {
      return static_cast<Index>(sizeof(State) / sizeof(Real));
    }
  }
  static Real* numbers(State& s) { return reinterpret_cast<Real*>(&s); }

  template <class A, class B>
  void compare_rows(const char* law, const std::string& place, const A& got, const B& expected,
                    double tolerance) {
    if (got.rows() != expected.rows()) {
      report.broke(law, place + " rows", static_cast<double>(got.rows()),
                   static_cast<double>(expected.rows()));
      return;
    }
    constexpr Index D = std::is_same_v<A, X> ? in : out;
    for (Index t = 0; t < got.rows(); ++t) {
      for (Index d = 0; d < D; ++d) {
        report.compare(law, place, t * D + d, static_cast<double>(got(t, d)),
                       static_cast<double>(expected(t, d)), tolerance);
      }
    }
  }

  /// What follows from two states must be the same, whatever bytes they are made of.
  void compare_future(const char* law, const std::string& place, State& a, State& b) {
    if constexpr (!std::is_empty_v<State>) {
      const X x = inputs(3);
      const Y from_a = layer.forward(x, a), from_b = layer.forward(x, b);
      compare_rows(law, place + ", state left behind, seen in output", from_a, from_b,
                   options.tolerance);
    }
  }

 private:
  Random draws_{0};
  Index single_[2] = {0, 0};
};

inline std::string length(Index rows) { return std::to_string(rows) + " rows"; }

}  // namespace limen::inline LIMEN_ABI::check
