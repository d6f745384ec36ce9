// What leaving early saves where heads have something to agree about: eight maps of width 256 that
// have learned to read digits (data/digits.csv.gz, run from the root of the repository), a head
// after each. The test part runs through it, beside the network without exits, in turns.
//
//   exit.digits.POLICY/batch:B   `time`, `macs` saved as shares, `ratio` = time / macs;
//                                `accuracy`, `full` that of the last head, `depth` mean exit from 0

#include <limen/compose/sequential.hpp>
#include <limen/exit/budget.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/io/digits.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/adamw.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <string>
#include <vector>

namespace {

using namespace limen;

template <Index I>
using Layer = Sequential<Linear<LinearConfig{.d_in = I, .d_out = 256}>,
                         Activate<ActivateConfig{.d = 256, .activation = Activation::relu}>>;
using Head = Linear<LinearConfig{.d_in = 256, .d_out = 10}>;
using Leave = Exit<Head>;
using Net = EarlyExit<Layer<64>, Leave, Layer<256>, Leave, Layer<256>, Leave, Layer<256>, Leave,
                      Layer<256>, Leave, Layer<256>, Leave, Layer<256>, Leave, Layer<256>, Leave>;
using Full = Sequential<Layer<64>, Layer<256>, Layer<256>, Layer<256>, Layer<256>, Layer<256>,
                        Layer<256>, Layer<256>, Head>;

struct Bed {
  prepared_form<Net> net;
  prepared_form<Full> full;
  Sequence<float, 64> x, validation;
  std::vector<int> labels, validation_labels;

  explicit Bed(const Digits& digits) {
    const auto part = [&](const std::vector<Index>& rows, std::vector<int>& of) {
      Sequence<float, 64> images(static_cast<Index>(rows.size()));
      gather_rows(digits.images.matrix(), rows.data(), images.matrix());
      for (const Index i : rows) of.push_back(digits.labels[static_cast<std::size_t>(i)]);
      return images;
    };
    std::vector<Index> training, held;
    for (const Index i : digits.training()) (i % 5 == 3 ? held : training).push_back(i);
    x = part(digits.testing(), labels);
    validation = part(held, validation_labels);
    const auto learned = trained(digits, training);
    net = prepare(learned);
    const auto& p = learned.parts;
    full = prepare(Full{{get<0>(p), get<2>(p), get<4>(p), get<6>(p), get<8>(p), get<10>(p),
                         get<12>(p), get<14>(p), get<15>(p).head}});
  }

 private:
  static Net trained(const Digits& digits, std::vector<Index> rows) {
    Random random(1);
    auto net = Net::initialized(random);
    AdamW<Net> optimizer({.rate = 0.001, .decay = 0.01});
    Net gradient;
    Net::Cache cache;
    for (int epoch = 0; epoch < 30; ++epoch) {
      for (std::size_t i = rows.size(); i > 1; --i) {
        std::swap(rows[i - 1], rows[static_cast<std::size_t>(random.below(i))]);
      }
      for (std::size_t first = 0; first + 64 <= rows.size(); first += 64) {
        Sequence<float, 64> images(64);
        std::vector<int> labels;
        gather_rows(digits.images.matrix(), rows.data() + first, images.matrix());
        for (std::size_t i = first; i < first + 64; ++i) {
          labels.push_back(digits.labels[static_cast<std::size_t>(rows[i])]);
        }
        set_zero(gradient);
        const auto y = forward(net, std::move(images), cache);
        const auto loss =
            exit_loss<Net::exits>(y, labels, {.weights = rising_weights<Net::exits>()});
        backward(net, loss.dy, cache, gradient);
        optimizer.update(net, gradient);
      }
    }
    return net;
  }
};

const Bed* bed() {
  static auto digits = load_digits("data/digits.csv.gz");
  if (!digits) return nullptr;
  static const Bed bed(*digits);
  return &bed;
}

double median(std::vector<double> v) {
  const auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}
double ns_of(const auto& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

/// make(bed) -> policy
template <class Make>
void add(const std::string& name, Make make) {
  for (const bool one_by_one : {true, false}) {
    benchmark::RegisterBenchmark(
        ("exit.digits." + name + (one_by_one ? "/batch:1" : "/batch:359")).c_str(),
        [=](benchmark::State& state) {
          const Bed* b = bed();
          if (b == nullptr) return state.SkipWithError("no data/digits.csv.gz here");
          const auto policy = make(*b);
          const auto left = b->net.run(b->x, {}, policy);
          const auto all = forward(b->full, b->x);
          const auto dense = static_cast<double>(dense_macs<Net>(b->x.rows()));
          const auto ran = static_cast<double>(executed_macs<prepared_form<Net>>(left));
          std::vector<double> with, without;
          for (auto _ : state) {
            without.push_back(ns_of([&] {
              if (!one_by_one) return benchmark::DoNotOptimize(forward(b->full, b->x).data());
              prepared_form<Full>::State none{};
              for (Index t = 0; t < b->x.rows(); ++t) {
                benchmark::DoNotOptimize(b->full.step(b->x.row(t), none)[0]);
              }
            }));
            with.push_back(ns_of([&] {
              if (!one_by_one) {
                return benchmark::DoNotOptimize(b->net.run(b->x, {}, policy).logits.data());
              }
              Net::State none{};
              for (Index t = 0; t < b->x.rows(); ++t) {
                benchmark::DoNotOptimize(b->net.step(b->x.row(t), none, policy).exit);
              }
            }));
            state.SetIterationTime(with.back() * 1e-9);
          }
          const double time = 1 - median(with) / median(without), macs = 1 - ran / dense;
          const auto rows = static_cast<double>(b->x.rows());
          double depth = 0;
          for (std::size_t k = 0; k < left.count.size(); ++k) {
            depth += static_cast<double>(k) * static_cast<double>(left.count[k]) / rows;
          }
          state.counters["work"] = 2 * ran;
          state.counters["time"] = time;
          state.counters["macs"] = macs;
          state.counters["ratio"] = time / macs;
          state.counters["depth"] = depth;
          state.counters["accuracy"] =
              static_cast<double>(count_correct(left.logits, b->labels)) / rows;
          state.counters["full"] = static_cast<double>(count_correct(all, b->labels)) / rows;
        })
        ->UseManualTime();
  }
}

[[maybe_unused]] const bool registered = [] {
  for (const int times : {1, 2, 3}) {
    add("patience_" + std::to_string(times), [=](const Bed&) { return Patience{.times = times}; });
  }
  for (const int percent : {20, 30, 40}) {  // about where patience is
    add("confidence_" + std::to_string(percent), [=](const Bed& b) {
      constexpr auto cost = exit_macs<Net>();
      const auto record =
          record_exits(b.net, SequenceView<float, 64>(b.validation), {}, b.validation_labels);
      auto plan = thresholds_for_budget(record, cost, cost.back() * percent / 100);
      return ConfidenceAtLeast{plan->thresholds};
    });
  }
  return true;
}();

}  // namespace
