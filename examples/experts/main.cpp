// One mixture of experts learns six families of dynamical systems at once, from short paths in
// environments whose coefficients it is not told. It is told which paths share an environment; each
// environment has a context that is learned, and the contexts choose the expert. Beside it dense
// networks: one as large as an expert, one as large as all of them.
//
// Then each is given the first point of paths that it has not seen, and goes on by itself.

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include <limen/compose/sequential.hpp>
#include <limen/moe/context_table.hpp>
#include <limen/moe/mixer_router.hpp>
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "families.hpp"
#include "picture.hpp"

using namespace limen;

namespace {

constexpr Index n_families = static_cast<Index>(families.size());
constexpr Index per_family = 10, N = n_families * per_family;  // environments
constexpr Index C = 8, D = 2 + C, E = n_families, H = 32;
constexpr Index paths = 4, length = 64;  // of each environment; as many again to be tested on

constexpr ContextTableConfig contexts{.d = 2, .n_contexts = N, .d_context = C};
constexpr MixerRouterConfig gate{.d_model = D, .d_context = C, .n_experts = E};

template <Index Hidden>
using Net = Sequential<Linear<LinearConfig{.d_in = D, .d_out = Hidden}>,
                       Activate<ActivateConfig{.d = Hidden, .activation = Activation::silu}>,
                       Linear<LinearConfig{.d_in = Hidden, .d_out = Hidden}>,
                       Activate<ActivateConfig{.d = Hidden, .activation = Activation::silu}>,
                       Linear<LinearConfig{.d_in = Hidden, .d_out = 2}>>;

template <class Map>
using Model = Sequential<ContextTable<contexts>, Map>;
using Mixture = MixtureOfExperts<MixerRouter<gate>, Net<H>>;
using Small = Net<H>;
using Large = Net<88>;

struct Arguments {
  std::string picture = "build/experts.svg";
  int threads = 2;
  Index steps = 8000;
  std::uint64_t seed = 1;
  bool quiet = false;
};

// ── Data ─────────────────────────────────────────────────────────────────────────────────────────

/// Paths of all environments: rows [x, y, environment], and where each row goes from there.
struct Paths {
  Sequences<float, 3> rows;
  std::vector<float> moves;  ///< [rows x 2] by which the state changes in one step, times `faster`
  static constexpr float faster = 8;

  Paths(const std::vector<Point>& coefficients, Random& random) {
    for (Index n = 0; n < N; ++n) {
      const Family& f = families[static_cast<std::size_t>(n / per_family)];
      const auto [a, b] = coefficients[static_cast<std::size_t>(n)];
      for (Index i = 0; i < paths; ++i) {
        Point s{random.uniform(f.center.x - f.spread.x, f.center.x + f.spread.x),
                random.uniform(f.center.y - f.spread.y, f.center.y + f.spread.y)};
        Sequence<float, 3> path(length);
        for (Index t = 0; t < length; ++t) {
          const Point next = advance(f, s, a, b);
          path(t, 0) = static_cast<float>((s.x - f.center.x) / f.scale.x);
          path(t, 1) = static_cast<float>((s.y - f.center.y) / f.scale.y);
          path(t, 2) = static_cast<float>(n);
          moves.push_back(faster * static_cast<float>((next.x - s.x) / f.scale.x));
          moves.push_back(faster * static_cast<float>((next.y - s.y) / f.scale.y));
          s = next;
        }
        rows.add(path);
      }
    }
  }

