// Layers of which a part of the channels is closed. Work: flops of what is open.
//
//   exit.width.conv…    a 3 x 3 convolution of 64 to 64 channels on 16 x 16; for each image another
//   exit.width.conv128… half of the channels is closed, outputs only, or inputs as well; and of 128
//   exit.width.linear…  a linear map with gates: one row by step; many share a product of what is
//                       open in any. The gate is a map of the same size, so half is 3/4 of the work
//   exit.width.slim…    a slimmable network of three hidden layers of 512

#include <limen/exit/gated_conv.hpp>
#include <limen/exit/slimmable.hpp>

#include <benchmark/benchmark.h>

#include <string>

namespace {

using namespace limen;

template <GatedConvConfig C>
struct Case {
  using L = GatedConv<C, float>;
  prepared_form<L> layer;
  Sequence<float, L::in> x;

  /// `all`: no output is closed; the gate's answer is fixed by its bias. `half_in`: of the inputs.
  Case(Index rows, bool all, bool half_in) : x(rows) {
    Random random(1);
    L learned = L::initialized(random);
    for (auto& w : learned.gate.weight.flat()) w = 0;
    for (Index o = 0; o < L::O; ++o) learned.gate.bias[o] = all || random.uniform() < 0.5 ? 1 : -1;
    if (!all) {  // exactly half
      for (Index o = 0; o < L::O; ++o) learned.gate.bias[o] = -1;
      for (Index n = 0; n < L::O / 2;) {
        auto& b = learned.gate.bias[static_cast<Index>(random.below(L::O))];
        n += b < 0 ? 1 : 0;
        b = 1;
      }
    }
    layer = prepare(learned);
    for (Index t = 0; t < rows; ++t) {
      for (Index n = 0; n < L::in; ++n) {
        const bool closed = half_in && (n % L::I * 7 + t) % 2 == 0;
        x(t, n) = closed ? 0 : static_cast<float>(random.normal());
      }
    }
  }
};

template <GatedConvConfig C>
void gated(const std::string& name, Index rows) {
  using L = GatedConv<C, float>;
  const auto add = [&](const char* what, bool all, bool half_in) {
    benchmark::RegisterBenchmark(
        ("exit.width." + name + "." + what + "/" + std::to_string(rows)).c_str(),
        [=](benchmark::State& run) {
          const Case<C> c(rows, all, half_in);
          if (L::P == 1 && rows == 1) {
            NoState state;
            for (auto _ : run) benchmark::DoNotOptimize(c.layer.step(c.x.row(0), state));
          } else {
            for (auto _ : run) benchmark::DoNotOptimize(forward(c.layer, c.x).data());
          }
          run.counters["work"] =
              2.0 * static_cast<double>(
                        rows * L::open_macs(half_in ? L::I / 2 : L::I, all ? L::O : L::O / 2));
        })
        ->UseRealTime();
  };
  add("open", true, false);
  add("half", false, false);
  if (L::P > 1) add("half_both", false, true);
}

template <SlimmableConfig C>
void slim(Index rows) {
  using Net = Slimmable<C, float>;
  for (Index k = 0; k < Net::K; ++k) {
    const std::string percent = std::to_string(static_cast<int>(100 * C.widths[k]));
    benchmark::RegisterBenchmark(
        ("exit.width.slim." + percent + "/" + std::to_string(rows)).c_str(),
        [=](benchmark::State& run) {
          Random random(1);
          const auto net = prepare(Net::initialized(random));
          Sequence<float, Net::I> x(rows);
          for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
          for (auto _ : run) benchmark::DoNotOptimize(net.run(x, k).data());
          run.counters["work"] = 2.0 * static_cast<double>(rows * Net::Shape::macs(k));
        })
        ->UseRealTime();
  }
}

const bool registered = [] {
  constexpr GatedConvConfig conv{
      .conv = {.image = {16, 16}, .d_in = 64, .d_out = 64, .padding = {1, 1}},
      .gate = GateKind::straight_through};
  constexpr GatedConvConfig wide{
      .conv = {.image = {16, 16}, .d_in = 128, .d_out = 128, .padding = {1, 1}},
      .gate = GateKind::straight_through};
  constexpr GatedConvConfig map{
      .conv = {.image = {1, 1}, .d_in = 512, .d_out = 512, .kernel = {1, 1}},
      .gate = GateKind::straight_through};
  constexpr SlimmableConfig net{.d_in = 64, .d_hidden = 512, .d_out = 10, .depth = 3};
  for (const Index rows : {1, 256}) {
    gated<conv>("conv", rows);
    gated<wide>("conv128", rows);
    gated<map>("linear", rows);
    slim<net>(rows);
  }
  return true;
}();

}  // namespace
