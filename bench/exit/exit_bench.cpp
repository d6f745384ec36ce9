// What leaving early saves: eight maps of width D with a bend after each, heads of ten classes
// after the second, fourth, sixth and eighth. Thresholds are set so that a quarter of the rows
// leaves at each exit, unless the policy says otherwise.
//
//   exit.network.run      all rows in one batch, those that stay close up; work: flops that ran
//   exit.network.single   the same rows one by one
//   exit.saved.POLICY     the same two beside the network without exits, in turns:
//                         `time`, `macs` saved as shares, `ratio` = time / macs
//   exit.overhead.POLICY  asking and closing up alone; `share` of the network without exits
//   exit.deadline         steps that have to be done at a random time: `late_p9999`, `late_most` in
//                         ns, `stage` the longest way from an exit to the next (median), `after`
//                         steps later than asked, `misses` later than by a stage while nobody took
//                         the core away, `interrupted` while somebody did

#include <limen/compose/sequential.hpp>
#include <limen/exit/budget.hpp>
#include <limen/exit/caps.hpp>
#include <limen/exit/exit_gates.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/exit/step_times.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <memory>
#include <string>

namespace {

using namespace limen;
using Time = std::chrono::steady_clock;
using Ns = std::chrono::duration<double, std::nano>;

template <Index D>
using Map = Linear<LinearConfig{.d_in = D, .d_out = D}>;
template <Index D>
using Bend = Activate<ActivateConfig{.d = D, .activation = Activation::silu}>;
template <Index D>
using Two = Sequential<Map<D>, Bend<D>, Map<D>, Bend<D>>;
template <Index D>
using Head = Linear<LinearConfig{.d_in = D, .d_out = 10}>;
template <Index D>
using Net = EarlyExit<Two<D>, Exit<Head<D>>, Two<D>, Exit<Head<D>>, Two<D>, Exit<Head<D>>, Two<D>,
                      Exit<Head<D>>>;
template <Index D>
using Full = Sequential<Two<D>, Two<D>, Two<D>, Two<D>, Head<D>>;

template <Index D>
Sequence<float, D> noise(Index rows) {
  Random random(1);
  Sequence<float, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  return x;
}

/// Three networks of the same layers, and rows whose ways through them are known.
template <Index D>
struct Bed {
  prepared_form<Net<D>> net;
  prepared_form<Full<D>> full;
  Sequence<float, D> x;
  std::vector<int> labels;

  explicit Bed(Index rows) : x(noise<D>(rows)), labels(static_cast<std::size_t>(rows)) {
    Random random(1);
    auto learned = Net<D>::initialized(random);
    for_each_tensor(  // keeps the size of rows: the heads of all depths have something to tell
        [](auto& w) {
          for (auto& v : w.flat()) v *= 3;
        },
        learned);
    for (const auto bias :  // heads that often agree, for the patient
         {get<1>(learned.parts).head.bias.data(), get<3>(learned.parts).head.bias.data(),
          get<5>(learned.parts).head.bias.data()}) {
      *bias = 2;
    }
    net = prepare(learned);
    Full<D> plain{{get<0>(learned.parts), get<2>(learned.parts), get<4>(learned.parts),
                   get<6>(learned.parts), get<7>(learned.parts).head}};
    full = prepare(plain);
  }

  /// For a score that is larger where a head is surer.
  template <class Score>
  std::vector<double> thresholds(double share, Score score) const {
    const auto record = record_exits(net, SequenceView<float, D>(x), {}, labels, score);
    return *thresholds_for_shares(record, std::vector<double>{share, share, share, 1 - 3 * share});
  }
  std::vector<double> confidences(double share) const {
    auto t = thresholds(share, [](auto z) { return max_probability(z); });
    for (double& v : t) v = std::min(v, 1.0);  // what nobody reaches is asked all the same
    return t;
  }
  double macs(const auto& policy) const {
    return static_cast<double>(executed_macs<prepared_form<Net<D>>>(net.run(x, {}, policy)));
  }
  double dense_macs() const { return static_cast<double>(limen::dense_macs<Net<D>>(x.rows())); }