  auto loss() const {
    return [this](SequenceView<float, 2> y, const Shard& shard) {
      Sequence<float, 2> target(y.rows());
      for (std::size_t k = 0; k < shard.items.size(); ++k) {
        const auto from = moves.begin() + 2 * rows.offsets()[std::size_t(shard.items[k])];
        std::copy_n(from, 2 * length, target.row_data(shard.offsets[k]));
      }
      return mean_squared_error(y, target);
    };
  }
};

// ── Who serves whom ──────────────────────────────────────────────────────────────────────────────

/// How well each expert alone does in each environment, on its first path.
Sequence<float, E> losses_of_experts(const Model<Mixture>& model, const Paths& data) {
  Sequence<float, 3> x(N * length);
  for (Index n = 0; n < N; ++n) {
    const auto path = data.rows[n * paths];
    std::copy_n(path.data(), path.rows() * 3, x.row_data(n * length));
  }
  const auto joined = forward(get<0>(model.layers), x);
  Sequence<float, E> losses(N);
  for (Index e = 0; e < E; ++e) {
    const auto y = forward(get<1>(model.layers).experts.layers[std::size_t(e)], joined);
    for (Index n = 0; n < N; ++n) {
      float sum = 0;
      for (Index i = 0; i < 2 * length; ++i) {
        const float miss =
            y.data()[2 * n * length + i] - data.moves[std::size_t(2 * n * paths * length + i)];
        sum += miss * miss;
      }
      losses(n, e) = sum;
    }
  }
  return losses;
}

/// The expert of each environment.
std::vector<Index> routes(const Model<Mixture>& model) {
  const auto& table = get<0>(model.layers).weight;
  const auto& router = get<1>(model.layers).router;
  std::vector<Index> of;
  for (Index n = 0; n < N; ++n) {
    Vector<float, D> row{};
    for (Index c = 0; c < C; ++c) row[2 + c] = table(n, c);
    std::int32_t id;
    float weight;
    router.route_row(row, &id, &weight);
    of.push_back(id);
  }
  return of;
}

// ── Training ─────────────────────────────────────────────────────────────────────────────────────

struct Result {
  std::vector<double> error;               ///< of each family: the share of its motion missed
  std::vector<std::vector<double>> guess;  ///< a path of each family: x, y, x, y, ..
  double mean = 0;
  double step_ns = 0;
  double seconds = 0;
};

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Goes on from the first point of each path by itself.
template <class M>
void follow(const M& model, const Paths& data, Result& result) {
  const auto fast = prepare(model);
  double ns = 0;
  Index steps = 0;
  for (Index f = 0; f < n_families; ++f) {
    double missed = 0, all = 0, mean[2] = {};
    const Index first = f * per_family * paths, end = first + per_family * paths;
    for (Index i = first; i < end; ++i) {
      for (Index t = 0; t < length; ++t) {
        for (Index d = 0; d < 2; ++d) mean[d] += static_cast<double>(data.rows[i](t, d));
      }
    }
    for (double& m : mean) m /= static_cast<double>((end - first) * length);
    for (Index i = first; i < end; ++i) {
      const auto path = data.rows[i];
      Sequence<float, 3> guess(length);
      std::copy_n(path.data(), 3, guess.row_data(0));
      typename decltype(fast)::State state{};
      const auto start = Clock::now();
      for (Index t = 1; t < length; ++t) {
        const auto move = fast.step(guess.row(t - 1), state);
        for (Index d = 0; d < 2; ++d) {  // a bound, should it run away
          guess(t, d) = std::clamp(guess(t - 1, d) + move[d] / Paths::faster, -9.0F, 9.0F);
        }
        guess(t, 2) = guess(0, 2);
      }
      ns += 1e9 * seconds_since(start);
      steps += length - 1;
      if (i == first) result.guess.emplace_back();
      for (Index t = 0; t < length; ++t) {
        for (Index d = 0; d < 2; ++d) {
          if (i == first) result.guess.back().push_back(static_cast<double>(guess(t, d)));
          const double value = static_cast<double>(path(t, d));
          missed += std::pow(value - static_cast<double>(guess(t, d)), 2);
          all += std::pow(value - mean[d], 2);
        }
      }
    }
    result.error.push_back(missed / all);
    result.mean += missed / all / static_cast<double>(n_families);
  }
  result.step_ns = ns / static_cast<double>(steps);
}

template <class M>
Result learn(const char* name, M& model, const Paths& data, const Paths& unseen,
             const Arguments& a) {
  Random random(a.seed);
  model = M::initialized(random);
  if constexpr (std::is_same_v<M, Model<Mixture>>) {  // experts start alike
    auto& experts = get<1>(model.layers).experts.layers;
    for (auto& expert : experts) expert = experts[0];
  }
  const Threads allowed(a.threads);
  Trainer trainer(model, AdamW<M>({.rate = 4e-3, .decay = 0}),
                  {.decay = Decay::cosine,
                   .warm_up = std::min<Index>(50, a.steps / 2),
                   .total = std::max<Index>(1, a.steps),
                   .least = 0.01},
                  {.clip = 1, .progress = false});
  const auto start = Clock::now();
  std::vector<Index> items(48);
  double mean = 0;
  [[maybe_unused]] GateFit<MixerRouter<gate>> fit({.starts = 8});
  for (Index step = 1; step <= a.steps; ++step) {
    for (Index& item : items) item = static_cast<Index>(random.below(N * paths));
    mean += trainer.step(data.rows, items, data.loss()).value();
    if constexpr (std::is_same_v<M, Model<Mixture>>) {
      if (step % 50 == 0 && 5 * step <= 2 * a.steps) {
        const auto& table = get<0>(model.layers).weight;
        fit.update(get<1>(model.layers).router, {table.data(), N}, losses_of_experts(model, data),
                   random);
      }
    }
    const Index every = std::max<Index>(1, a.steps / 5);
    if (step % every != 0) continue;
    if (!a.quiet) {
      std::printf("%-8s step %5td  loss %.5f  %4.1f s\n", name, step,
                  mean / static_cast<double>(every), seconds_since(start));
      std::fflush(stdout);
    }
    mean = 0;
  }
  Result result;
  result.seconds = seconds_since(start);
  follow(model, unseen, result);
  return result;
}

void print(const std::vector<Picture::Row>& rows, const Result* const (&results)[3]) {
  std::printf("\nshare of the motion that is missed, and environments by expert\n");
  std::printf("%-16s %9s %9s %9s\n", "", "mixture", "small", "large");
  for (const auto& row : rows) {
    std::printf("%-16s", row.family);
    for (const double error : row.errors) std::printf(" %9.4f", error);
    std::printf("   ");
    for (const double share : row.share) {
      std::printf("%3ld", std::lround(share * static_cast<double>(per_family)));
    }
    std::puts("");
  }
  const auto line = [&](const char* name, const char* format, auto number) {
    std::printf("%-16s", name);
    for (const Result* result : results) std::printf(format, number(*result));
    std::puts("");
  };
  line("mean", " %9.4f", [](const Result& r) { return r.mean; });
  const Index learned[] = {E * parameter_count(Small()), parameter_count(Small()),
                           parameter_count(Large())};
  const Index active[] = {macs<Small>(1) + E * C, macs<Small>(1), macs<Large>(1)};
  std::printf("%-16s %9td %9td %9td\n", "weights", learned[0], learned[1], learned[2]);
  std::printf("%-16s %9td %9td %9td\n", "products a step", active[0], active[1], active[2]);
  line("ns a step", " %9.0f", [](const Result& r) { return r.step_ns; });
  line("s to train", " %9.1f", [](const Result& r) { return r.seconds; });
  std::puts("");
}

/// What is told of each family.
std::vector<Picture::Row> rows_of(const std::vector<Index>& expert, const Paths& unseen,
                                  const Result* const (&results)[3]) {
  std::vector<Picture::Row> rows;
  for (std::size_t f = 0; f < families.size(); ++f) {
    Picture::Row row{
        families[f].name, std::vector<double>(std::size_t{E}), {}, results[0]->guess[f], {}};
    for (std::size_t i = 0; i < std::size_t{per_family}; ++i) {
      const auto e = static_cast<std::size_t>(expert[f * std::size_t{per_family} + i]);
      row.share[e] += 1 / static_cast<double>(per_family);
    }
    const auto path = unseen.rows[static_cast<Index>(f) * per_family * paths];
    for (Index t = 0; t < length; ++t) {
      for (Index d = 0; d < 2; ++d) row.path.push_back(static_cast<double>(path(t, d)));
    }
    for (const Result* result : results) row.errors.push_back(result->error[f]);
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Share of the environments whose expert serves their family more than any other.
double special(const std::vector<Picture::Row>& rows) {
  double sum = 0;
  for (std::size_t e = 0; e < std::size_t{E}; ++e) {
    double most = 0;
    for (const auto& row : rows) most = std::max(most, row.share[e]);
    sum += most / static_cast<double>(rows.size());
  }
  return sum;
}

void run(const Arguments& a) {
  Random random(a.seed);
  std::vector<Point> coefficients;
  for (Index n = 0; n < N; ++n) {
    const Family& f = families[static_cast<std::size_t>(n / per_family)];
    coefficients.push_back({between(f.a, random), between(f.b, random)});
  }
  const Paths data(coefficients, random), unseen(coefficients, random);
  Model<Mixture> mixture;
  Model<Small> small;
  Model<Large> large;
  const Result m = learn("mixture", mixture, data, unseen, a);
  const Result s = learn("small", small, data, unseen, a);
  const Result l = learn("large", large, data, unseen, a);
  const Result* const results[] = {&m, &s, &l};
  const auto rows = rows_of(routes(mixture), unseen, results);
  if (!a.quiet) print(rows, results);
  if (!a.picture.empty() && !Picture(rows, {"mixture", "small", "large"}).write(a.picture)) {
    fail({a.picture, "a place to write", "none"});
  }
  std::printf(
      "experts: missed %.4f mixture, %.4f small, %.4f large; special %.2f; step %.0f, %.0f, "
      "%.0f ns\n",
      m.mean, s.mean, l.mean, special(rows), m.step_ns, s.step_ns, l.step_ns);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("One mixture of experts learns six families of dynamical systems.");
  app.add_option("--picture", a.picture, "file for the picture")->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--steps", a.steps, "steps of the optimizer")->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, another model")->capture_default_str();
  app.add_flag("--quiet", a.quiet, "print the last line only");
  CLI11_PARSE(app, argc, argv);
  try {
    run(a);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
