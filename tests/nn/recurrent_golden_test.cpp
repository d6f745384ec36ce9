// GRU and LSTM against PyTorch, from a given first state, gradients of first states included. The
// numbers: tests/goldens/nn_recurrent.py.
#include <limen/nn/gru.hpp>
#include <limen/nn/lstm.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/nn_recurrent.hpp"

using namespace limen;
using golden::Numbers;

namespace {

struct States {
  Numbers first, last, d_last, d_first;
};

/// One part of a state, as golden::same wants to see it.
template <class Real, Index H>
void set(Fixed<Real, H>& part, Numbers from) {
  REQUIRE(from.size() == static_cast<std::size_t>(H));
  for (Index j = 0; j < H; ++j) part[j] = static_cast<Real>(from[static_cast<std::size_t>(j)]);
}
template <class Real, Index H>
void same(const char* what, const Fixed<Real, H>& part, Numbers expected, double tolerance) {
  golden::same(what, std::span<const Real>(part.data(), static_cast<std::size_t>(H)), expected,
               tolerance);
}

/// `parts` are the members of the state that `states` speak of.
template <class L, class... Part>
void check(const golden::Run& run, std::initializer_list<golden::Parameter> parameters,
           double tolerance, std::initializer_list<States> states, Part... parts) {
  using Real = typename L::Scalar;
  L layer, gradient;
  auto from = parameters.begin();
  for_each_tensor(
      [&](auto& tensor) {
        REQUIRE(static_cast<std::size_t>(tensor.size) == from->value.size());
        for (Index i = 0; i < tensor.size; ++i) {
          tensor[i] = static_cast<Real>(from->value[static_cast<std::size_t>(i)]);
        }
        ++from;
      },
      layer);
  REQUIRE(from == parameters.end());
  const auto sequence = [](auto width, Numbers values) {
    Sequence<Real, width> s(static_cast<Index>(values.size()) / width);
    for (Index i = 0; i < s.size(); ++i) {
      s.data()[i] = static_cast<Real>(values[static_cast<std::size_t>(i)]);
    }
    return s;
  };
  const auto x = sequence(std::integral_constant<Index, L::in>{}, run.x);
  const auto dy = sequence(std::integral_constant<Index, L::out>{}, run.dy);
  typename L::State state{}, fast{}, slope{};
  auto s = states.begin();
  ((set(state.*parts, s->first), set(slope.*parts, s->d_last), ++s), ...);
  fast = state;
  typename L::Cache cache;
  golden::same("prepared y", prepare(layer).forward(x, fast), run.y, tolerance);
  golden::same("y", layer.forward(Sequence<Real, L::in>(x), state, cache), run.y, tolerance);
  s = states.begin();
  ((same("last state", state.*parts, s->last, tolerance),
    same("prepared last state", fast.*parts, s->last, tolerance), ++s),
   ...);
  golden::same("dx", layer.backward(dy, slope, cache, gradient), run.dx, tolerance);
  s = states.begin();
  ((same("gradient of the first state", slope.*parts, s->d_first, tolerance), ++s), ...);
  from = parameters.begin();
  for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        golden::same(name.c_str(), tensor.flat(), from->gradient, tolerance);
        ++from;
      },
      gradient);
}

template <GruConfig C>
void check_gru(const golden::Run& run, std::initializer_list<golden::Parameter> parameters,
               const States& h) {
  check<Gru<C, double>>(run, parameters, 1e-10, {h}, &Gru<C, double>::State::h);
  check<Gru<C, float>>(run, parameters, 1e-5, {h}, &Gru<C, float>::State::h);
}
template <LstmConfig C>
void check_lstm(const golden::Run& run, std::initializer_list<golden::Parameter> parameters,
                const States& h, const States& c) {
  using D = typename Lstm<C, double>::State;
  using F = typename Lstm<C, float>::State;
  check<Lstm<C, double>>(run, parameters, 1e-10, {h, c}, &D::h, &D::c);
  check<Lstm<C, float>>(run, parameters, 1e-5, {h, c}, &F::h, &F::c);
}

}  // namespace

#define LIMEN_RUN(g) {g::x, g::y, g::dy, g::dx}
#define LIMEN_WEIGHTS(g) \
  {g::weight_ih, g::d_weight_ih}, { g::weight_hh, g::d_weight_hh }
#define LIMEN_BIASES(g) \
  {g::bias_ih, g::d_bias_ih}, { g::bias_hh, g::d_bias_hh }
#define LIMEN_STATE(g, s) {g::s##_first, g::s##_last, g::d_##s##_last, g::d_##s##_first}

TEST_CASE("Gru computes what PyTorch does", "[nn][gru][golden]") {
  namespace a = goldens::nn::gru_1;
  namespace b = goldens::nn::gru_5;
  namespace c = goldens::nn::gru_9;
  check_gru<GruConfig{.d_in = 1, .d_hidden = 1}>(LIMEN_RUN(a), {LIMEN_WEIGHTS(a), LIMEN_BIASES(a)},
                                                 LIMEN_STATE(a, h));
  check_gru<GruConfig{.d_in = 3, .d_hidden = 5}>(LIMEN_RUN(b), {LIMEN_WEIGHTS(b), LIMEN_BIASES(b)},
                                                 LIMEN_STATE(b, h));
  check_gru<GruConfig{.d_in = 2, .d_hidden = 9, .bias = false}>(LIMEN_RUN(c), {LIMEN_WEIGHTS(c)},
                                                                LIMEN_STATE(c, h));
}

TEST_CASE("Lstm computes what PyTorch does", "[nn][lstm][golden]") {
  namespace a = goldens::nn::lstm_1;
  namespace b = goldens::nn::lstm_5;
  namespace c = goldens::nn::lstm_9;
  check_lstm<LstmConfig{.d_in = 1, .d_hidden = 1}>(
      LIMEN_RUN(a), {LIMEN_WEIGHTS(a), LIMEN_BIASES(a)}, LIMEN_STATE(a, h), LIMEN_STATE(a, c));
  check_lstm<LstmConfig{.d_in = 3, .d_hidden = 5}>(
      LIMEN_RUN(b), {LIMEN_WEIGHTS(b), LIMEN_BIASES(b)}, LIMEN_STATE(b, h), LIMEN_STATE(b, c));
  check_lstm<LstmConfig{.d_in = 2, .d_hidden = 9, .bias = false}>(
      LIMEN_RUN(c), {LIMEN_WEIGHTS(c)}, LIMEN_STATE(c, h), LIMEN_STATE(c, c));
}

#undef LIMEN_STATE
#undef LIMEN_BIASES
#undef LIMEN_WEIGHTS
#undef LIMEN_RUN
