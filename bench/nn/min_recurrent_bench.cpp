// minGRU, minLSTM and the leaky RNN. Sizes are HxT: inputs and hidden units as many, rows, and with
// a third number so many sequences of that length. Work: flops of the products.

#include <limen/nn/min_gru.hpp>
#include <limen/nn/min_lstm.hpp>
#include <limen/nn/rnn.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

namespace {

using namespace limen;

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

std::vector<Index> equal(Index sequences, Index length) {
  std::vector<Index> offsets;
  for (Index b = 0; b <= sequences; ++b) offsets.push_back(b * length);
  return offsets;
}

struct Size {
  Index length, sequences;
  int threads;
};

template <class L>
std::string name_of(const std::string& what, Size s) {
  std::string name = what + "/" + std::to_string(L::out) + "x" + std::to_string(s.length);
  if (s.sequences > 1) name += "x" + std::to_string(s.sequences);
  if (s.threads > 1) name += "/threads:" + std::to_string(s.threads);
  return name;
}

/// `products`: matrices of H x H that a row meets.
template <class L>
void state_work(benchmark::State& run, Size s, double products) {
  run.counters["work"] =
      2 * products * static_cast<double>(L::out * L::out * s.length * s.sequences);
  run.counters["threads"] = s.threads;
}

template <class L>
void add_forward(const std::string& layer_name, double products, Size s) {
  benchmark::RegisterBenchmark(name_of<L>(layer_name + ".forward", s).c_str(), [=](benchmark::State&
                                                                                       run) {
    const Threads allowed(s.threads);
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    const auto offsets = equal(s.sequences, s.length);
    const auto x = noise<L::in>(offsets.back());
    for (auto _ : run) benchmark::DoNotOptimize(layer.forward(x, from_rest(offsets)).data());
    state_work<L>(run, s, products);
  })->UseRealTime();
}

/// Forward and backward; the gradient of the input too.
template <class L>
void add_training(const std::string& layer_name, double products, Size s) {
  benchmark::RegisterBenchmark(
      name_of<L>(layer_name + ".training", s).c_str(),
      [=](benchmark::State& run) {
        const Threads allowed(s.threads);
        Random random(1);
        const auto layer = L::initialized(random);
        L gradient;
        typename L::Cache cache;
        const auto offsets = equal(s.sequences, s.length);
        const auto x = noise<L::in>(offsets.back());
        const auto dy = noise<L::out>(offsets.back());
        for (auto _ : run) {
          layer.forward(Sequence<float, L::in>(x), from_rest(offsets), cache);
          benchmark::DoNotOptimize(layer.backward(dy, from_rest(offsets), cache, gradient).data());
        }
        state_work<L>(run, s, 3 * products);
      })
      ->UseRealTime();
}

template <class L>
void add_step(const std::string& layer_name, double products) {
  const Size s{1, 1, 1};
  benchmark::RegisterBenchmark((layer_name + ".step/" + std::to_string(L::out)).c_str(),
                               [=](benchmark::State& run) {
                                 Random random(1);
                                 const auto layer = prepare(L::initialized(random));
                                 const auto x = noise<L::in>(1);
                                 const auto state = std::make_unique<typename L::State>();
                                 for (auto _ : run) {
                                   benchmark::DoNotOptimize(layer.step(x.row(0), *state));
                                 }
                                 state_work<L>(run, s, products);
                               });
}

template <class L>
void add(const std::string& name, double products) {
  add_step<L>(name, products);
  for (const Size s : {Size{512, 1, 1}, {512, 1, 2}, {128, 16, 1}, {128, 16, 2}}) {
    if (s.threads == 2 && L::out < 256) continue;
    add_forward<L>(name, products, s);
    add_training<L>(name, products, s);
  }
}

template <Index H>
void add_width() {
  add<MinGru<MinGruConfig{.d_in = H, .d_hidden = H}>>("min_gru", 2);
  add<MinLstm<MinLstmConfig{.d_in = H, .d_hidden = H}>>("min_lstm", 3);
  add<Rnn<RnnConfig{.d_in = H, .d_hidden = H}>>("rnn", 2);
}

[[maybe_unused]] const bool registered = [] {
  add_width<64>();
  add_width<256>();
  add_width<512>();
  return true;
}();

}  // namespace
