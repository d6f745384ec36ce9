#pragma once
/// @file  What the tests of layers with matrix states share.

#include <limen/core/parallel.hpp>

#include <memory>
#include <vector>

#include "../goldens/golden.hpp"
#include "../laws.hpp"
#include "streams.hpp"

namespace matrix_state {

using namespace limen;

/// The numbers of a state: rows before the convolution, if there is one, and the matrix.
inline constexpr auto parts = [](auto& state, auto f) {
  if constexpr (requires { state.ssm; }) {
    f(state.conv.past, state.ssm);
  } else if constexpr (requires { state.conv[2]; }) {
    f(state.conv[0].past, state.conv[1].past, state.conv[2].past, state.s);
  } else if constexpr (requires { state.conv; }) {
    f(state.conv.past, state.s);
  } else {
    f(state.s);
  }
};

/// The laws in double, and in float with rough slopes: a norm over a few numbers bends so much that
/// differences of float outputs are off by several per cent.
template <class L>
void keeps_the_laws(check::Options options = {}) {
  static_assert(check::names_every_member<L>, "a member is missing from visit, or named twice");
  Random random(options.seed);
  laws::hold(L::template with_scalar<double>::initialized(random), options);
  options.slope = 0.2;
  laws::hold(L::template with_scalar<float>::initialized(random), options);
}

template <class L>
std::string names() {
  std::string all;
  const L layer;
  for_each_parameter([&](const std::string& name, auto&) { all += name + ' '; }, layer);
  return all;
}

template <class L, Index width, class State>
concept steps_with =
    requires(const L layer, Vector<float, width> x, State state) { layer.step(x, state); };

using streams::noise;

/// Output, gradients and last state of a golden run of L.
template <class L>
void is_golden(const golden::Run& run, golden::Parameters parameters, golden::Numbers state) {
  golden::check_in_double_and_float<L>(run, parameters);
  golden::check_last_state<L>(
      run.x, parameters, [](auto& S) { return streams::numbers_of(S, parts); }, state);
}

/// A long sequence, across chunks and segments: whole, cut anywhere, and step by step.
template <class L>
void is_one_sequence(Index rows, double tolerance) {
  Random random(3);
  const auto layer = L::initialized(random);
  const auto x = noise<L>(rows, 4);
  using State = typename L::State;
  const auto whole = std::make_unique<State>(), cut = std::make_unique<State>();
  const auto stepped = std::make_unique<State>();
  const auto y = layer.forward(x, *whole);
  const auto near = [&](double got, double expected) {
    return std::abs(got - expected) <= tolerance * (1 + std::abs(expected));
  };
  for (const Index at : {Index{1}, Index{32}, rows / 2 + 1, rows - 3}) {
    *cut = State{};
    const auto head = layer.forward(middle_rows(x, 0, at), *cut);
    const auto tail = layer.forward(middle_rows(x, at, rows - at), *cut);
    for (Index t = 0; t < rows; ++t) {
      for (Index d = 0; d < L::out; ++d) {
        INFO("cut at " << at << ", row " << t);
        REQUIRE(near(static_cast<double>(t < at ? head(t, d) : tail(t - at, d)),
                     static_cast<double>(y(t, d))));
      }
    }
  }
  for (Index t = 0; t < rows; ++t) {
    const auto row = layer.step(x.row(t), *stepped);
    for (Index d = 0; d < L::out; ++d) {
      INFO("step " << t);
      REQUIRE(near(static_cast<double>(row[d]), static_cast<double>(y(t, d))));
    }
  }
}

/// The gradient of a sequence, cut in two with the gradient of the state carried back over the cut,
/// is the gradient of the whole.
template <class L>
void gradients_cross_a_cut(Index rows, Index at, double tolerance) {
  Random random(5);
  const auto layer = L::initialized(random);
  const auto x = noise<L>(rows, 6);
  const auto dy = noise<L>(rows, 7);
  using State = typename L::State;
  typename L::Cache cache, head, tail;
  L whole, both;
  forward(layer, x, cache);
  const auto dx = backward(layer, dy, cache, whole);
  const auto state = std::make_unique<State>(), d_state = std::make_unique<State>();
  layer.forward(middle_rows(x, 0, at).copy(), *state, head);
  layer.forward(middle_rows(x, at, rows - at).copy(), *state, tail);
  const auto d_tail = layer.backward(middle_rows(dy, at, rows - at), *d_state, tail, both);
  const auto d_head = layer.backward(middle_rows(dy, 0, at), *d_state, head, both);
  for (Index t = 0; t < rows; ++t) {
    for (Index d = 0; d < L::in; ++d) {
      const auto got = static_cast<double>(t < at ? d_head(t, d) : d_tail(t - at, d));
      INFO("row " << t);
      REQUIRE(std::abs(got - static_cast<double>(dx(t, d))) <= tolerance * (1 + std::abs(got)));
    }
  }
  for_each_parameter(
      [&](const std::string& name, const auto& a, const auto& b) {
        for (Index i = 0; i < a.size; ++i) {
          INFO(name << ' ' << i);
          REQUIRE(std::abs(static_cast<double>(a[i] - b[i])) <=
                  tolerance * (1 + std::abs(static_cast<double>(a[i]))));
        }
      },
      whole, both);
}

/// The same bits from one thread, two and three, there and back.
template <class L>
void has_the_same_bits_on_any_threads(Index rows) {
  Random random(8);
  const auto layer = L::initialized(random);
  const auto x = noise<L>(rows, 9);
  const std::vector<Index> offsets{0, rows / 3, rows / 3, rows};
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    typename L::Cache cache;
    L gradient;
    const auto y = layer.forward(Sequence(x), from_rest(offsets), cache);
    const auto dx = layer.backward(y, from_rest(offsets), cache, gradient);
    std::vector<typename L::Scalar> all(y.data(), y.data() + y.size());
    all.insert(all.end(), dx.data(), dx.data() + dx.size());
    for_each_tensor([&](const auto& g) { all.insert(all.end(), g.data(), g.data() + g.size); },
                    gradient);
    return all;
  };
  const auto once = run(1);
  for (const int threads : {2, 3}) {
    const auto again = run(threads);
    REQUIRE(std::memcmp(once.data(), again.data(), once.size() * sizeof(once[0])) == 0);
  }
}

/// Inputs of any size give finite outputs and gradients.
template <class L>
void stays_finite() {
  for (const double amplitude : {0.0, 1e-6, 100.0, 1e4}) {
    INFO("amplitude " << amplitude);
    streams::stays_finite(streams::drawn<L>(10), amplitude);
  }
}

}  // namespace matrix_state
