#include <limen/spiking/temporal_batch_norm.hpp>

#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG("TemporalBatchNorm keeps the laws of layers", "[spiking][norm][laws]",
                       ((TemporalBatchNormConfig C), C),
                       (TemporalBatchNormConfig{.d = 17, .threshold = 0.5}),
                       (TemporalBatchNormConfig{
                           .d = 3, .positions = 2, .kind = TimeNorm::scaled, .steps = 20}),
                       (TemporalBatchNormConfig{.d = 5, .kind = TimeNorm::each, .steps = 16})) {
  check::Options options{.training_is_inference = false, .rows_are_independent = false};
  laws::hold_in_double_and_float<TemporalBatchNorm<C>>(options);
}

namespace {

template <TimeNorm Kind>
constexpr TemporalBatchNormConfig two{
    .d = 2, .kind = Kind, .steps = Kind == TimeNorm::together ? 0 : 2, .threshold = 0.5};

/// Two sequences of two steps.
const Index offsets[]{0, 2, 4};
const Sequence<double, 2> x{{1, 2}, {3, -2}, {-1, 6}, {9, 2}};

template <TimeNorm Kind>
Sequence<double, 2> trained_output() {
  using Norm = TemporalBatchNorm<two<Kind>, double>;
  Random random(1);
  Norm norm = Norm::initialized(random);
  if constexpr (Kind == TimeNorm::scaled) norm.scale[1] = 3;
  typename Norm::Cache cache;
  return norm.forward(Sequence<double, 2>(x), from_rest(offsets), cache);
}

double hat(double v, double mean, double var) { return (v - mean) / std::sqrt(var + 1e-5); }

}  // namespace

TEST_CASE("Temporal batch norms measure over what they say", "[spiking][norm]") {
  const auto together = trained_output<TimeNorm::together>();  // channel 0: 1 3 -1 9
  REQUIRE(std::abs(together(1, 0) - 0.5 * hat(3, 3, 14)) < 1e-12);
  REQUIRE(std::abs(together(3, 0) - 0.5 * hat(9, 3, 14)) < 1e-12);
  const auto scaled = trained_output<TimeNorm::scaled>();
  REQUIRE(std::abs(scaled(2, 0) - hat(-1, 3, 14)) < 1e-12);
  REQUIRE(std::abs(scaled(3, 0) - 3 * hat(9, 3, 14)) < 1e-12);
  const auto each = trained_output<TimeNorm::each>();  // step 0: 1 -1, step 1: 3 9
  REQUIRE(std::abs(each(0, 0) - hat(1, 0, 1)) < 1e-12);
  REQUIRE(std::abs(each(3, 0) - hat(9, 6, 9)) < 1e-12);
}

namespace {

template <TimeNorm Kind>
void folds() {
  using Norm = TemporalBatchNorm<two<Kind>, double>;
  using Map = Linear<LinearConfig{.d_in = 3, .d_out = 2}, double>;
  Random random(2);
  const Map map = Map::initialized(random);
  Norm norm = Norm::initialized(random);
  for_each_tensor(
      [&](auto& tensor) {
        for (double& v : tensor.flat()) v = random.uniform(0.5, 2);
      },
      norm);
  Sequence<double, 3> rows(2);
  for (Index i = 0; i < rows.size(); ++i) rows.data()[i] = random.normal();
  const auto y = forward(norm, forward(map, rows));
  for (Index t = 0; t < 2; ++t) {
    const auto one = forward(fold(map, norm, t), middle_rows(rows, t, 1));
    for (Index c = 0; c < 2; ++c) REQUIRE(std::abs(one(0, c) - y(t, c)) < 1e-12);
  }
}

}  // namespace

TEST_CASE("A Linear takes in the temporal batch norm behind it", "[spiking][norm]") {
  folds<TimeNorm::together>();
  folds<TimeNorm::scaled>();
  folds<TimeNorm::each>();
}

TEST_CASE("A temporal batch norm refuses more steps than it has", "[spiking][norm]") {
  using Norm = TemporalBatchNorm<two<TimeNorm::each>>;
  Random random(1);
  const Norm norm = Norm::initialized(random);
  Norm::State state;
  REQUIRE_THROWS_WITH(norm.forward(Sequence<float, 2>{{1, 1}, {1, 1}, {1, 1}}, state),
                      has_part("at most 2") && has_part("found 3"));
  REQUIRE(state.step_number() == 0);
  norm.step(Vector<float, 2>{1, 1}, state);
  REQUIRE_FALSE(std::isnan(norm.step(Vector<float, 2>{1, 1}, state)[0]));
  REQUIRE(std::isnan(norm.step(Vector<float, 2>{1, 1}, state)[0]));
  STATIC_REQUIRE(Layer<Norm>);
}
