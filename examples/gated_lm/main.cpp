// Two small language models read the same text character by character: one with a gate behind its
// attention, one without. What is compared is what the gate is for: how much their heads look at
// the first token for want of anything better, and at which loss.

#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>

#include <limen/attention/measures.hpp>
#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/compose/tap.hpp>
#include <limen/io/text.hpp>
#include <limen/nn/embedding.hpp>
#include <limen/nn/gated_linear.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/rms_norm.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "picture.hpp"

using namespace limen;

namespace {

constexpr Index D = 96, layers = 4, length = 256;
constexpr RmsNormConfig norm{.d = D};
constexpr GatedLinearConfig mlp{.d_model = D, .d_hidden = 256};
constexpr EmbeddingConfig letters{.vocabulary = Ascii::size, .d = D};
constexpr LinearConfig head{.d_in = D, .d_out = Ascii::size, .bias = false};

constexpr AttentionConfig attention(Gate gate) {
  return {.d_model = D, .n_heads = 3, .capacity = length, .rope = {.base = 1e4}, .gate = gate};
}

template <Gate G>
using Block =
    Sequential<Residual<Sequential<RmsNorm<norm>, Tap<"attention", Attention<attention(G)>>>>,
               Residual<Sequential<RmsNorm<norm>, GatedLinear<mlp>>>>;
template <Gate G>
using Model = Sequential<Embedding<letters>, Repeat<layers, Block<G>>, RmsNorm<norm>, Linear<head>>;

using Plain = Model<Gate{}>;
using Gated = Model<Gate{.position = GatePosition::G1}>;

struct Arguments {
  std::string data = "data/kjv.txt.gz";
  std::string picture = "build/gated_lm.svg";
  int threads = 2;
  Index steps = 1600;
  Index batch = 8;
  std::uint64_t seed = 1;
};

/// Pieces of the text. Each begins with a sign that the text does not have: a token that means
/// nothing but is always there.
struct Text {
  Sequences<float, 1> pieces;
  std::vector<int> next;  ///< for each row
  std::vector<Index> training, testing;

  explicit Text(const std::vector<int>& tokens) {
    const auto count = (static_cast<Index>(tokens.size()) - 1) / length;
    for (Index i = 0; i < count; ++i) {
      Sequence<float, 1> piece(length);
      for (Index t = 0; t < length; ++t) {
        const auto at = static_cast<std::size_t>(i * length + t);
        piece(t, 0) = static_cast<float>(t == 0 ? Ascii::token('~') : tokens[at]);
        next.push_back(tokens[at + 1]);
      }
      pieces.add(piece);
      (i < count * 19 / 20 ? training : testing).push_back(i);
    }
  }

  auto loss() const {
    return [this](SequenceView<float, Ascii::size> y, const Shard& shard) {
      const auto labels = shard.of_rows(next, pieces.offsets());
      return cross_entropy(y, std::span(labels.begin(), labels.end()));
    };
  }
};

struct Result {
  double bits = 0;  ///< for a character of the text held out
  AttentionMeasures measures;
};

template <class M>
Result learn(const char* name, const Text& text, const Arguments& arguments) {
  Random random(arguments.seed);
  M model = M::initialized(random);
  for (float& e : get<0>(model.layers).weight.flat()) e *= 0.05F;
  const Threads allowed(arguments.threads);
  Trainer trainer(model, AdamW<M>({.rate = 4e-3, .beta2 = 0.95, .decay = 0.1}),
                  {.decay = Decay::cosine,
                   .warm_up = std::min<Index>(100, arguments.steps / 2),
                   .total = arguments.steps,
                   .least = 0.1},
                  {.batch = arguments.batch, .clip = 1, .progress = false});
  std::printf("%s: %td numbers to learn\n", name, parameter_count(model));
  const auto start = std::chrono::steady_clock::now();
  double mean = 0;
  std::vector<Index> items(static_cast<std::size_t>(arguments.batch));
  for (Index step = 1; step <= arguments.steps; ++step) {
    for (Index& item : items) item = text.training[random.below(text.training.size())];
    mean += trainer.step(text.pieces, items, text.loss()).value();
    constexpr Index every = 200;
    if (step % every != 0) continue;
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    std::printf("  step %5td  loss %.3f  %.0f s\n", step, mean / every, spent.count());
    std::fflush(stdout);
    mean = 0;
  }
  Result result;
  Context run{.taps = &result.measures};
  const auto fast = prepare(model);
  for (const Index i : text.testing) {
    const Index offsets[] = {0, length}, item[] = {i};
    const auto y = fast.forward(text.pieces[i], from_rest(offsets, &run));
    result.bits += text.loss()(y, Shard{item, offsets}).value / std::log(2.0);
  }
  result.bits /= static_cast<double>(text.testing.size());
  return result;
}

void show(const char* name, const Result& result) {
  double first = 0, sinks = 0, open = 0, closed = 0;
  const auto& all = result.measures.layers();
  for (const auto& layer : all) {
    first += layer.first_token() / static_cast<double>(all.size());
    sinks += layer.sink_rate() / static_cast<double>(all.size());
    open += layer.openness() / static_cast<double>(all.size());
    closed += layer.closed() / static_cast<double>(all.size());
  }
  std::printf("%s: %.3f bits a character, attention to the first token %.3f, sink rate %.2f", name,
              result.bits, first, sinks);
  if (open > 0) std::printf(", gates %.2f open, %.0f%% below 0.1", open, 100 * closed);
  std::puts("");
}

void run(const Arguments& arguments) {
  const Text text(Ascii::tokens(load_text(arguments.data).value()).value());
  const Result plain = learn<Plain>("without a gate", text, arguments);
  const Result gated = learn<Gated>("with a gate", text, arguments);
  show("without a gate", plain);
  show("with a gate   ", gated);
  if (!arguments.picture.empty() &&
      !Picture(plain.measures.layers(), gated.measures.layers()).write(arguments.picture)) {
    fail({arguments.picture, "a place to write", "none"});
  }
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Compares attention with and without a gate on a text.");
  app.add_option("--data", a.data, "the text")->capture_default_str();
  app.add_option("--picture", a.picture, "file for the picture")->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--steps", a.steps, "steps of the optimizer")->capture_default_str();
  app.add_option("--batch", a.batch, "pieces of text in a step")->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, another model")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    run(a);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
