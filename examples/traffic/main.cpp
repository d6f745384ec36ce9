// Foretells the traffic of a city, an hour ahead, from the two hours before: GMAN on the readings
// of 36 sensors, against what the same time of the week has been on average.

#include <CLI/CLI.hpp>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include <limen/attention/gman.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "picture.hpp"
#include "roads.hpp"

using namespace limen;

namespace {

constexpr Index past = 8, ahead = 4, length = past + ahead, N = Roads::sensors;
constexpr GmanConfig config{
    .nodes = N, .heads = 4, .d_head = 8, .horizon = ahead, .slots = Roads::slots};
using Model = Gman<config>;

struct Arguments {
  Index weeks = 10;
  Index steps = 700;
  Index batch = 32;
  double rate = 4e-3;
  int threads = 2;
  std::uint64_t seed = 1;
  std::string picture = "build/traffic.svg";
  bool quiet = false;
};

/// All readings, as rows of the model; sequence i begins at row i, so sequences overlap.
struct Readings {
  Sequence<float, Model::in> rows;
  Index training = 0;              ///< so many rows to learn from; those behind are for the test
  double mean = 0, deviation = 1;  ///< of the former

  Readings(const Roads& roads, Index weeks) : rows(roads.steps()) {
    training = (weeks - 2) * Roads::days * Roads::slots;
    const auto& v = roads.speeds();
    const auto count = static_cast<std::size_t>(training * N);
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(v[i]);
    mean = sum / static_cast<double>(count);
    for (std::size_t i = 0; i < count; ++i)
      squares += std::pow(static_cast<double>(v[i]) - mean, 2);
    deviation = std::sqrt(squares / static_cast<double>(count));
    for (Index t = 0; t < rows.rows(); ++t) {
      for (Index n = 0; n < N; ++n) {
        const double speed = static_cast<double>(v[static_cast<std::size_t>(t * N + n)]);
        rows(t, n) = static_cast<float>((speed - mean) / deviation);
      }
      rows(t, N) = static_cast<float>(t / Roads::slots % Roads::days);
      rows(t, N + 1) = static_cast<float>(t % Roads::slots);
    }
  }

  Index size() const { return rows.rows() - length + 1; }
  SequenceView<float, Model::in> operator[](Index i) const { return middle_rows(rows, i, length); }
  double speed(Index t, Index n) const { return of(rows(t, n)); }
  double of(float value) const { return mean + deviation * static_cast<double>(value); }
};

/// |y - t|, its mean over the steps ahead.
Loss<float, N> absolute_error(SequenceView<float, N> y, const Shard& shard, const Readings& data) {
  Loss<float, N> loss;
  loss.dy = Sequence<float, N>::zeros(y.rows());
  loss.weight = static_cast<double>(shard.items.size() * static_cast<std::size_t>(ahead * N));
  for (std::size_t k = 0; k < shard.items.size(); ++k) {
    for (Index t = past; t < length; ++t) {
      const Index row = shard.offsets[k] + t;
      for (Index n = 0; n < N; ++n) {
        const double d = static_cast<double>(y(row, n) - data.rows(shard.items[k] + t, n));
        loss.value += std::abs(d) / loss.weight;
        loss.dy(row, n) = static_cast<float>((d > 0 ? 1 : d < 0 ? -1 : 0) / loss.weight);
      }
    }
  }
  return loss;
}

/// What the training weeks had on average: at the same time of the same day, or of all working days
/// or weekends; whichever is nearer to the truth in the test.
class Seasons {
 public:
  Seasons(const Readings& data, bool by_day) : by_day_(by_day) {
    sums_.assign(static_cast<std::size_t>(Roads::days * Roads::slots * N), 0);
    counts_.assign(sums_.size(), 0);
    for (Index t = 0; t < data.training; ++t) {
      for (Index n = 0; n < N; ++n) {
        sums_[place(t, n)] += data.speed(t, n);
        ++counts_[place(t, n)];
      }
    }
  }
  double operator()(Index t, Index n) const { return sums_[place(t, n)] / counts_[place(t, n)]; }

