#include <limen/nn/gru.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/nn/linear.hpp>

#include <string>
#include <vector>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Gru keeps the laws of layers", "[nn][gru][laws]", ((GruConfig C), C),
                       (GruConfig{.d_in = 1, .d_hidden = 1}),
                       (GruConfig{.d_in = 2, .d_hidden = 3, .bias = false}),
                       (GruConfig{.d_in = 3, .d_hidden = 17}),
                       (GruConfig{.d_in = 5, .d_hidden = 32}),
                       (GruConfig{.d_in = 2, .d_hidden = 70})) {
  laws::hold_in_double_and_float<Gru<C>>({.most_slopes = 60});
}

TEST_CASE("The program of the README runs", "[nn][gru]") {
  constexpr GruConfig memory{.d_in = 8, .d_hidden = 32};
  constexpr LinearConfig head{.d_in = 32, .d_out = 10};
  using Model = Sequential<Gru<memory>, Linear<head>>;
  Random random(1);
  const auto learning = Model::initialized(random);
  const auto model = prepare(learning);
  Model::State state{}, same{};
  const Vector<float, 8> x{1, 0, 1};
  const auto y = model.step(x, state), expected = learning.step(x, same);
  for (Index i = 0; i < 10; ++i) REQUIRE(std::abs(y[i] - expected[i]) < 1e-6f);
  REQUIRE(y[0] != 0);
}

TEST_CASE("A unit without weights opens its gates half", "[nn][gru]") {
  // r = z = 1/2; n = tanh(b_in + r b_hn) = tanh(1/2 + 1/2 · 1); h = n / 2, then n / 2 + h / 2
  Gru<GruConfig{.d_in = 1, .d_hidden = 1}, double> layer;
  layer.bias_ih[2] = 0.5;
  layer.bias_hh[2] = 1;
  const auto y = forward(layer, Sequence<double, 1>{{3}, {-4}});
  REQUIRE(y(0, 0) == Approx(0.380797).epsilon(1e-6));
  REQUIRE(y(1, 0) == Approx(0.571196).epsilon(1e-6));
}

TEST_CASE("An update gate that stays shut keeps the state", "[nn][gru]") {
  constexpr GruConfig c{.d_in = 1, .d_hidden = 2};
  Gru<c> layer;
  layer.bias_ih[2] = 40;   // z = 1: keeps
  layer.bias_ih[3] = -40;  // z = 0: rewrites, with n = 0
  GruState<float, 2> state{};
  state.h[0] = state.h[1] = 0.75f;
  const auto gates = layer.gates(Vector<float, 1>{7}, state);
  REQUIRE(gates.update[0] == 1);
  REQUIRE(gates.update[1] < 1e-16f);
  REQUIRE(gates.reset[0] == 0.5f);
  REQUIRE(state.h[0] == 0.75f);  // looking moves nothing
  layer.step(Vector<float, 1>{7}, state);
  REQUIRE(state.h[0] == 0.75f);
  REQUIRE(std::abs(state.h[1]) < 1e-16f);
}

TEMPLATE_TEST_CASE_SIG("Both forms of a Gru show the same gates", "[nn][gru]", ((Index H), H), 1, 8,
                       17, 70) {
  constexpr GruConfig c{.d_in = 3, .d_hidden = H};
  Random random(5);
  const auto layer = Gru<c>::initialized(random);
  const auto fast = prepare(layer);
  GruState<float, H> state{};
  layer.step(Vector<float, 3>{1, -2, 3}, state);
  const Vector<float, 3> x{2, 0, -1};
  const auto a = layer.gates(x, state), b = fast.gates(x, state);
  static_assert(noexcept(fast.gates(x, state)));
  const Vector<float, H> before = VectorView<float, H>(state.h).copy();
  const auto y = layer.step(x, state);
  for (Index j = 0; j < H; ++j) {
    REQUIRE(std::abs(a.update[j] - b.update[j]) < 1e-6f);
    REQUIRE(std::abs(a.reset[j] - b.reset[j]) < 1e-6f);
    // h = n + z (h - n) with |n| <= 1
    REQUIRE(std::abs(y[j] - a.update[j] * before[j]) <= 1 - a.update[j] + 1e-6f);
  }
}

