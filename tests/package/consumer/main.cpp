// A user's first program: a model that learns a little, goes through a file, and streams.
#include <limen/limen.hpp>

#include <cmath>
#include <cstdio>

#if defined(EXPECT_OPENMP) != defined(_OPENMP)
#error "OpenMP comes when asked for, and only then"
#endif

using namespace limen;

constexpr GruConfig memory{.d_in = 5, .d_hidden = 8};
constexpr LinearConfig head{.d_in = 8, .d_out = 3};
using Model = Sequential<Gru<memory>, Linear<head>>;

#if !LIMEN_EXCEPTIONS
/// Where nothing is thrown, an error is an output without rows, and states stay as they were.
bool errors_are_kept() {
  constexpr AttentionConfig heads{.d_model = 4, .n_heads = 2, .capacity = 8};
  using Heads = Attention<heads>;
  Random random(2);
  const auto layer = Heads::initialized(random);
  auto edit = edit_maps([](Index, auto&) {});  // which wants sequences of one length
  Context run{.attention = &edit};
  Heads::State states[2] = {};
  const Index ragged[] = {0, 2, 5};
  const auto y = layer.forward(Sequence<float, 4>::zeros(5), {states, ragged, &run});
  return y.rows() == 0 && states[0].seen == 0 && last_error().has_value();
}
#endif

int main() {
#if !LIMEN_EXCEPTIONS
  if (!errors_are_kept()) return 5;
#endif
  Random random(1);
  auto model = Model::initialized(random);

  Sequence<float, 5> x(4);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i) / 10;
  const int labels[] = {0, 1, 2, 1};
  AdamW<Model> optimizer({.rate = 0.02});
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    Model::Cache cache;
    Model gradient;
    const auto y = forward(model, x, cache);
    const auto loss = cross_entropy(y, labels);
    backward(model, loss.dy, cache, gradient);
    optimizer.update(model, gradient);
    (step == 0 ? first : last) = loss.value;
  }
  if (!(last < first)) return 1;

  const char* const path = "consumer.safetensors";
  Model loaded;
  if (!save(model, path) || !load(loaded, path)) return 2;
  std::remove(path);
  if (load(loaded, "no such file")) return 3;

  const auto fast = prepare(loaded);
  const auto y = forward(model, x);
  Model::State state{};
  for (Index t = 0; t < 4; ++t) {
    const auto y_t = fast.step(x.row(t), state);
    for (Index d = 0; d < 3; ++d) {
      if (!(std::abs(y_t[d] - y(t, d)) <= 1e-5f)) return 4;
    }
  }
  std::printf("limen %s for %s: loss %.3f to %.3f\n", version, isa, first, last);
}