 private:
  std::size_t place(Index t, Index n) const {
    const Index day = t / Roads::slots % Roads::days, kind = by_day_ ? day : day >= 5;
    return static_cast<std::size_t>((kind * Roads::slots + t % Roads::slots) * N + n);
  }
  bool by_day_;
  std::vector<double> sums_, counts_;
};

/// Forecasts for all of the test: foretold[i][k][n] of the window at row data.training + i.
std::vector<float> foretell(const Model& model, const Readings& data) {
  const auto fast = prepare(model);
  const Index count = data.size() - data.training;
  std::vector<float> foretold;
  for (Index first = 0; first < count; first += 32) {
    const Index windows = std::min<Index>(32, count - first);
    Sequence<float, Model::in> x(windows * length);
    std::vector<Index> offsets{0};
    for (Index w = 0; w < windows; ++w) {
      const auto from = data[data.training + first + w];
      std::memcpy(x.row_data(w * length), from.data(),
                  sizeof(float) * static_cast<std::size_t>(length * Model::in));
      offsets.push_back(offsets.back() + length);
    }
    const auto y = fast.forward(x, from_rest(offsets));
    for (Index w = 0; w < windows; ++w) {
      const float* const row = y.data() + (w * length + past) * N;
      foretold.insert(foretold.end(), row, row + ahead * N);
    }
  }
  return foretold;
}

/// Mean absolute errors of guess(window, k, n) in km/h, for each step ahead, and over all.
template <class Guess>
std::vector<double> errors(const Readings& data, Guess guess) {
  std::vector<double> all(static_cast<std::size_t>(ahead) + 1, 0);
  const Index count = data.size() - data.training;
  for (Index w = 0; w < count; ++w) {
    for (Index k = 0; k < ahead; ++k) {
      for (Index n = 0; n < N; ++n) {
        const double truth = data.speed(data.training + w + past + k, n);
        all[static_cast<std::size_t>(k)] += std::abs(guess(w, k, n) - truth);
      }
    }
  }
  for (Index k = 0; k < ahead; ++k) {
    double& e = all[static_cast<std::size_t>(k)];
    e /= static_cast<double>(count * N);
    all.back() += e / ahead;
  }
  return all;
}

void show(const char* name, const std::vector<double>& e) {
  std::printf("%-22s", name);
  for (const double v : e) std::printf("  %6.2f", v);
  std::puts("");
}

/// The days of the test on which the average is most wrong, and at which sensor.
template <class Guess>
Picture picture_of(const Readings& data, const Seasons& seasons, Guess guess) {
  Picture picture;
  const Index first_day = data.training / Roads::slots + 1;
  std::vector<Index> taken;
  for (int panel = 0; panel < 3; ++panel) {
    double most = -1;
    Index best_day = 0, best = 0;
    for (Index day = first_day; day + 1 < data.rows.rows() / Roads::slots; ++day) {
      if (std::find(taken.begin(), taken.end(), day) != taken.end()) continue;
      for (Index n = 0; n < N; ++n) {
        double wrong = 0;
        for (Index t = day * Roads::slots; t < (day + 1) * Roads::slots; ++t) {
          wrong += std::abs(seasons(t, n) - data.speed(t, n));
        }
        if (wrong <= most) continue;
        most = wrong;
        best_day = day;
        best = n;
      }
    }
    taken.push_back(best_day);
    Picture::Day day{best, best_day % Roads::days, {}, {}, {}};
    for (Index t = best_day * Roads::slots; t < (best_day + 1) * Roads::slots; ++t) {
      day.truth.push_back(data.speed(t, best));
      day.season.push_back(seasons(t, best));
      day.foretold.push_back(guess(t - data.training - length + 1, ahead - 1, best));
    }
    picture.add(day);
  }
  return picture;
}

void run(const Arguments& a) {
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const Threads allowed(a.threads);
  const Roads roads(a.weeks, a.seed);
  const Readings data(roads, a.weeks);
  Random random(a.seed);
  Model model = Model::initialized(random);
  if (!a.quiet) {
    std::printf(
        "%td sensors, %td weeks, %td accidents; %td numbers learn from all but the last 2\n", N,
        a.weeks, roads.accidents(), parameter_count(model));
  }
  Trainer trainer(model, AdamW<Model>({.rate = a.rate}),
                  {.decay = Decay::cosine,
                   .warm_up = std::min<Index>(50, a.steps / 2),
                   .total = a.steps,
                   .least = 0.02},
                  {.batch = a.batch, .clip = 1, .progress = false, .seed = a.seed});
  const auto loss = [&](SequenceView<float, N> y, const Shard& shard) {
    return absolute_error(y, shard, data);
  };
  std::vector<Index> items(static_cast<std::size_t>(a.batch));
  double mean = 0;
  for (Index step = 1; step <= a.steps; ++step) {
    for (Index& item : items) {
      item =
          static_cast<Index>(random.below(static_cast<std::uint64_t>(data.training - length + 1)));
    }
    mean += trainer.step(data, items, loss).value();
    constexpr Index every = 100;
    if (a.quiet || step % every != 0) continue;
    std::printf("  step %5td  error %.2f km/h  %.0f s\n", step, mean / every * data.deviation,
                seconds());
    std::fflush(stdout);
    mean = 0;
  }

  const auto foretold = foretell(model, data);
  const auto by_model = [&](Index w, Index k, Index n) {
    return data.of(foretold[static_cast<std::size_t>((w * ahead + k) * N + n)]);
  };
  const auto by_season = [&](const Seasons& seasons) {
    return errors(
        data, [&](Index w, Index k, Index n) { return seasons(data.training + w + past + k, n); });
  };
  const Seasons same_day(data, true), same_kind(data, false);
  const auto e_day = by_season(same_day), e_kind = by_season(same_kind);
  const bool day_is_best = e_day.back() < e_kind.back();
  const auto e = errors(data, by_model);
  if (!a.quiet) {
    std::printf("\n%-22s  %6s  %6s  %6s  %6s  %6s\n", "wrong by, in km/h", "15 min", "30 min",
                "45 min", "1 h", "all");
    show("gman", e);
    show("mean, same day", e_day);
    show("mean, same kind of day", e_kind);
    show("as it is now", errors(data, [&](Index w, Index, Index n) {
           return data.speed(data.training + w + past - 1, n);
         }));
    std::printf("\nin %.0f s\n", seconds());
  }
  if (!a.picture.empty() &&
      !picture_of(data, day_is_best ? same_day : same_kind, by_model).write(a.picture)) {
    fail({a.picture, "a place to write", "none"});
  }
  const double season = std::min(e_day.back(), e_kind.back());
  std::printf("traffic: gman %.2f km/h, seasonal mean %.2f km/h, %.0f%% less\n", e.back(), season,
              100 * (1 - e.back() / season));
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  CLI::App app("Foretells the traffic of a simulated city with GMAN.");
  app.add_option("--weeks", a.weeks, "of readings, the last two for the test")
      ->check(CLI::Range(3, 52))
      ->capture_default_str();
  app.add_option("--steps", a.steps, "of training")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--batch", a.batch, "sequences in a step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rate", a.rate, "of learning")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", a.threads, "threads to train on")->capture_default_str();
  app.add_option("--seed", a.seed, "another seed, another city")->capture_default_str();
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
