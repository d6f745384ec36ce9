// Which way does the bar move? Eight coincidence detectors, one synapse from each pixel and
// polarity to each: delays are learned (DCLS) until the events of a bar arrive at once, then
// rounded to whole steps, and the events run through a ring.

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include <limen/compose/sequential.hpp>
#include <limen/spiking/dcls.hpp>
#include <limen/spiking/decisions.hpp>
#include <limen/spiking/leaky_integrator.hpp>
#include <limen/spiking/spike_readout.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "bars.hpp"
#include "picture.hpp"

using namespace limen;

namespace {

constexpr Index classes = Bars::directions;
constexpr DclsConfig synapses{
    .d_in = Bars::width, .d_out = classes, .width = 15, .spread = 4, .bias = false};
constexpr DelayConfig rounded{.d_in = Bars::width, .d_out = classes, .longest = synapses.width - 1};
constexpr LeakyIntegratorConfig membrane{.d_model = classes, .decay = 0.5};
constexpr SpikeReadoutConfig highest{.d_model = classes, .kind = Readout::max};

using Model = Sequential<Dcls<synapses>, LeakyIntegrator<membrane>, SpikeReadout<highest>>;
using Answer = Sequential<LeakyIntegrator<membrane>, SpikeReadout<highest>>;

struct Arguments {
  Index films = 2000;
  Index steps = 500;
  Index batch = 32;
  double rate = 3e-3;
  double delay_rate = 0.1;  // of positions, which go from -7 to 7
  int threads = 2;
  std::uint64_t seed = 1;
  std::string picture = "build/motion.svg";
  bool quiet = false;
};

/// What is learned; the rest stays as it was drawn, and weights that are not learned are equal.
enum class Learn { delays, weights, both };

/// Positions move faster than weights, and stay in their kernel.
class TwoRates {
 public:
  TwoRates(const Arguments& a, Learn what)
      : weights_({.rate = a.rate, .rules = {.frozen = {"position"}}}),
        delays_({.rate = a.delay_rate, .decay = 0, .rules = {.frozen = {"weight"}}}),
        roles_(what == Learn::delays ? delays_.roles() : weights_.roles()),
        what_(what) {
    for (std::size_t i = 0; what == Learn::both && i < roles_.size(); ++i) {
      roles_[i].frozen = roles_[i].frozen && delays_.roles()[i].frozen;
    }
  }

  void update(Model& model, const Model& gradient, double factor = 1) {
    if (what_ != Learn::delays) weights_.update(model, gradient, factor);
    if (what_ == Learn::weights) return;
    delays_.update(model, gradient, factor);
    clamp_positions(get<0>(model.layers));
  }
  const std::vector<ParameterRole>& roles() const { return roles_; }
  template <class Inventory>
  void list(Inventory& inventory, const std::string& prefix) {
    weights_.list(inventory, prefix + "weights.");
    delays_.list(inventory, prefix + "delays.");
  }

 private:
  AdamW<Model> weights_, delays_;
  std::vector<ParameterRole> roles_;  ///< frozen is what nobody moves
  Learn what_;
};

/// Cross entropy of the highest membrane of each film.
Loss<float, classes> loss_of(SequenceView<float, classes> y, const Shard& shard, const Bars& bars) {
  std::vector<int> labels;
  for (const Index i : shard.items) labels.push_back(bars.label(i));
  auto loss = cross_entropy(last_rows(y, shard.offsets), labels);
  loss.dy = last_rows_backward(loss.dy, shard.offsets);
  return loss;
}

Model untrained(const Arguments& a, Learn what) {
  Random random(a.seed + 100);
  Model model = Model::initialized(random);
  if (what == Learn::delays) {
    for (float& w : get<0>(model.layers).weight.flat()) w = 0.15F;
  }
  return model;
}

std::vector<DelayedSynapse> trained(const Bars& bars, const Arguments& a, Learn what) {
  Model model = untrained(a, what);
  Trainer trainer(model, TwoRates(a, what),
                  {.decay = Decay::cosine, .warm_up = 20, .total = a.steps, .least = 0.02},
                  {.batch = a.batch, .clip = 1, .progress = false, .seed = a.seed});
  const DclsWidth width{.from = synapses.spread, .to = 0.23, .share = 0.6};
  const auto loss = [&](SequenceView<float, classes> y, const Shard& shard) {
    return loss_of(y, shard, bars);
  };
  Random random(a.seed);
  std::vector<Index> items(static_cast<std::size_t>(a.batch));
  for (Index step = 0; step < a.steps; ++step) {
    const double progress = static_cast<double>(step) / static_cast<double>(a.steps);
    set_spread(get<0>(model.layers), what == Learn::weights ? width.to : width.at(progress));
    for (Index& i : items) {
      i = static_cast<Index>(random.below(static_cast<std::uint64_t>(bars.size())));
    }
    trainer.step(bars, items, loss).value();
  }
  return synapses_of(get<0>(model.layers));
}

/// The share that is right, with delays rounded, event by event; no answer is a wrong one.
double accuracy(const std::vector<DelayedSynapse>& list, const Bars& bars) {
  const auto ring = DelayLines<rounded>::from(list).value();
  Index right = 0;
  for (Index i = 0; i < bars.size(); ++i) {
    const auto y = forward(Answer{}, forward(ring, bars[i]));
    Index best = 0;
    for (Index d = 0; d < classes; ++d) {
      if (y(y.rows() - 1, d) > y(y.rows() - 1, best)) best = d;
    }
    right += best == bars.label(i);
  }
  return static_cast<double>(right) / static_cast<double>(bars.size());
}

void run(const Arguments& a) {
  const auto start = std::chrono::steady_clock::now();
  const Threads allowed(a.threads);
  const Random random(a.seed);
  const Bars training(a.films, random.split(1)), test(1000, random.split(2));
  const auto delays = trained(training, a, Learn::delays);
  const double learned = accuracy(delays, test);
  const double drawn = accuracy(synapses_of(get<0>(untrained(a, Learn::delays).layers)), test);
  if (!a.quiet) {
    Index events = 0;
    for (Index i = 0; i < test.size(); ++i) {
      const auto film = test[i];
      for (Index k = 0; k < film.rows() * Bars::width; ++k) events += film.data()[k] != 0;
    }
    std::printf("%td films to learn from, %td for the test, %td events in one\n\n", a.films,
                test.size(), events / test.size());
    const auto line = [](const char* what, double right) {
      std::printf("%-34s%8.3f\n", what, right);
    };
    std::printf("%-34s%8s\n", "whole delays, event by event", "right");
    line("delays drawn, equal weights", drawn);
    line("delays learned, equal weights", learned);
    line("delays drawn, weights learned", accuracy(trained(training, a, Learn::weights), test));
    line("both learned", accuracy(trained(training, a, Learn::both), test));
    std::printf("in %.0f s\n\n",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  if (!a.picture.empty() && !Picture(delays).write(a.picture)) {
    fail({a.picture, "a place to write", "none"});
  }
  std::printf("motion: %.3f right with delays learned, %.3f before\n", learned, drawn);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Learns delays that tell eight directions of motion apart.");
  app.add_option("--films", a.films, "to learn from")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--steps", a.steps, "of training")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--batch", a.batch, "films in a step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rate", a.rate, "of learning, of weights")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--delay-rate", a.delay_rate, "of learning, of positions")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, other films")->capture_default_str();
  app.add_option("--picture", a.picture, "file for the picture")->capture_default_str();
  app.add_flag("--quiet", a.quiet, "only the last line");
  CLI11_PARSE(app, argc, argv);
  try {
    run(a);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
