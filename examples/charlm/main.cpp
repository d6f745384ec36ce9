// A small Mamba reads a book character by character, and goes on with it.
//
// It is trained on chunks of long streams, each from the state in which the chunk before ended;
// then saved, loaded into its inference form, measured on text it has not seen, and asked to write.
// Its memory is a value of fixed size: several continuations of a prefix are copies of one state.

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <numbers>
#include <numeric>

#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/embedding.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/rms_norm.hpp>
#include <limen/ssm/mamba.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "corpus.hpp"
#include "sampling.hpp"

using namespace limen;

namespace {

constexpr Index d = 128;
constexpr EmbeddingConfig characters{.vocabulary = Ascii::size, .d = d};
constexpr RmsNormConfig norm{.d = d};
constexpr MambaConfig memory{.d_model = d};
constexpr LinearConfig head{.d_in = d, .d_out = Ascii::size, .bias = false};

using Block = Residual<Sequential<RmsNorm<norm>, Mamba<memory>>>;
using Model = Sequential<Embedding<characters>, Repeat<4, Block>, RmsNorm<norm>, Linear<head>>;
using Fast = prepared_form<Model>;
using Logits = SequenceView<float, Ascii::size>;

struct Arguments {
  std::string data = "data/kjv.txt.gz";
  std::string out = "build/charlm.safetensors";
  std::string prefix = "And the LORD spake unto Moses, saying, ";
  Index steps = 2400;
  Index batch = 16;
  Index chunk = 128;
  double rate = 4e-3;
  int threads = 2;
  int characters = 240;
  Sampling sampling;
  std::uint64_t seed = 1;
  bool quiet = false;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// ── Training ─────────────────────────────────────────────────────────────────────────────────────

/// Chunk after chunk of all streams, each from where the one before ended. What is printed is the
/// mean of a tenth of the run.
Model trained(const Corpus& corpus, const Arguments& a) {
  Random random(a.seed);
  Model model = Model::initialized(random);
  if (!a.quiet) {
    std::printf("%td numbers learn from %td characters\n", parameter_count(model),
                corpus.tokens.rows());
  }
  Trainer trainer(model, AdamW<Model>({.rate = a.rate, .beta2 = 0.99, .decay = 0.1}),
                  {.decay = Decay::cosine,
                   .warm_up = 100,
                   .total = std::max<Index>(a.steps, 101),
                   .least = 0.02},
                  {.clip = 1, .seed = a.seed});
  const auto loss = [&](Logits y, const Shard& shard) {
    const auto answers = corpus.answers(shard);
    return cross_entropy(y, std::span(answers.begin(), answers.end()));
  };
  std::vector<Index> streams(static_cast<std::size_t>(a.batch));
  std::iota(streams.begin(), streams.end(), Index{0});
  std::vector<Model::State> states(streams.size());

  const Threads allowed(a.threads);
  const auto start = Clock::now();
  Progress progress(!a.quiet);
  progress.begin(1, 1, a.steps);
  const Index tenth = std::max<Index>(a.steps / 10, 1);
  double bits = 0;
  Index first = 0;
  for (Index step = 1; step <= a.steps; ++step) {
    if (first + a.chunk > corpus.length()) {  // the streams begin again
      first = 0;
      std::fill(states.begin(), states.end(), Model::State{});
    }
    const double nats =
        trainer.step_chunk(corpus.tokens, streams, first, a.chunk, states, loss).value();
    first += a.chunk;
    bits += nats * std::numbers::log2e / static_cast<double>(tenth);
    progress.show(step, nats);
    if (step % tenth != 0) continue;
    if (!a.quiet) {
      progress.clear();
      std::printf("step %5td  %5.1f M characters  %4.0f s  %.3f bits per character\n", step,
                  static_cast<double>(step * a.batch * a.chunk) * 1e-6, seconds_since(start), bits);
      std::fflush(stdout);
    }
    bits = 0;
  }
  return model;
}

void save_model(const Model& model, const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder);
  save(model, path, {{"task", "characters of a text, tokens as in limen/io/text.hpp"}}).value();
}

Fast loaded(const std::string& path) {
  Model model;
  load(model, path).value();
  return prepare(model);
}

/// Bits per character of text that it has not learned from, read once from rest.
double bits_of(const Fast& model, const Corpus& text) {
  const auto state = std::make_unique<Fast::State>();
  const auto x = text.tokens[0];
  double nats = 0;
  constexpr Index piece = 1024;
  for (Index first = 0; first < x.rows(); first += piece) {
    const Index rows = std::min(piece, x.rows() - first);
    const auto y = model.forward(x.middle_rows(first, rows), *state);
    const auto next = std::span(text.next).subspan(static_cast<std::size_t>(first),
                                                   static_cast<std::size_t>(rows));
    nats += cross_entropy(y, next, {.reduction = Reduction::sum}).value;
  }
  return nats * std::numbers::log2e / static_cast<double>(x.rows());
}

// ── Writing ──────────────────────────────────────────────────────────────────────────────────────

/// In ns, the median of many calls.
template <class F>
double cost_of(F f) {
  std::vector<double> ns(1001);
  for (double& n : ns) {
    const auto start = Clock::now();
    f();
    n = 1e9 * seconds_since(start);
  }
  std::nth_element(ns.begin(), ns.begin() + 500, ns.end());
  return ns[500];
}

struct Cost {
  double step = 0, fork = 0;  ///< ns
};

Cost cost_of_streams(const Fast& model, const Stream<Fast>& from) {
  const auto fork = std::make_unique<Stream<Fast>>(from);
  Stream<Fast>* volatile to = fork.get();  // so that no copy is left out because nobody reads it
  return {cost_of([&] { fork->read(model, Ascii::token('e')); }), cost_of([&] { *to = from; })};
}

/// Reads the prefix once. All continuations start from copies of what is remembered then.
Cost write(const Fast& model, const std::vector<int>& prefix, const Arguments& a) {
  const auto trunk = std::make_unique<Stream<Fast>>();
  const auto start = Clock::now();
  for (const int token : prefix) trunk->read(model, token);
  const double reading = seconds_since(start);
  const Cost cost = cost_of_streams(model, *trunk);
  if (a.quiet) return cost;

  std::printf("\n%s\n", a.prefix.c_str());
  const auto stream = std::make_unique<Stream<Fast>>();
  const auto continued = [&](std::uint64_t way) {
    *stream = *trunk;  // a fork: what the stream had written before has not happened
    return stream->write(model, a.characters, a.sampling, Random(a.seed, way));
  };
  std::vector<std::string> ways;
  for (std::uint64_t way = 0; way < 3; ++way) ways.push_back(continued(way));
  for (const std::string& text : ways) std::printf("  | %s\n", text.c_str());
  std::printf(
      "The prefix was read once, in %.0f us; each fork copied %zu KB. Back to the first: %s.\n\n",
      1e6 * reading, sizeof(Stream<Fast>) / 1024,
      continued(0) == ways[0] ? "the same again" : "NOT the same");
  return cost;
}

void run(const Arguments& a) {
  const std::string text = load_text(a.data).value();
  const std::vector<int> tokens = Ascii::tokens(text).value();
  const std::vector<int> prefix = Ascii::tokens(a.prefix).value();
  const std::size_t held_out = tokens.size() / 20;
  const Index least = std::max<Index>(2 * a.batch * (a.chunk + 1), 1000);
  if (static_cast<Index>(tokens.size()) < least) {
    fail({a.data, "at least " + std::to_string(least) + " characters",
          std::to_string(tokens.size())});
  }
  const std::span<const int> all(tokens);
  const Corpus learning(all.first(all.size() - held_out), a.batch);
  const Corpus unseen(all.last(held_out), 1);

  if (a.steps > 0) save_model(trained(learning, a), a.out);
  const Fast model = loaded(a.out);
  const double bits = bits_of(model, unseen);
  if (!a.quiet) {
    std::printf("%.3f bits per character on %td it has not seen; the model is in %s\n", bits,
                unseen.length(), a.out.c_str());
  }
  const Cost cost = write(model, prefix, a);
  std::printf("charlm: %.2f bits per character, step %.0f ns, fork %.0f ns\n", bits, cost.step,
              cost.fork);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("A small Mamba learns to write like a book.");
  const auto positive = CLI::PositiveNumber;
  app.add_option("--data", a.data, "text, ASCII, gzipped or not")->capture_default_str();
  app.add_option("--out", a.out, "file for the model")->capture_default_str();
  app.add_option("--prefix", a.prefix, "what it goes on from")->capture_default_str();
  app.add_option("--steps", a.steps, "of training; 0: only loads the model")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--batch", a.batch, "streams read at once")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--chunk", a.chunk, "characters of each stream in a step")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--rate", a.rate, "of learning")->check(positive)->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--characters", a.characters, "written at most")->capture_default_str();
  app.add_option("--temperature", a.sampling.temperature, "less is safer")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--top-k", a.sampling.top_k, "likeliest characters to choose from")
      ->capture_default_str();
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
