#pragma once
/// @file  What minGRU and minLSTM are both asked, besides the laws.

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "../laws.hpp"

namespace min_recurrent {

using namespace limen;

template <class Real, Index D>
Sequence<Real, D> noise(Index rows, Random& random) {
  Sequence<Real, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  return x;
}

/// g has a kink at 0: central differences in float, which must take wide steps, fall over it. What
/// float gradients are worth, the goldens say.
template <class L>
void keeps_the_laws(check::Options options) {
  using Double = typename L::template with_scalar<double>;
  static_assert(check::names_every_member<L>);
  Random random(options.seed);
  laws::hold(Double::initialized(random), options);
  if (L::config.candidate == Candidate::positive) options.slope = 2;
  laws::hold(L::initialized(random), options);
}

/// Of one unit, each of whose pre-activations is an input: [hidden | gates], all as far out as they
/// may be, the gates in turn.
template <class L>
void stays_finite() {
  L layer;
  for (Index i = 0; i < L::P; ++i) layer.weight(i, i) = 1;
  const std::vector<float> extremes{-1e4f, -100, -1, 0, 1, 100, 1e4f};
  for (const float a : extremes) {
    for (const float b : extremes) {
      for (const float hidden : extremes) {
        typename L::State state{}, d_state{};
        typename L::Cache cache;
        L gradient;
        Sequence<float, L::I> x(3);
        for (Index t = 0; t < 3; ++t) {
          x(t, 0) = hidden;
          for (Index i = 1; i < L::I; ++i) x(t, i) = (t == 1) == (i == 1) ? b : a;
        }
        const auto y = layer.forward(std::move(x), state, cache);
        const Sequence<float, 1> dy{{1}, {1}, {1}};
        const auto dx = layer.backward(dy, d_state, cache, gradient);
        INFO(a << ' ' << b << ' ' << hidden);
        const float bound = hidden > 0 ? hidden + 0.5f : 0.5f;
        for (Index t = 0; t < 3; ++t) {
          REQUIRE((y(t, 0) >= 0 && y(t, 0) <= 1.0001f * bound));
          for (Index i = 0; i < L::I; ++i) REQUIRE(std::isfinite(dx(t, i)));
        }
        REQUIRE((d_state.h[0] >= 0 && d_state.h[0] <= 3));
      }
    }
  }
}

template <class L>
void float_follows_double() {
  Random random(4), other(4), numbers(5);
  const auto x = noise<double, L::in>(4096, numbers);
  Sequence<float, L::in> rough(4096);
  for (Index i = 0; i < x.size(); ++i) rough.data()[i] = static_cast<float>(x.data()[i]);
  const auto exact = forward(L::template with_scalar<double>::initialized(random), x);
  const auto y = forward(L::initialized(other), rough);
  for (Index i = 0; i < y.size(); ++i) {
    REQUIRE(std::abs(static_cast<double>(y.data()[i]) - exact.data()[i]) <=
            1e-4 * (1e-2 + std::abs(exact.data()[i])));
  }
}

template <class L>
void two_threads_give_the_bits_of_one() {
  Random random(6);
  const auto layer = L::initialized(random);
  const std::vector<Index> offsets{0, 300, 300, 301, 1000};
  const auto x = noise<float, L::in>(1000, random);
  const auto dy = noise<float, L::out>(1000, random);
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    typename L::Cache cache;
    L gradient;
    const auto y = layer.forward(Sequence<float, L::in>(x), from_rest(offsets), cache);
    const auto dx = layer.backward(dy, from_rest(offsets), cache, gradient);
    std::vector<float> all(y.data(), y.data() + y.size());
    all.insert(all.end(), dx.data(), dx.data() + dx.size());
    all.insert(all.end(), gradient.weight.data(), gradient.weight.data() + gradient.weight.size);
    return all;
  };
  REQUIRE(run(1) == run(2));
}

/// Of first states that the cache does not have.
template <class L>
void refuses_another_batch() {
  const L layer;
  L gradient;
  typename L::Cache cache;
  using Batch = limen::Batch<typename L::State>;
  std::vector<typename L::State> two(2), three(3);
  const std::vector<Index> cut{0, 1, 4}, cut_again{0, 1, 2, 4};
  layer.forward(Sequence<float, L::in>::zeros(4), Batch(two, cut), cache);
  const auto dy = Sequence<float, L::out>::zeros(4);
  REQUIRE_THROWS_AS(layer.backward(dy, Batch(three, cut_again), cache, gradient), Exception);
  REQUIRE(layer.backward(dy, Batch(two, cut), cache, gradient).rows() == 4);
}

template <class L, Index width, class State>
concept steps_with =
    requires(const L layer, Vector<float, width> x, State state) { layer.step(x, state); };

template <class L, class Wider, Index groups>
void names_and_widths() {
  const L layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "weight bias ");
  STATIC_REQUIRE(decltype(L::weight)::shape == std::array<Index, 2>{groups * L::out, L::in});
  STATIC_REQUIRE(L::macs(10) == 10 * groups * L::out * L::in);
  STATIC_REQUIRE(Layer<L>);
  STATIC_REQUIRE(Streaming<prepared_form<L>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<L>>);
  STATIC_REQUIRE(std::is_same_v<typename L::State, typename prepared_form<L>::State>);
  STATIC_REQUIRE(steps_with<L, L::in, typename L::State>);
  STATIC_REQUIRE_FALSE(steps_with<L, L::in + 1, typename L::State>);
  STATIC_REQUIRE_FALSE(steps_with<L, L::in, typename Wider::State>);
}

}  // namespace min_recurrent