namespace {

/// Ragged sequences, one empty, as rows back to back.
template <Index I>
struct Ragged {
  std::vector<Index> offsets{0, 40, 41, 41, 90, 100, 165};
  Sequence<float, I> x{165};
  Ragged() {
    Random random(11);
    for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  }
};

template <class A, class B>
bool same_bits(const A& a, const B& b) {
  const auto bytes = static_cast<std::size_t>(a.rows() * A::width) * sizeof(typename A::Scalar);
  return a.rows() == b.rows() && (bytes == 0 || std::memcmp(a.data(), b.data(), bytes) == 0);
}

template <class L>
void bits_are_those_of_each_alone(const L& layer) {
  const Ragged<L::in> r;
  const auto together = layer.forward(r.x, from_rest(r.offsets));
  {
    const Threads two(2);
    REQUIRE(same_bits(together, layer.forward(r.x, from_rest(r.offsets))));
  }
  for (std::size_t b = 0; b + 1 < r.offsets.size(); ++b) {
    const Index first = r.offsets[b], rows = r.offsets[b + 1] - first;
    const auto alone = forward(layer, middle_rows(r.x, first, rows));
    REQUIRE(same_bits(alone, middle_rows(together, first, rows)));
    const Threads two(2);
    REQUIRE(same_bits(alone, forward(layer, middle_rows(r.x, first, rows))));
  }
}

}  // namespace

TEMPLATE_TEST_CASE_SIG("A sequence has the same bits in any company and on two threads",
                       "[nn][gru][threads]", ((Index I, Index H), I, H), (5, 32), (70, 7),
                       (64, 150)) {
  constexpr GruConfig c{.d_in = I, .d_hidden = H};
  Random random(2);
  const auto layer = Gru<c>::initialized(random);
  bits_are_those_of_each_alone(layer);
  bits_are_those_of_each_alone(prepare(layer));
}

TEST_CASE("Long sequences share their units among threads without changing a bit",
          "[nn][gru][threads]") {
  constexpr GruConfig c{.d_in = 4, .d_hidden = 300};  // a step is worth a meeting
  Random random(2);
  const auto layer = prepare(Gru<c>::initialized(random));
  bits_are_those_of_each_alone(layer);
}

TEST_CASE("Gradients of a ragged batch have the same bits on two threads", "[nn][gru][threads]") {
  constexpr GruConfig c{.d_in = 6, .d_hidden = 40};
  Random random(3);
  const auto layer = Gru<c>::initialized(random);
  const Ragged<6> r;
  Gru<c> gradients[2];
  Sequence<float, 6> dx[2];
  for (const int threads : {1, 2}) {
    const Threads scope(threads);
    const auto i = static_cast<std::size_t>(threads - 1);
    Gru<c>::Cache cache;
    const auto y = layer.forward(Sequence<float, 6>(r.x), from_rest(r.offsets), cache);
    dx[i] = layer.backward(y, from_rest(r.offsets), cache, gradients[i]);
  }
  REQUIRE(same_bits(dx[0], dx[1]));
  for_each_tensor([](const auto& a, const auto& b) { REQUIRE(a == b); }, gradients[0],
                  gradients[1]);
}

TEST_CASE("Gru names its parameters as PyTorch's files do", "[nn][gru]") {
  const Gru<GruConfig{.d_in = 3, .d_hidden = 5}> layer;
  std::string names;
  for_each_parameter([&](const std::string& name, const auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "weight_ih weight_hh bias_ih bias_hh ");
  REQUIRE(parameter_count(layer) == 15 * (3 + 5 + 2));
}

// What must not compile: the inference form does not learn, and a state fits its width only.
using Learning = Gru<GruConfig{.d_in = 2, .d_hidden = 3}>;
static_assert(Layer<Learning>);
static_assert(Streaming<prepared_form<Learning>> && !Trainable<prepared_form<Learning>>);
template <class L, class X, class State>
concept StepsWith = requires(L layer, X x, State state) { layer.step(x, state); };
static_assert(StepsWith<Learning, Vector<float, 2>, GruState<float, 3>>);
static_assert(!StepsWith<Learning, Vector<float, 3>, GruState<float, 3>>);
static_assert(!StepsWith<Learning, Vector<float, 2>, GruState<float, 4>>);
