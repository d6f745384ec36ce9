// The recurrences of Gated DeltaNet, gated linear attention and retention, without the projections
// around them. Work: flops of the recurrence, 6 H K V for each row (the delta rule 8); on the way
// back 2.5 times that. Sizes: key heads x value heads x K x V x rows, or heads x K x V x rows.

#include <limen/core/random.hpp>
#include <limen/kernel/delta.hpp>
#include <limen/kernel/keyed_ssd.hpp>
#include <limen/kernel/ssd.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>

namespace {

using namespace limen;

enum class Rule { delta, keys, head };

struct Case {
  Rule rule;
  const char* family;
  Index groups, heads, keys, width, rows;

  std::string name(const char* part) const {
    std::string text = std::string(family) + "." + part + "/";
    if (rule == Rule::delta) text += std::to_string(groups) + "x";
    return text + std::to_string(heads) + "x" + std::to_string(keys) + "x" + std::to_string(width) +
           "x" + std::to_string(rows);
  }
};

/// States of a size known at run time, as a batch of one wants them.
struct State {
  Buffer<float> values;
  float* data() { return values.data(); }
};

struct Operands {
  explicit Operands(const Case& what)
      : c(what),
        q(c.rows * c.groups * c.keys),
        k(q.size()),
        dq(q.size()),
        dk(q.size()),
        v(c.rows * c.heads * c.width),
        y(v.size()),
        dv(v.size()),
        a(c.rows * c.heads * (c.rule == Rule::keys ? c.keys : 1)),
        da(a.size()),
        d(c.rows * c.heads),
        dd(d.size()) {
    Random random(1);
    state.values = Buffer<float>(c.heads * c.keys * c.width);
    const float length = 1 / std::sqrt(static_cast<float>(c.keys));
    for (float& x : q) x = length * static_cast<float>(random.normal());
    for (float& x : k) x = length * static_cast<float>(random.normal());
    for (float& x : v) x = static_cast<float>(random.normal());
    for (float& x : a) x = static_cast<float>(std::exp(-0.05 * random.uniform(0.5, 1.5)));
    for (float& x : d) x = static_cast<float>(random.uniform(0, 1));
    for (float& x : state.values) x = 0;
  }

  static MatrixView<float> rows_of(Buffer<float>& x, Index rows) {
    return {x.data(), rows, x.size() / rows, x.size() / rows};
  }
  StateInputs<float> inputs() {
    const Index T = c.rows;
    StateInputs<float> x{c.heads,       c.groups,      c.keys,        c.width,
                         rows_of(q, T), rows_of(k, T), rows_of(v, T), rows_of(a, T)};
    if (c.rule == Rule::delta) x.d = rows_of(d, T);  // β
    return x;
  }
  void forward(KeptStates<float>* kept = nullptr) {
    const FlushDenormals guard;
    const Batch<State> batch(state);
    const auto to = rows_of(y, c.rows);
    if (c.rule == Rule::delta) return delta_rule(inputs(), batch, to, kept);
    if (c.rule == Rule::keys) return keyed_ssd(inputs(), batch, to, kept);
    ssd(inputs(), batch, to, kept);
  }
  void backward(const KeptStates<float>& kept) {
    const FlushDenormals guard;
    const Batch<State> batch(state);
    const Index T = c.rows;
    const MatrixView<float> dy = rows_of(y, T);
    const StateGradients<float> g{rows_of(dq, T), rows_of(dk, T), rows_of(dv, T), rows_of(da, T),
                                  c.rule == Rule::delta ? rows_of(dd, T) : MatrixView<float>{}};
    if (c.rule == Rule::delta) return delta_rule_backward<float>(inputs(), batch, kept, dy, g);
    if (c.rule == Rule::keys) return keyed_ssd_backward<float>(inputs(), batch, kept, dy, g);
    ssd_backward<float>(inputs(), batch, kept, dy, g);
  }
  void step() {
    const FlushDenormals guard;
    if (c.rule == Rule::delta) return delta_rule_step(inputs(), state.data(), y.data());
    if (c.rule == Rule::keys) return keyed_ssd_step(inputs(), state.data(), y.data());
    ssd_step(inputs(), state.data(), y.data());
  }

  Case c;
  Buffer<float> q, k, dq, dk, v, y, dv, a, da, d, dd;
  State state;
};

double flops(const Case& c) {
  return (c.rule == Rule::delta ? 8.0 : 6.0) *
         static_cast<double>(c.heads * c.keys * c.width * c.rows);
}

void register_case(const Case& c) {
  for (const int threads : {1, 2}) {
    const std::string suffix = threads > 1 ? "/threads:2" : "";
    benchmark::RegisterBenchmark((c.name("forward") + suffix).c_str(), [=](benchmark::State& run) {
      const Threads allowed(threads);
      Operands o(c);
      for (auto _ : run) o.forward();
      run.counters["work"] = flops(c);
      run.counters["threads"] = threads;
    })->UseRealTime();
    benchmark::RegisterBenchmark((c.name("backward") + suffix).c_str(), [=](benchmark::State& run) {
      const Threads allowed(threads);
      Operands o(c);
      KeptStates<float> kept;
      o.forward(&kept);
      for (float& x : o.state.values) x = 0;
      for (auto _ : run) o.backward(kept);
      run.counters["work"] = 2.5 * flops(c);
      run.counters["threads"] = threads;
    })->UseRealTime();
  }
  Case one = c;
  one.rows = 1;
  benchmark::RegisterBenchmark(one.name("step").c_str(), [=](benchmark::State& run) {
    Operands o(one);
    for (auto _ : run) o.step();
    run.counters["work"] = flops(one);
  });
}

void register_all() {
  for (const Index T : {512, 2048}) {
    register_case({Rule::delta, "gated_delta", 16, 32, 128, 128, T});
    register_case({Rule::keys, "gla", 4, 4, 128, 256, T});
    register_case({Rule::head, "retnet", 8, 8, 128, 256, T});
  }
}

const int registered = (register_all(), 0);

}  // namespace
