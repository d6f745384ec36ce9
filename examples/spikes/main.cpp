// Digits in spikes: one for each dark pixel, the darker the earlier.
//
// A spiking network learns by surrogate gradients to read them, and is asked at every step what it
// has seen so far: with Dynamic Confidence it stops when it is sure. The program counts what both
// add up, beside a network of the same size that multiplies, and draws a digit on its way through.
// The threshold of confidence is chosen on a part of the training data; the test part is only
// measured.

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "picture.hpp"

using namespace limen;
using namespace spikes;

namespace {

struct Arguments {
  std::string data = "data/digits.csv.gz";
  std::string picture = "build/spikes.svg";
  double loss = 0.5;  // percent of accuracy that stopping early may cost
  int threads = 2;
  Index epochs = Settings{}.epochs;
  std::uint64_t seed = 1;
  bool quiet = false;
};

double accuracy_of(const std::vector<Decision>& decisions, const std::vector<int>& labels) {
  double right = 0;
  for (std::size_t b = 0; b < labels.size(); ++b) right += decisions[b].label == labels[b];
  return right / static_cast<double>(labels.size());
}

std::vector<double> thresholds() {
  std::vector<double> all;
  for (double odds = 0.2; odds < 2000; odds *= 1.2) all.push_back(odds / (1 + odds));
  return all;
}

/// How often the answer after 1, 2, ... steps is right, if all stop there.
std::vector<ConfidencePoint> fixed_curve(const Sequence<float, 10>& o, const Part& part) {
  std::vector<ConfidencePoint> curve;
  for (Index last = 1; last <= steps; ++last) {
    double right = 0;
    for (Index b = 0; b < part.size(); ++b) {
      Evidence<float, 10> evidence;
      std::optional<Decision> d;
      for (Index t = 0; !d; ++t) {
        d = decide(o.row(b * steps + t), {.threshold = 1, .smoothing = smoothing, .steps = last},
                   evidence);
      }
      right += d->label == part.labels[static_cast<std::size_t>(b)];
    }
    curve.push_back({0, static_cast<double>(last), right / static_cast<double>(part.size())});
  }
  return curve;
}

/// What the spikes of so many steps of each digit make to do, per digit.
Operations counted(const Fast& net, const Part& part, const std::vector<Decision>& decisions) {
  std::vector<Index> rows, offsets{0};
  for (Index b = 0; b < part.size(); ++b) {
    for (Index t = 0; t < decisions[static_cast<std::size_t>(b)].steps; ++t) {
      rows.push_back(b * steps + t);
    }
    offsets.push_back(static_cast<Index>(rows.size()));
  }
  Sequence<float, 64> x(static_cast<Index>(rows.size()));
  gather_rows(part.spikes.matrix(), rows.data(), x.matrix());
  SpikeMeasures measures;
  Context context{.taps = &measures};
  net.forward(x, from_rest(offsets, &context));
  Operations all = measures.operations();
  const double n = static_cast<double>(part.size());
  return {all.ac / n, all.mac / n, all.updates / n};
}

void run(const Arguments& arguments) {
  const Parts parts(load_digits(arguments.data).value());
  Settings settings{
      .epochs = arguments.epochs, .seed = arguments.seed, .progress = !arguments.quiet};
  const Threads allowed(arguments.threads);
  const auto start = std::chrono::steady_clock::now();
  const Spiking net = trained_to_spike(parts.training, settings);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  const Dense dense = trained_densely(parts.training, settings);
  const Fast fast = prepare(net);

  const auto said = [&](const Part& part) {
    const auto offsets = even_offsets(part.size(), steps);
    return fast.forward(part.spikes, from_rest(offsets));
  };
  const auto o_validation = said(parts.validation), o_test = said(parts.test);
  const auto taus = thresholds();
  const auto chosen = choose_threshold(
      confidence_curve(o_validation, parts.validation.labels, steps, taus, smoothing),
      arguments.loss / 100);
  const double tau = chosen.value().threshold;

  const auto stopping = [&](double threshold) {
    return run_until_sure(fast, parts.test.spikes,
                          {.threshold = threshold, .smoothing = smoothing, .steps = steps});
  };
  const auto whole = stopping(1 - 1e-9), early = stopping(tau);
  const double n = static_cast<double>(parts.test.size());
  Results results;
  results.dense_accuracy =
      static_cast<double>(count_correct(forward(dense, parts.test.images), parts.test.labels)) / n;
  results.dense = {0, static_cast<double>(64 * hidden + hidden * 10), 0};
  results.accuracy = accuracy_of(whole.decisions, parts.test.labels);
  results.spiking = counted(fast, parts.test, whole.decisions);
  results.early_accuracy = accuracy_of(early.decisions, parts.test.labels);
  results.early_steps = static_cast<double>(early.steps) / n;
  results.early = counted(fast, parts.test, early.decisions);
  results.fixed = fixed_curve(o_test, parts.test);
  results.dynamic = confidence_curve(o_test, parts.test.labels, steps, taus, smoothing);
  results.oracle = oracle_curve(o_test, parts.test.labels, steps, smoothing);

  if (!arguments.quiet) {
    const double held_out = fixed_curve(o_validation, parts.validation).back().accuracy;
    std::printf("%td numbers learned from %td digits in %.1f s; %.3f right of those held out\n\n",
                parameter_count(net), parts.training.size(), spent.count(), held_out);
    std::printf("a digit             accuracy  steps      MAC       AC     nJ\n");
    const auto line = [](const char* name, double accuracy, double steps_taken,
                         const Operations& o) {
      std::printf("%-18s     %.3f  %5.1f  %7.0f  %7.0f  %5.2f\n", name, accuracy, steps_taken,
                  o.mac, o.ac, o.picojoule() / 1000);
    };
    line("dense", results.dense_accuracy, 1, results.dense);
    line("spiking", results.accuracy, steps, results.spiking);
    line("until it is sure", results.early_accuracy, results.early_steps, results.early);
    std::printf("(sure: above %.3f)\n\n", tau);
  }
  if (!arguments.picture.empty()) {
    const Index shown = telling_digit(early.decisions, parts.test.labels);
    const Passage passage =
        passage_of(net, parts.test, shown, early.decisions[static_cast<std::size_t>(shown)].steps);
    if (!Picture(passage, results).write(arguments.picture)) {
      fail({arguments.picture, "a place to write", "none"});
    }
  }
  std::printf(
      "spikes: accuracy %.3f, sure after %.1f of %td steps %.3f; %.0f additions a digit, dense "
      "%.0f "
      "products, %.1fx less energy\n",
      results.accuracy, results.early_steps, steps, results.early_accuracy, results.early.ac,
      results.dense.mac, results.dense.picojoule() / results.early.picojoule());
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Reads digits that come as spikes, and stops when it is sure.");
  app.add_option("--data", a.data, "the digits")->capture_default_str();
  app.add_option("--picture", a.picture, "file for the picture")->capture_default_str();
  app.add_option("--loss", a.loss, "percent of accuracy that stopping may cost")
      ->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--epochs", a.epochs, "times through the data")->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, another model")->capture_default_str();
  app.add_flag("--quiet", a.quiet, "only the last line");
  CLI11_PARSE(app, argc, argv);
  try {
    run(a);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
