#include <limen/ssm/mamba.hpp>

#include <cmath>
#include <limits>

#include <limen/io/checkpoint.hpp>

#include "../goldens/ssm_mamba.hpp"
#include "../io/temporary.hpp"
#include "../laws.hpp"
#include "streams.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("Mamba keeps the laws of layers", "[ssm][mamba][laws]", ((MambaConfig C), C),
                       (MambaConfig{.d_model = 1, .d_state = 1, .d_conv = 2, .expand = 1}),
                       (MambaConfig{.d_model = 3, .d_state = 5, .dt_rank = 2, .bias = true}),
                       (MambaConfig{.d_model = 9, .d_state = 4, .d_conv = 3, .conv_bias = false})) {
  laws::hold_in_double_and_float<Mamba<C>>({.rows = 19});
}

namespace {

template <MambaConfig C>
void randomize_rates(Mamba<C, double>& layer, Random& random) {
  for (double& a : layer.A_log.flat()) a += 0.3 * random.normal();
  for (double& d : layer.skip.flat()) d += 0.3 * random.normal();
}

}  // namespace

TEST_CASE("Mamba keeps the laws with rates that are no powers of one", "[ssm][mamba][laws]") {
  Random random(5);
  constexpr MambaConfig c{.d_model = 10, .d_state = 16};
  auto layer = Mamba<c, double>::initialized(random);
  randomize_rates(layer, random);
  REQUIRE_FALSE(prepare(layer).A_log.powers());
  laws::hold(layer, {.rows = 21, .most_slopes = 60});
}

TEST_CASE("A new Mamba has rates that are powers of one, and its inference form knows",
          "[ssm][mamba]") {
  Random random(1);
  constexpr MambaConfig c{.d_model = 20};
  REQUIRE(prepare(Mamba<c, float>::initialized(random)).A_log.powers());
  REQUIRE(prepare(Mamba<c, double>::initialized(random)).A_log.powers());
  auto layer = Mamba<c, float>::initialized(random);
  layer.A_log[7] += 1e-5f;
  REQUIRE_FALSE(prepare(layer).A_log.powers());
}

namespace {

/// Rows before the convolution, and the scan's state as the equations index it.
template <class State>
std::vector<double> state_numbers(const State& state, Index E, Index N) {
  auto all = golden::in_a_row(state.conv.past);
  for (Index e = 0; e < E; ++e) {
    for (Index n = 0; n < N; ++n) all.push_back(static_cast<double>(state.scan[scan_at(e, n, N)]));
  }
  return all;
}

template <MambaConfig C>
void is_golden(const golden::Run& run, golden::Parameters parameters, golden::Numbers state) {
  golden::check_in_double_and_float<Mamba<C>>(run, parameters);
  golden::check_last_state<Mamba<C>>(
      run.x, parameters, [](const auto& S) { return state_numbers(S, Mamba<C>::E, Mamba<C>::N); },
      state);
}

}  // namespace

// The numbers: tests/goldens/ssm_diagonal.py, mamba(): transformers' MambaMixer.
#define LIMEN_PARAMETERS(g)                                                             \
  {g::conv1d_weight, g::d_conv1d_weight}, {g::conv1d_bias, g::d_conv1d_bias},           \
      {g::x_proj_weight, g::d_x_proj_weight}, {g::dt_proj_weight, g::d_dt_proj_weight}, \
      {g::dt_proj_bias, g::d_dt_proj_bias}, {g::A_log, g::d_A_log}, {g::D, g::d_D}, {   \
    g::out_proj_weight, g::d_out_proj_weight                                            \
  }

TEST_CASE("Mamba computes what transformers does", "[ssm][mamba][golden]") {
  {
    namespace g = goldens::ssm::mamba_0;
    constexpr MambaConfig c{.d_model = 1, .d_state = 1, .d_conv = 2, .dt_rank = 1};
    is_golden<c>({g::x, g::y, g::dy, g::dx},
                 {{g::in_proj_weight, g::d_in_proj_weight}, LIMEN_PARAMETERS(g)}, g::state);
  }
  {
    namespace g = goldens::ssm::mamba_1;
    constexpr MambaConfig c{.d_model = 3, .d_state = 5, .dt_rank = 2, .bias = true};
    is_golden<c>({g::x, g::y, g::dy, g::dx},
                 {{g::in_proj_weight, g::d_in_proj_weight},
                  {g::in_proj_bias, g::d_in_proj_bias},
                  LIMEN_PARAMETERS(g),
                  {g::out_proj_bias, g::d_out_proj_bias}},
                 g::state);
  }
  {
    namespace g = goldens::ssm::mamba_2;
    constexpr MambaConfig c{.d_model = 9, .dt_rank = 1};
    is_golden<c>({g::x, g::y, g::dy, g::dx},
                 {{g::in_proj_weight, g::d_in_proj_weight}, LIMEN_PARAMETERS(g)}, g::state);
  }
}

