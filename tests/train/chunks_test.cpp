#include <limen/compose/sequential.hpp>
#include <limen/nn/dropout.hpp>
#include <limen/nn/gru.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/chunks.hpp>
#include <limen/train/loss.hpp>

#include <cmath>

#include "../catch.hpp"

using namespace limen;

namespace {

using Model = Sequential<Gru<GruConfig{.d_in = 3, .d_hidden = 5}, double>,
                         Linear<LinearConfig{.d_in = 5, .d_out = 2}, double>>;
constexpr Index rows = 11;

Sequence<double, 3> inputs() {
  Random random(1);
  Sequence<double, 3> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

const auto loss = [](SequenceView<double, 2> y, Index first) {
  Sequence<double, 2> target(y.rows());
  for (Index t = 0; t < y.rows(); ++t) {
    target(t, 0) = std::sin(static_cast<double>(first + t));
    target(t, 1) = static_cast<double>((first + t) % 3);
  }
  return mean_squared_error(y, target, Reduction::sum);
};

double distance(const Model& a, const Model& b) {
  double most = 0;
  for_each_tensor(
      [&](const auto& x, const auto& y) {
        for (Index i = 0; i < x.size; ++i) most = std::max(most, std::abs(x[i] - y[i]));
      },
      a, b);
  return most;
}

struct Run {
  double loss;
  Model gradient{};
  Model::State state{};
};

Run in_chunks(const Model& model, ChunkOptions options) {
  Run run;
  run.loss = add_gradient_in_chunks(model, inputs(), run.state, options, loss, run.gradient);
  return run;
}

Model model() {
  Random random(2);
  return Model::initialized(random);
}

}  // namespace

TEST_CASE("One window over all chunks gives the gradient of the whole", "[train][chunks]") {
  const Model m = model();
  Run whole;
  Model::Cache cache;
  const auto y = m.forward(inputs(), Batch<Model::State>(whole.state), cache);
  const auto l = loss(y, 0);
  m.backward(l.dy, Batch<Model::State>(), cache, whole.gradient);
  for (const Index chunk : {1, 4, 11, 50}) {
    const Run run = in_chunks(m, {.rows = chunk, .window = 11});
    INFO("chunks of " << chunk);
    REQUIRE(run.loss == Approx(l.value).epsilon(1e-12));
    REQUIRE(distance(run.gradient, whole.gradient) < 1e-12);
    for (Index h = 0; h < 5; ++h) {
      REQUIRE(std::abs(get<0>(run.state).h[h] - get<0>(whole.state).h[h]) < 1e-14);
    }
  }
}

TEST_CASE("No gradient leaves its window, states do", "[train][chunks]") {
  const Model m = model();
  const Run run = in_chunks(m, {.rows = 4, .window = 1});
  Run alone;  // each chunk by itself, from the state it started with
  alone.loss = 0;
  for (Index first = 0; first < rows; first += 4) {
    const Index count = std::min<Index>(4, rows - first);
    Model::Cache cache;
    const auto x = inputs();
    const auto y =
        m.forward(middle_rows(x, first, count).copy(), Batch<Model::State>(alone.state), cache);
    const auto l = loss(y, first);
    alone.loss += l.value;
    m.backward(l.dy, Batch<Model::State>(), cache, alone.gradient);
  }
  REQUIRE(run.loss == Approx(alone.loss).epsilon(1e-12));
  REQUIRE(distance(run.gradient, alone.gradient) < 1e-12);
  const Run whole = in_chunks(m, {.rows = 4, .window = 3});
  REQUIRE(run.loss == Approx(whole.loss).epsilon(1e-12));
  REQUIRE(distance(run.gradient, whole.gradient) > 1e-3);
  // Two windows: the first reaches over two chunks.
  const Run two = in_chunks(m, {.rows = 4, .window = 2});
  REQUIRE(distance(two.gradient, whole.gradient) > 1e-4);
  REQUIRE(distance(two.gradient, run.gradient) > 1e-4);
}

TEST_CASE("A second call goes on from the state and adds", "[train][chunks]") {
  const Model m = model();
  const auto x = inputs();
  const auto later = [](auto y, Index first) { return loss(y, first + 8); };
  const Run whole = in_chunks(m, {.rows = 4, .window = 1});
  Run run;
  run.loss =
      add_gradient_in_chunks(m, middle_rows(x, 0, 8), run.state, {.rows = 4}, loss, run.gradient);
  run.loss +=
      add_gradient_in_chunks(m, middle_rows(x, 8, 3), run.state, {.rows = 4}, later, run.gradient);
  REQUIRE(run.loss == Approx(whole.loss).epsilon(1e-12));
  REQUIRE(distance(run.gradient, whole.gradient) < 1e-12);
}

TEST_CASE("Chunks hand the run's generator on", "[train][chunks]") {
  using Dropping = Sequential<Dropout<DropoutConfig{.d = 3, .rate = 0.5}, double>,
                              Linear<LinearConfig{.d_in = 3, .d_out = 2}, double>>;
  Random random(3);
  const auto m = Dropping::initialized(random);
  const auto run = [&](Context* context) {
    Dropping gradient;
    Dropping::State state;
    return add_gradient_in_chunks(m, inputs(), state, {.rows = 4}, loss, gradient, context);
  };
  Context context{.random = &random};
  REQUIRE(run(nullptr) == run(nullptr));
  REQUIRE(run(&context) != run(nullptr));
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Chunks without rows are refused", "[train][chunks]") {
  REQUIRE_THROWS_AS(in_chunks(model(), {.rows = 0}), Exception);
  REQUIRE_THROWS_AS(in_chunks(model(), {.window = 0}), Exception);
}
#endif
