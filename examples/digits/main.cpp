// Learns to read handwritten digits row by row, and reads some aloud.
//
// A gated recurrent unit sees one row of 8 pixels a step and says after each what it believes. The
// program trains it, saves it, loads it into its inference form, streams the test digits through
// that, draws how beliefs change, and measures a step.

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>
#include <filesystem>

#include <limen/compose/sequential.hpp>
#include <limen/io/digits.hpp>
#include <limen/nn/gru.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "allocations.hpp"
#include "picture.hpp"
#include "reading.hpp"

using namespace limen;

namespace {

constexpr GruConfig memory{.d_in = 8, .d_hidden = 64};
constexpr LinearConfig head{.d_in = 64, .d_out = 10};
using Model = Sequential<Gru<memory>, Linear<head>>;
using Fast = prepared_form<Model>;
using Images = Sequences<float, 8>;

struct Arguments {
  std::string data = "data/digits.csv.gz";
  std::string out = "build/digits.safetensors";
  std::string picture = "build/digits.svg";
  int threads = 2;
  Index epochs = 100;
  std::uint64_t seed = 1;
  bool quiet = false;
};

// ── Training ─────────────────────────────────────────────────────────────────────────────────────

/// What it says after the last row counts; what it says before, a little.
auto loss_of(const std::vector<int>& labels) {
  return [&labels](SequenceView<float, 10> y, const Shard& shard) {
    const auto last = shard.at_last_row(labels), every = shard.at_every_row(labels);
    auto loss = cross_entropy(y, std::span(last.begin(), last.end()));
    const auto early = cross_entropy(y, std::span(every.begin(), every.end()));
    constexpr float share = 0.3F;
    loss.value += share * early.value;
    for (Index i = 0; i < loss.dy.size(); ++i) loss.dy.data()[i] += share * early.dy.data()[i];
    return loss;
  };
}

Model trained(const Digits& digits, const Images& images, const Arguments& arguments) {
  Random random(arguments.seed);
  Model model = Model::initialized(random);
  const std::vector<Index> items = digits.training();
  constexpr Index batch = 64;
  const Index steps = (static_cast<Index>(items.size()) + batch - 1) / batch * arguments.epochs;
  Trainer trainer(model, AdamW<Model>({.rate = 0.02, .decay = 0.5}),
                  {.decay = Decay::cosine, .warm_up = 20, .total = std::max<Index>(steps, 21)},
                  {.batch = batch,
                   .epochs = arguments.epochs,
                   .clip = 1,
                   .progress = !arguments.quiet,
                   .seed = arguments.seed});
  const Threads allowed(arguments.threads);
  trainer.fit(images, items, loss_of(digits.labels)).value();
  return model;
}

/// Through a file and back.
Fast saved_and_loaded(const Model& model, const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder);
  save(model, path, {{"task", "digits of 8 x 8 pixels, row by row"}}).value();
  Model loaded;
  load(loaded, path).value();
  return prepare(loaded);
}

// ── Streaming ────────────────────────────────────────────────────────────────────────────────────

/// Reads one digit, a row at a time.
Reading read(const Fast& model, SequenceView<float, 8> image, int label) {
  Reading reading;
  reading.label = label;
  Fast::State state{};
  for (Index t = 0; t < 8; ++t) {
    const auto row = static_cast<std::size_t>(t);
    const auto gates = get<0>(model.layers).gates(image.row(t), get<0>(state));
    for (const float z : gates.update.values) reading.openings[row].push_back(1 - z);
    const auto logits = model.step(image.row(t), state);
    float sum = 0;
    const float most = *std::max_element(logits.values, logits.values + 10);
    for (std::size_t k = 0; k < 10; ++k) {
      sum += reading.belief[row][k] = std::exp(logits.values[k] - most);
    }
    for (float& p : reading.belief[row]) p /= sum;
    std::copy_n(image.row(t).data(), 8, reading.pixels[row].begin());
  }
  return reading;
}

struct Cost {
  double ns = 0;           ///< of a step, the median
  double allocations = 0;  ///< per step
};

Cost cost_of_a_step(const Fast& model, const Images& images) {
  constexpr Index samples = 201, digits = 100;
  std::vector<double> ns(samples);
  float kept = 0;  // what nobody needs, the compiler would leave out
  const std::size_t before = allocations();
  for (Index s = 0; s < samples; ++s) {
    const auto start = std::chrono::steady_clock::now();
    for (Index i = 0; i < digits; ++i) {
      const auto image = images[(s * digits + i) % images.size()];
      Fast::State state{};
      for (Index t = 0; t < 8; ++t) kept += model.step(image.row(t), state)[0];
    }
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    ns[static_cast<std::size_t>(s)] = spent.count() / (digits * 8);
  }
  const auto taken = static_cast<double>(allocations() - before);
  std::nth_element(ns.begin(), ns.begin() + samples / 2, ns.end());
  if (!std::isfinite(kept)) std::puts("the outputs are not finite");
  return {ns[samples / 2], taken / (samples * digits * 8)};
}

void run(const Arguments& arguments) {
  const Digits digits = load_digits(arguments.data).value();
  Images images;
  for (Index i = 0; i < digits.size(); ++i) images.add({digits.images.row(i).data(), 8});

  const auto start = std::chrono::steady_clock::now();
  const Model model = trained(digits, images, arguments);
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  const Fast fast = saved_and_loaded(model, arguments.out);
  if (!arguments.quiet) {
    std::printf("%td numbers learned from %zu digits in %.2f s, saved to %s\n",
                parameter_count(model), digits.training().size(), spent.count(),
                arguments.out.c_str());
  }

  std::vector<Reading> readings;
  for (const Index i : digits.testing()) {
    readings.push_back(read(fast, images[i], digits.labels[static_cast<std::size_t>(i)]));
  }
  const auto right =
      std::count_if(readings.begin(), readings.end(), [](const Reading& r) { return r.right(); });
  const double accuracy = static_cast<double>(right) / static_cast<double>(readings.size());
  const auto chosen = most_dramatic(readings, 3);
  if (!arguments.quiet) {
    for (const Reading& r : chosen) show(r);
    std::puts("");
  }
  if (!arguments.picture.empty() && !Picture(chosen).write(arguments.picture)) {
    fail({arguments.picture, "a place to write", "none"});
  }
  const Cost cost = cost_of_a_step(fast, images);
  std::printf("demo: accuracy %.3f, step %.0f ns, allocations per step %g\n", accuracy, cost.ns,
              cost.allocations);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Learns to read handwritten digits row by row.");
  app.add_option("--data", a.data, "the digits")->capture_default_str();
  app.add_option("--out", a.out, "file for the model")->capture_default_str();
  app.add_option("--picture", a.picture, "file for the picture")->capture_default_str();
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