TEST_CASE("Mamba names its parameters as published checkpoints do", "[ssm][mamba]") {
  constexpr MambaConfig c{.d_model = 768};
  using Layer = Mamba<c>;
  const auto layer = std::make_unique<Layer>();
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, *layer);
  REQUIRE(names ==
          "in_proj.weight conv1d.weight conv1d.bias x_proj.weight dt_proj.weight dt_proj.bias "
          "A_log D out_proj.weight ");
  // mamba-130m: 24 such layers with a norm each, an embedding of 50280 and a last norm.
  REQUIRE(24 * (parameter_count(*layer) + 768) + 50280 * 768 + 768 == 129135360);
}

namespace {
constexpr MambaConfig narrow{.d_model = 5}, wide{.d_model = 17};
constexpr auto parts = [](auto& state, auto f) { f(state.conv.past, state.scan); };
}  // namespace

TEST_CASE("States of Mamba are values", "[ssm][mamba]") {
  streams::are_values<Mamba<narrow>, Mamba<wide>>();
  streams::fall_silent<Mamba<narrow>>(parts);
}

TEST_CASE("Sequences of Mamba do not see each other", "[ssm][mamba]") {
  streams::long_batches_are_their_sequences<Mamba<narrow>>();
  streams::keep_nan_to_themselves<Mamba<narrow>>();
}

TEST_CASE("Mamba does not drift in a million steps", "[ssm][mamba][.slow]") {
  streams::do_not_drift<Mamba<MambaConfig{.d_model = 2, .d_state = 4}>>(parts, 2e-5);
}

TEST_CASE("Mamba takes steps from tiny to huge", "[ssm][mamba]") {
  using Layer = Mamba<narrow>;
  const auto bias = [](Layer& layer, float value) { fill(layer.dt_proj.bias, value); };
  const auto rate = [](Layer& layer, float value) { fill(layer.A_log, value); };
  streams::stays_finite_for_any_step<Layer>(bias, {-1e4, -90, -20, 0, 20, 90, 1e4});
  streams::stays_finite_for_any_step<Layer>(rate, {-90, -20, 0, 20, 80});
}

TEST_CASE("Mamba gives the same bits for two threads as for one", "[ssm][mamba]") {
  Random random(2);
  constexpr MambaConfig c{.d_model = 64};
  const auto layer = Mamba<c>::initialized(random);
  Sequence<float, 64> x(300);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const std::vector<Index> offsets{0, 40, 41, 300};
  const auto run = [&](int count, decltype(layer)::Cache& cache, Mamba<c>& gradient) {
    const Threads threads(count);
    auto y = layer.forward(Sequence<float, 64>(x), from_rest(offsets), cache);
    return std::pair(std::move(y), layer.backward(x, from_rest(offsets), cache, gradient));
  };
  decltype(layer)::Cache cache;
  Mamba<c> g1, g2;
  const auto one = run(1, cache, g1), two = run(2, cache, g2);
  for (Index i = 0; i < one.first.size(); ++i) {
    REQUIRE(one.first.data()[i] == two.first.data()[i]);
    REQUIRE(one.second.data()[i] == two.second.data()[i]);
  }
  for_each_parameter(
      [](const std::string& name, const auto& a, const auto& b) {
        INFO(name);
        REQUIRE(a == b);
      },
      g1, g2);
}

TEST_CASE("Mamba says which of its numbers is none", "[ssm][mamba]") {
  Random random(2);
  constexpr MambaConfig c{.d_model = 3};
  auto layer = Mamba<c>::initialized(random);
  REQUIRE(layer.check());
  layer.dt_proj.bias[4] = std::numeric_limits<float>::infinity();
  REQUIRE_FALSE(layer.check());
  REQUIRE(layer.check().error().message() ==
          "dt_proj.bias: wanted finite numbers, found inf at element 4");
  layer.dt_proj.bias[4] = 0;
  layer.A_log[2] = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(layer.check().error().who == "A_log");
}

TEST_CASE("A step size that is no number is not loaded into Mamba", "[ssm][mamba]") {
  auto layer = streams::drawn<Mamba<narrow>>(3);
  const auto before = layer;
  auto broken = layer;
  broken.dt_proj.bias[4] = std::numeric_limits<float>::infinity();
  const Temporary folder;
  const std::string path = folder.path("broken.safetensors");
  REQUIRE(save(broken, path));
  REQUIRE(load(layer, path).error().message() ==
          "dt_proj.bias: wanted finite numbers, found inf at element 4 in broken.safetensors");
  REQUIRE(layer.dt_proj.bias == before.dt_proj.bias);
}

namespace {
template <class L, class State>
concept steps_with =
    requires(const L layer, Vector<float, L::in> x, State state) { layer.step(x, state); };
}  // namespace

TEST_CASE("Mamba needs its own state, which its inference form shares", "[ssm][mamba]") {
  using Layer = Mamba<MambaConfig{.d_model = 3}>;
  using Larger = Mamba<MambaConfig{.d_model = 3, .d_state = 17}>;
  STATIC_REQUIRE(limen::Layer<Layer>);
  STATIC_REQUIRE(std::is_same_v<Layer::State, prepared_form<Layer>::State>);
  STATIC_REQUIRE(Streaming<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(Trainable<prepared_form<Layer>>);
  STATIC_REQUIRE_FALSE(steps_with<Layer, Larger::State>);
}
