// Easy digits leave early.
//
// A convolutional network with four exits learns to read digits, or to tell clothes. Five policies
// decide when an image may leave; the program measures how often each is right and how long it
// takes, draws that and the images that left at each exit, and keeps to a budget that is given.
// What is chosen is chosen on a part of the training data; the test part is only measured.

#include <CLI/CLI.hpp>

#include <cstdio>

#include <limen/exit/caps.hpp>

#include "images.hpp"
#include "picture.hpp"

using namespace limen;

namespace {

struct Arguments {
  std::string data = "data/digits.csv.gz";
  std::string fashion;  // a folder
  std::string picture = "build/exits.svg";
  double budget = 20;  // percent of the whole network's work, in the mean
  int threads = 2;
  Index epochs = 0;  // 40 for digits, 6 for clothes
  std::uint64_t seed = 1;
  bool quiet = false;
};

/// What leaves where, the surest first.
template <class R, class Policy>
std::array<std::vector<Departure>, 4> departures(const typename R::Fast& net,
                                                 const Part<R::pixels>& part,
                                                 const Policy& policy) {
  const auto left = net.run(part.x, {}, policy);
  std::array<std::vector<Departure>, 4> at;
  for (Index t = 0; t < part.size(); ++t) {
    const std::span<const float> z(left.logits.row(t).data(), 10);
    at[static_cast<std::size_t>(left.exit[t])].push_back(
        {part.x.row(t).data(), part.labels[static_cast<std::size_t>(t)],
         static_cast<int>(predicted_class(z)), max_probability(z)});
  }
  for (auto& here : at) {
    std::stable_sort(here.begin(), here.end(), [](const Departure& a, const Departure& b) {
      return a.confidence > b.confidence;
    });
  }
  return at;
}

/// In the mean, whatever comes: thresholds that meet it on the validation part, and a cap.
template <class R>
auto within(double budget, const typename R::Fast& net, const Part<R::pixels>& validation) {
  const auto record =
      record_exits(net, SequenceView<float, R::pixels>(validation.x), {}, validation.labels);
  const auto plan = thresholds_for_budget(record, R::work, budget).value();
  return BatchBudget{ConfidenceAtLeast{plan.thresholds}, R::work, budget};
}

void show(const std::vector<Curve>& curves, const Point& full) {
  std::printf("\n%-14s  %8s  %6s  %8s\n", "policy", "accuracy", "work", "us/digit");
  std::printf("%-14s  %8.3f  %5.1f%%  %8.2f\n", "without exits", full.accuracy, 100 * full.macs,
              full.ns / 1000);
  for (const Curve& c : curves) {
    for (const Point& p : c.points) {
      std::printf("%-14s  %8.3f  %5.1f%%  %8.2f\n", c.name.c_str(), p.accuracy, 100 * p.macs,
                  p.ns / 1000);
    }
  }
  std::puts("");
}

template <class R>
void run(const Arguments& arguments, const Parts<R::pixels>& parts, Index epochs) {
  const auto net = [&] {
    const Threads allowed(arguments.threads);
    return trained<R>(parts.training, arguments.epochs > 0 ? arguments.epochs : epochs,
                      arguments.seed, !arguments.quiet);
  }();
  const typename R::Fast fast = prepare(net);
  const auto kept = within<R>(arguments.budget / 100 * R::whole, fast, parts.validation);
  const Point full = measured<R>(fast, parts.test, NeverLeave{});
  const Point met = measured<R>(fast, parts.test, kept);
  if (!arguments.quiet || !arguments.picture.empty()) {
    const auto curves = all_curves<R>(net, parts);
    if (!arguments.quiet) show(curves, full);
    if (!arguments.picture.empty() &&
        !Picture(curves, full, departures<R>(fast, parts.test, kept), R::work, R::whole, R::pixels)
             .write(arguments.picture)) {
      fail({arguments.picture, "a place to write", "none"});
    }
  }
  std::printf(
      "exits: accuracy %.3f; with a budget of %g%% %.3f, %.1f%% of the work, %.1fx faster\n",
      full.accuracy, arguments.budget, met.accuracy, 100 * met.macs, full.ns / met.ns);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Easy digits leave a network early.");
  app.add_option("--data", a.data, "the digits")->capture_default_str();
  app.add_option("--fashion", a.fashion, "a folder with Fashion-MNIST, instead of digits");
  app.add_option("--picture", a.picture, "file for the picture")->capture_default_str();
  app.add_option("--budget", a.budget, "percent of the work, in the mean")->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--epochs", a.epochs, "times through the data; 0: 40, of clothes 6")
      ->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, another model")->capture_default_str();
  app.add_flag("--quiet", a.quiet, "only the last line");
  CLI11_PARSE(app, argc, argv);
  try {
    if (a.fashion.empty()) {
      run<Reader<8>>(a, digits_from(a.data), 40);
    } else {
      run<Reader<14>>(a, fashion_from(a.fashion), 6);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
