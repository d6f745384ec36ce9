// Convolutions. Work: bytes read and written once for the depthwise one, flops for the others.

#include <limen/nn/causal_conv.hpp>
#include <limen/nn/conv.hpp>
#include <limen/nn/depthwise_conv.hpp>

#include <benchmark/benchmark.h>

#include <memory>
#include <string>

namespace {

using namespace limen;

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

void state_work(benchmark::State& run, double work, int threads = 1) {
  run.counters["work"] = work;
  run.counters["threads"] = threads;
}

template <class L>
void register_forward(const std::string& name, Index rows, double work, int threads = 1) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    const Threads allowed(threads);
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    const auto x = noise<L::in>(rows);
    for (auto _ : run) benchmark::DoNotOptimize(forward(layer, x).data());
    state_work(run, work, threads);
  })->UseRealTime();
}

template <class L>
void register_backward(const std::string& name, Index rows, double work) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto layer = L::initialized(random);
    L gradient;
    typename L::Cache cache;
    const auto dy = noise<L::out>(rows);
    forward(layer, noise<L::in>(rows), cache);
    for (auto _ : run) benchmark::DoNotOptimize(backward(layer, dy, cache, gradient).data());
    state_work(run, work);
  });
}

template <class L>
void register_step(const std::string& name, double work) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& run) {
    Random random(1);
    const auto layer = prepare(L::initialized(random));
    const auto x = noise<L::in>(1);
    const auto state = std::make_unique<typename L::State>();
    for (auto _ : run) benchmark::DoNotOptimize(layer.step(x.row(0), *state));
    state_work(run, work);
  });
}

template <DepthwiseConvConfig C>
void register_depthwise(const std::string& suffix) {
  using L = DepthwiseConv<C>;
  const double row = 4.0 * C.d;
  for (const Index rows : {64, 512}) {
    const std::string size = suffix + "/" + std::to_string(rows) + "x" + std::to_string(C.d);
    const double all = row * static_cast<double>(rows);
    register_forward<L>("nn.depthwise_conv.forward" + size, rows, 2 * all);
    register_backward<L>("nn.depthwise_conv.backward" + size, rows, 3 * all);
  }
  register_step<L>("nn.depthwise_conv.step" + suffix + "/" + std::to_string(C.d), 2 * row);
}

template <CausalConv1dConfig C>
void register_causal(Index rows) {
  using L = CausalConv1d<C>;
  const std::string size = std::to_string(C.d_in) + "x" + std::to_string(C.d_out) + "x" +
                           std::to_string(C.width) + "d" + std::to_string(C.dilation);
  const double flops = 2.0 * C.d_in * C.d_out * C.width;
  const std::string with_rows = std::to_string(rows) + "x" + size;
  register_forward<L>("nn.causal_conv.forward/" + with_rows, rows,
                      flops * static_cast<double>(rows));
  register_backward<L>("nn.causal_conv.backward/" + with_rows, rows,
                       2 * flops * static_cast<double>(rows));
  register_step<L>("nn.causal_conv.step/" + size, flops);
}

template <Conv2dConfig C>
void register_conv2d(Index rows) {
  using L = Conv2d<C>;
  const std::string size = std::to_string(rows) + "x" + std::to_string(C.image.height) + "x" +
                           std::to_string(C.image.width) + "x" + std::to_string(C.d_in) + "to" +
                           std::to_string(C.d_out) + "k" + std::to_string(C.kernel.height);
  const double flops = 2.0 * static_cast<double>(L::P * L::K * L::O * rows);
  register_forward<L>("nn.conv2d.forward/" + size, rows, flops);
  register_forward<L>("nn.conv2d.forward/" + size + "/threads:2", rows, flops, 2);
  register_backward<L>("nn.conv2d.backward/" + size, rows, 2 * flops);
}

[[maybe_unused]] const bool registered = [] {
  register_depthwise<DepthwiseConvConfig{.d = 256}>("");
  register_depthwise<DepthwiseConvConfig{.d = 1536}>("");
  register_depthwise<DepthwiseConvConfig{.d = 1536, .activation = Activation::silu}>(".silu");
  register_causal<CausalConv1dConfig{.d_in = 16, .d_out = 32, .width = 3}>(512);
  register_causal<CausalConv1dConfig{.d_in = 16, .d_out = 32, .width = 3, .dilation = 64}>(512);
  register_conv2d<Conv2dConfig{.image = {28, 28}, .d_in = 1, .d_out = 32, .padding = {1, 1}}>(8);
  register_conv2d<Conv2dConfig{.image = {14, 14}, .d_in = 64, .d_out = 64, .padding = {1, 1}}>(8);
  register_conv2d<Conv2dConfig{.image = {14, 14}, .d_in = 64, .d_out = 256, .kernel = {1, 1}}>(8);
  return true;
}();

}  // namespace
