#pragma once
/// @file  What the tests of layers with matrix states share.

#include <limen/core/parallel.hpp>

#include <limits>
#include <memory>
#include <vector>

#include "../goldens/golden.hpp"
#include "../laws.hpp"

namespace matrix_state {

using namespace limen;

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

template <class L>
Sequence<typename L::Scalar, L::in> noise(Index rows, std::uint64_t seed, double amplitude = 1) {
  using Real = typename L::Scalar;
  Random random(seed);
  Sequence<Real, L::in> x(rows);
  for (Index i = 0; i < x.size(); ++i) {
    x.data()[i] = static_cast<Real>(amplitude * random.normal());
  }
  return x;
}

/// The state S that a golden run of L leaves behind: state_of(State&) against `expected`.
template <class L, class F>
void ends_in(golden::Numbers x, std::initializer_list<golden::Parameter> parameters, F state_of,
             golden::Numbers expected) {
  using Real = typename L::Scalar;
  const auto layer = std::make_unique<L>();
  auto from = parameters.begin();
  for_each_tensor(
      [&](auto& tensor) {
        for (Index i = 0; i < tensor.size; ++i) {
          tensor[i] = static_cast<Real>(from->value[static_cast<std::size_t>(i)]);
        }
        ++from;
      },
      *layer);
  Sequence<Real, L::in> rows(static_cast<Index>(x.size()) / L::in);
  for (Index i = 0; i < rows.size(); ++i) {
    rows.data()[i] = static_cast<Real>(x[static_cast<std::size_t>(i)]);
  }
  const auto state = std::make_unique<typename L::State>();
  layer->forward(rows, *state);
  const auto& S = state_of(*state);
  golden::same("state", std::span(S.data(), static_cast<std::size_t>(S.size)), expected, 1e-10);
}

/// Output, gradients and last state of a layer with a member `s` in its state.
template <class L>
void is_golden(const golden::Run& run, std::initializer_list<golden::Parameter> parameters,
               golden::Numbers state, double rough = 1e-4) {
  golden::check_in_double_and_float<L>(run, parameters, rough);
  ends_in<typename L::template with_scalar<double>>(
      run.x, parameters, [](auto& S) -> auto& { return S.s; }, state);
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
  L whole, parts;
  forward(layer, x, cache);
  const auto dx = backward(layer, dy, cache, whole);
  const auto state = std::make_unique<State>(), d_state = std::make_unique<State>();
  layer.forward(middle_rows(x, 0, at).copy(), *state, head);
  layer.forward(middle_rows(x, at, rows - at).copy(), *state, tail);
  const auto d_tail = layer.backward(middle_rows(dy, at, rows - at), *d_state, tail, parts);
  const auto d_head = layer.backward(middle_rows(dy, 0, at), *d_state, head, parts);
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
      whole, parts);
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
  Random random(10);
  const auto layer = L::initialized(random);
  for (const double amplitude : {0.0, 1e-6, 100.0, 1e4}) {
    typename L::Cache cache;
    L gradient;
    const auto y = forward(layer, noise<L>(70, 11, amplitude), cache);
    const auto dx = backward(layer, noise<L>(70, 12), cache, gradient);
    INFO("amplitude " << amplitude);
    for (Index i = 0; i < y.size(); ++i) REQUIRE(std::isfinite(y.data()[i]));
    for (Index i = 0; i < dx.size(); ++i) REQUIRE(std::isfinite(dx.data()[i]));
    for_each_parameter(
        [](const std::string& name, const auto& g) {
          INFO(name);
          for (const auto v : g.flat()) REQUIRE(std::isfinite(v));
        },
        gradient);
  }
}

/// After a million steps float is where double is.
template <class L>
void does_not_drift(double tolerance) {
  Random random(13), copy(13);
  using Exact = typename L::template with_scalar<double>;
  const auto rough = L::initialized(random);
  const auto exact = Exact::initialized(copy);
  const auto state = std::make_unique<typename L::State>();
  const auto exact_state = std::make_unique<typename Exact::State>();
  constexpr Index piece = 1000;
  for (Index done = 0; done < 1'000'000; done += piece) {
    const auto x = noise<L>(piece, static_cast<std::uint64_t>(done));
    Sequence<double, L::in> same(piece);
    for (Index i = 0; i < x.size(); ++i) same.data()[i] = static_cast<double>(x.data()[i]);
    const auto y = rough.forward(x, *state);
    const auto expected = exact.forward(same, *exact_state);
    if (done + piece < 1'000'000) continue;
    for (Index i = 0; i < y.size(); ++i) {
      REQUIRE(std::abs(static_cast<double>(y.data()[i]) - expected.data()[i]) <=
              tolerance * (1 + std::abs(expected.data()[i])));
    }
  }
}

}  // namespace matrix_state