  void run_full() const { benchmark::DoNotOptimize(forward(full, x).data()); }
  void step_full() const {
    typename prepared_form<Full<D>>::State none{};
    for (Index t = 0; t < x.rows(); ++t) {
      benchmark::DoNotOptimize(full.step(x.row(t), none)[0]);
    }
  }
  void run(const auto& policy) const {
    benchmark::DoNotOptimize(net.run(x, {}, policy).logits.data());
  }
  void step(const auto& policy) const {
    typename Net<D>::State none{};
    for (Index t = 0; t < x.rows(); ++t) {
      benchmark::DoNotOptimize(net.step(x.row(t), none, policy).exit);
    }
  }
};

template <Index D>
const Bed<D>& bed() {
  static const Bed<D> bed(256);
  return bed;
}

template <class F>
benchmark::internal::Benchmark* add(const std::string& name, F run) {
  return benchmark::RegisterBenchmark(name.c_str(), run);
}

template <Index D>
std::string size() {
  return "/256x" + std::to_string(D);
}

// ── Networks ─────────────────────────────────────────────────────────────────────────────────────

template <Index D>
void networks() {
  add("exit.network.run" + size<D>() + "/full", [](benchmark::State& state) {
    for (auto _ : state) bed<D>().run_full();
    state.counters["work"] = 2 * bed<D>().dense_macs();
  });
  add("exit.network.single" + size<D>() + "/full", [](benchmark::State& state) {
    for (auto _ : state) bed<D>().step_full();
    state.counters["work"] = 2 * bed<D>().dense_macs();
  });
  for (const int percent : {0, 10, 25, 30}) {
    const std::string leave = size<D>() + "/leave:" + std::to_string(percent);
    const auto both = [=](bool one_by_one) {
      return [=](benchmark::State& state) {
        const ConfidenceAtLeast policy{Thresholds(bed<D>().confidences(percent / 100.0))};
        for (auto _ : state) {
          if (one_by_one) {
            bed<D>().step(policy);
          } else {
            bed<D>().run(policy);
          }
        }
        state.counters["work"] = 2 * bed<D>().macs(policy);
      };
    };
    add("exit.network.run" + leave, both(false));
    add("exit.network.single" + leave, both(true));
  }
}

// ── Saved ────────────────────────────────────────────────────────────────────────────────────────

double median(std::vector<double> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}
double ns_of(const auto& run) {
  const auto start = Time::now();
  run();
  return Ns(Time::now() - start).count();
}

template <Index D, class Make>
void saved(const std::string& policy, Make make) {
  for (const bool one_by_one : {false, true}) {
    add("exit.saved." + policy + size<D>() + (one_by_one ? "/batch:1" : "/batch:256"),
        [=](benchmark::State& state) {
          const auto& b = bed<D>();
          const auto leaves = make(b);
          std::vector<double> with, without, ratio;
          const double macs = 1 - b.macs(leaves) / b.dense_macs();
          for (auto _ : state) {  // in turns: the machine is faster in one minute than in the next
            without.push_back(ns_of([&] { one_by_one ? b.step_full() : b.run_full(); }));
            with.push_back(ns_of([&] { one_by_one ? b.step(leaves) : b.run(leaves); }));
            state.SetIterationTime(with.back() * 1e-9);
          }
          const double time = 1 - median(with) / median(without);
          state.counters["work"] = 2 * b.macs(leaves);
          state.counters["time"] = time;
          state.counters["macs"] = macs;
          state.counters["ratio"] = time / macs;
        })
        ->UseManualTime();
  }
}

template <Index D>
ExitGates<3> gates_for(const Bed<D>& b) {
  ExitGates<3> gates;  // wide open where max p is above a threshold, else shut
  const auto t = b.confidences(0.25);
  for (Index l = 0; l < 3; ++l) {
    gates.weight(l, 0) = 1e6F;
    gates.bias[l] = static_cast<float>(-1e6 * t[static_cast<std::size_t>(l)]);
  }
  return gates;
}

/// f(name, maker of the policy)
template <Index D, class F>
void for_each_policy(F f) {
  using B = Bed<D>;
  f("confidence", [](const B& b) { return ConfidenceAtLeast{Thresholds(b.confidences(0.25))}; });
  f("margin", [](const B& b) {
    const auto t = b.thresholds(0.25, [](auto z) { return probability_margin(z); });
    return MarginAtLeast{Thresholds(t)};
  });
  f("entropy", [](const B& b) {
    const auto t = b.thresholds(0.25, [](auto z) { return -entropy(z); });
    return EntropyBelow{Thresholds(below(t))};
  });
  f("power_entropy", [](const B& b) {
    const auto t = b.thresholds(0.25, [](auto z) { return -power_entropy(z); });
    return PowerEntropyBelow{Thresholds(below(t))};
  });
  f("patience", [](const B&) { return Patience{.times = 1}; });
  f("gates", [](const B& b) { return gates_for(b); });
  f("any_of", [](const B& b) {
    return any_of(ConfidenceAtLeast{Thresholds(b.confidences(0.25))}, Patience{.times = 2});
  });
  f("batch_budget", [](const B& b) {
    constexpr auto cost = exit_macs<Net<D>>();
    return BatchBudget{ConfidenceAtLeast{Thresholds(b.confidences(0.1))}, cost, 0.6 * cost[3]};
  });
  f("deadline", [](const B&) {  // too late for all
    return Deadline<>{};
  });
  f("always", [](const B&) { return AlwaysLeave{}; });
}

// ── Overhead ─────────────────────────────────────────────────────────────────────────────────────

/// What a run does between its layers, all three times, with the logits that are there.
template <Index D, class Policy>
void part_ways(const std::vector<Sequence<float, 10>>& z, const Policy& policy,
               Sequence<float, D>& x, Exits<float, 10, 4>& left) {
  detail::LiveRows<exit_memory<Policy>> live(x.rows(), Batch<NoState>());
  for (Index k = 0; k < 3; ++k) {
    const auto& logits = z[static_cast<std::size_t>(k)];
    const Index stay = detail::ask_rows(policy, SequenceView<float, 10>(logits.data(), live.count),
                                        SequenceView<float, D>(x.data(), live.count), k, live);
    for (Index j = 0; j < live.count - stay; ++j) {
      const Index t = live.id[live.gone[j]];
      std::copy_n(logits.row(live.gone[j]).data(), 10, left.logits.row_data(t));
      left.exit[t] = k;
    }
    if (stay < live.count) {
      compact_rows(x.matrix(), live.kept.data(), stay);
      live.compact(stay);
    }
  }
  benchmark::ClobberMemory();
}

template <Index D, class Make>
void overhead(const std::string& policy, Make make) {
  add("exit.overhead." + policy + size<D>(), [=](benchmark::State& state) {
    const auto& b = bed<D>();
    const auto leaves = make(b);
    const auto y = forward(b.net, b.x);
    const auto ways = b.net.run(b.x, {}, leaves);
    std::vector<Sequence<float, 10>> z(3, Sequence<float, 10>::zeros(256));
    for (Index k = 0; k < 3; ++k) {  // of the rows that get there
      for (Index t = 0, i = 0; t < 256; ++t) {
        if (ways.exit[t] < k) continue;
        std::copy_n(y.row(t).data() + 10 * k, 10, z[static_cast<std::size_t>(k)].row_data(i++));
      }
    }
    auto x = b.x;
    Exits<float, 10, 4> left;
    left.logits = Sequence<float, 10>(256);
    left.exit = Buffer<Index>(256);
    std::vector<double> own, whole;
    for (auto _ : state) {
      whole.push_back(ns_of([&] { b.run_full(); }));
      own.push_back(ns_of([&] {
                      for (int i = 0; i < 8; ++i) part_ways(z, leaves, x, left);
                    }) /
                    8);
      state.SetIterationTime(own.back() * 1e-9);
    }
    state.counters["work"] = 256;
    state.counters["share"] = median(own) / median(whole);
  })->UseManualTime();
}

// ── Deadline ─────────────────────────────────────────────────────────────────────────────────────

long switches() {
  rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
}

template <Index D>
void deadline(benchmark::State& state) {
  constexpr double safe = 0.9999;
  const Bed<D> b(64);
  const auto times = measure_step_times(b.net, SequenceView<float, D>(b.x), 100000);
  const Deadline<> plan{.until = {}, .next_ns = times.next_ns(safe)};
  const double first = times.least_ns(safe);
  double stage = 0, whole = first;
  for (std::size_t k = 0; k < 4; ++k) stage = std::max(stage, times.quantile(k, 0.5));
  for (std::size_t k = 1; k < 4; ++k) whole += times.quantile(k, safe);
  typename Net<D>::State none{};
  Random random(3);
  std::vector<double> late;
  double after = 0, misses = 0, interrupted = 0, exits = 0;
  long before = switches();
  for (auto _ : state) {
    auto policy = plan;
    const Index row = static_cast<Index>(random.below(64));
    const auto start = Time::now();
    policy.until =
        start + std::chrono::nanoseconds(static_cast<long>(random.uniform(first, 1.1 * whole)));
    const auto left = b.net.step(b.x.row(row), none, policy);
    const double by = Ns(Time::now() - policy.until).count();
    exits += static_cast<double>(left.exit);
    late.push_back(by);
    after += by > 0 ? 1 : 0;
    if (by > stage) {
      const long now = switches();
      (now > before ? interrupted : misses) += 1;
      before = now;
    }
  }
  std::sort(late.begin(), late.end());
  const auto n = static_cast<double>(late.size());
  state.counters["work"] = 1;
  state.counters["steps"] = n;
  state.counters["late_p9999"] = late[static_cast<std::size_t>(0.9999 * (n - 1))];
  state.counters["late_most"] = late.back();
  state.counters["stage"] = stage;
  state.counters["after"] = after;
  state.counters["misses"] = misses;
  state.counters["interrupted"] = interrupted;
  state.counters["depth"] = exits / n;
}

template <Index D>
void width() {
  networks<D>();
  for_each_policy<D>([](const std::string& name, auto make) {
    saved<D>(name, make);
    overhead<D>(name, make);
  });
}

[[maybe_unused]] const bool registered = [] {
  width<256>();
  width<512>();
  add("exit.deadline/128/steps:1000000", deadline<128>)->Iterations(1000000);
  return true;
}();

}  // namespace
