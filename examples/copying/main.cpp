// What a selective state space model can do, and a time-invariant one of the same size cannot.
//
// Two tasks, two models each, trained alike on random examples that never come twice: Mamba, whose
// steps, reading and writing depend on what comes, and S4D, whose filters are the same whatever
// comes. Gu & Dao, arXiv:2312.00752, section 4.1, in small.

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/embedding.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/rms_norm.hpp>
#include <limen/ssm/mamba.hpp>
#include <limen/ssm/s4d.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "tasks.hpp"

using namespace limen;

namespace {

// ── The models: the same width outside and inside, the same depth, as many parameters ────────────

constexpr Index d = 32, e = 2 * d;
constexpr RmsNormConfig norm{.d = d};
constexpr EmbeddingConfig alphabet{.vocabulary = vocabulary, .d = d};
constexpr LinearConfig head{.d_in = d, .d_out = vocabulary, .bias = false};

template <class Mixer>
using Model = Sequential<Embedding<alphabet>, Repeat<2, Residual<Sequential<RmsNorm<norm>, Mixer>>>,
                         RmsNorm<norm>, Linear<head>>;

constexpr MambaConfig selective{.d_model = d};
using Selective = Model<Mamba<selective>>;

constexpr LinearConfig widen{.d_in = d, .d_out = e}, narrow{.d_in = e, .d_out = d};
constexpr S4dConfig filters{.d = e, .d_state = 44};
constexpr ActivateConfig bend{.d = e, .activation = Activation::gelu};
using Invariant = Model<Sequential<Linear<widen>, S4d<filters>, Activate<bend>, Linear<narrow>>>;

struct Arguments {
  Index steps = 2500;
  double rate = 5e-3;
  int threads = 2;
  std::uint64_t seed = 1;
  bool quiet = false;
};

// ── Training ─────────────────────────────────────────────────────────────────────────────────────

/// Shares that are right: of the letters asked for, and of the sequences, with all their letters.
struct Right {
  double letters = 0, sequences = 0;
};

template <class M>
Right right(const M& model, const Examples& examples) {
  const auto y = prepare(model).forward(examples.all(), from_rest(examples.tokens.offsets()));
  const auto offsets = examples.tokens.offsets();
  Index asked = 0, letters = 0, sequences = 0;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const Index first = offsets[i], rows = offsets[i + 1] - first;
    const auto answers =
        std::span(examples.answers)
            .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows));
    const Index here = std::count_if(answers.begin(), answers.end(), [](int k) { return k >= 0; });
    const Index correct = count_correct(middle_rows(y, first, rows), answers);
    asked += here;
    letters += correct;
    sequences += correct == here;
  }
  return {static_cast<double>(letters) / static_cast<double>(asked),
          static_cast<double>(sequences) / static_cast<double>(examples.tokens.size())};
}

/// Gives the share of right letters.
template <class M, class Task>
double learned(const char* name, Index steps, const Arguments& a) {
  Random random(a.seed);
  M model = M::initialized(random);
  constexpr Index batch = 64;
  Trainer trainer(model, AdamW<M>({.rate = a.rate}),
                  {.decay = Decay::cosine, .warm_up = 50, .total = std::max<Index>(steps, 51)},
                  {.clip = 1, .seed = a.seed});
  std::vector<Index> items(batch);
  std::iota(items.begin(), items.end(), Index{0});
  const Random training(a.seed, 1), testing(a.seed, 2);

  const Threads allowed(a.threads);
  const auto start = std::chrono::steady_clock::now();
  Progress progress(!a.quiet);
  progress.begin(1, 1, steps);
  for (Index step = 0; step < steps; ++step) {
    const auto examples =
        Examples::of<Task>(batch, training.split(static_cast<std::uint64_t>(step)));
    const auto loss = [&](SequenceView<float, vocabulary> y, const Shard& shard) {
      const auto answers = shard.of_rows(examples.answers, examples.tokens.offsets());
      return cross_entropy(y, std::span(answers.begin(), answers.end()));
    };
    progress.show(step + 1, trainer.step(examples.tokens, items, loss).value());
  }
  const Right share = right(model, Examples::of<Task>(2000, testing));
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
  progress.clear();
  if (!a.quiet) {
    std::printf("%-10s  %-6s  %10td  %8.3f  %9.3f  %5.0f s\n", Task::name, name,
                parameter_count(model), share.letters, share.sequences, spent.count());
    std::fflush(stdout);
  }
  return share.letters;
}

void run(const Arguments& a) {
  if (!a.quiet) {
    show<SelectiveCopying>(a.seed);
    show<InductionHeads>(a.seed);
    std::printf("\n%-10s  %-6s  %10s  %8s  %9s  %7s\n", "task", "model", "parameters", "letters",
                "sequences", "time");
  }
  const Index half = (a.steps + 1) / 2;  // which is plenty
  const double copying_mamba = learned<Selective, SelectiveCopying>("mamba", a.steps, a);
  const double copying_s4d = learned<Invariant, SelectiveCopying>("s4d", a.steps, a);
  const double induction_mamba = learned<Selective, InductionHeads>("mamba", half, a);
  const double induction_s4d = learned<Invariant, InductionHeads>("s4d", half, a);
  std::printf("copying: mamba %.3f s4d %.3f, induction: mamba %.3f s4d %.3f\n", copying_mamba,
              copying_s4d, induction_mamba, induction_s4d);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Mamba and S4D at selective copying and induction heads.");
  app.add_option("--steps", a.steps, "of training for copying; induction takes half")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rate", a.rate, "of learning")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, other models and examples")
      ->capture_default_str();
  app.add_flag("--quiet", a.quiet, "only the last line");
  CLI11_PARSE(app, argc, argv);
  try {
    run(a);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
