#pragma once
/// @file  Trainer: mini-batches, threads, checkpoints, and when to stop.
///
///     Trainer<Model, AdamW<Model>> trainer(
///         model, AdamW<Model>({.rate = 3e-3}), {.decay = Decay::cosine, .total = 900},
///         {.batch = 64, .epochs = 40, .last = "last.safetensors"});
///     auto fit = trainer.fit(data, training, loss, measure);
///
///   data      data[i] gives the rows of sequence i (Sequences, or anything of yours)
///   loss      loss(y, shard) gives a Loss; `shard` says whose rows y are. Threads call it.
///   measure   measure(model) gives a number to make small, such as the error on other data
///
/// A mini-batch is cut into `.shards` parts (data_parallel.hpp), so the number of threads does not
/// change a bit. What is drawn depends on (seed, step, shard) and (seed, epoch) alone, so a run
/// that is saved and loaded goes on bit for bit.

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <limen/core/layer.hpp>
#include <limen/core/random.hpp>
#include <limen/io/checkpoint.hpp>
#include <limen/train/average.hpp>
#include <limen/train/clip.hpp>
#include <limen/train/data_parallel.hpp>
#include <limen/train/optimizer.hpp>
#include <limen/train/progress.hpp>
#include <limen/train/schedule.hpp>

namespace limen::inline LIMEN_ABI {

struct TrainerOptions {
  Index batch = 32;         ///< sequences in a mini-batch
  Index shards = 2;         ///< parts of a mini-batch that may run at the same time
  Index epochs = 10;        ///< in all, those before a loaded checkpoint included
  double clip = 0;          ///< largest norm of the gradient; 0: no limit
  double average = 0;       ///< decay of the moving average of the weights; 0: none is kept
  double statistics = 0.1;  ///< how far a Statistic moves towards what a mini-batch measured
  Index patience = 0;       ///< epochs without a better measure before it stops; 0: all epochs
  bool shuffle = true;      ///< another order in each epoch
  bool progress = true;     ///< a line on stderr, if that is a terminal
  std::uint64_t seed = 0;
  const GraphRun* graph = nullptr;  ///< of all sequences, for layers along edges
  std::string best = "";            ///< file for the model with the best measure; empty: none
  std::string last = "";  ///< file for all that is needed to go on, after each epoch; empty: none
};

/// How a run went.
struct Fit {
  Index epochs = 0;  ///< done so far
  Index steps = 0;
  double loss = 0;  ///< mean of the last epoch
  double best = 0;  ///< the best measure (without one: the best loss)
  bool stopped_early = false;
};

template <Trainable M, class Optimizer>
class Trainer {
  using State = typename M::State;

 public:
  /// Trains `model` in place; it must outlive the trainer.
  Trainer(M& model, Optimizer optimizer, Schedule schedule = {}, TrainerOptions options = {})
      : model_(model),
        optimizer_(std::move(optimizer)),
        schedule_(schedule),
        options_(checked(std::move(options))),
        random_(options_.seed),
        parallel_(options_.shards) {
    schedule_.check().value();
    parallel_.set_graph(options_.graph);
    if (options_.average > 0) average_.emplace(model_, options_.average);
  }

  // ── One step ───────────────────────────────────────────────────────────────────────────────────

  /// Learns from the sequences `items` of the data; gives their loss before the step. On an error
  /// nothing has changed; if the loss or the gradient is not finite, it names the first parameter.
  template <class Data, class LossOf>
  Result<double> step(const Data& data, std::span<const Index> items, LossOf&& loss) {
    return step_on(data, items, [&](Index i) { return data[i]; }, loss, {}, 0);
  }

  /// The same for rows `first` to `first + rows` of each sequence (fewer where it ends), from
  /// `states`, one for each of the items, which move to the end of the chunk. The gradient does not
  /// reach back beyond the chunk.
  template <class Data, class LossOf>
  Result<double> step_chunk(const Data& data, std::span<const Index> items, Index first, Index rows,
                            std::span<State> states, LossOf&& loss) {
    const auto piece = [&](Index i) {
      const auto all = data[i];
      const Index begin = first < all.rows() ? first : all.rows(), left = all.rows() - begin;
      return all.middle_rows(begin, rows < left ? rows : left);
    };
    return step_on(data, items, piece, loss, states, first);
  }

  // ── A run ──────────────────────────────────────────────────────────────────────────────────────

  /// Epochs over the sequences `items`, until `.epochs` are done or patience ends.
  template <class Data, class LossOf, class Measure>
  Result<Fit> fit(const Data& data, std::span<const Index> items, LossOf&& loss,
                  Measure&& measure) {
    if (items.empty()) return Error{"sequences to learn from", "at least one", "none"};
    const Index count = static_cast<Index>(items.size());
    const Index steps = (count + options_.batch - 1) / options_.batch;
    Progress progress(options_.progress);
    while (at_.epoch < options_.epochs && !stopped_early()) {
      const std::vector<Index> order = order_of_epoch(items);
      progress.begin(at_.epoch + 1, options_.epochs, steps);
      double sum = 0;
      for (Index b = 0; b < steps; ++b) {
        const Index first = b * options_.batch, left = count - first;
        const Index size = left < options_.batch ? left : options_.batch;
        auto value = step(data,
                          std::span(order).subspan(static_cast<std::size_t>(first),
                                                   static_cast<std::size_t>(size)),
                          loss);
        if (!value) return value.error();
        sum += *value * static_cast<double>(size);
        progress.show(b + 1, sum / static_cast<double>(first + size));
      }
      ++at_.epoch;
      at_.loss = sum / static_cast<double>(count);
      if (Status s = finish_epoch(measure(learned())); !s) return s.error();
    }
    return Fit{at_.epoch, at_.step, at_.loss, at_.best, stopped_early()};
  }

  /// The same without a measure: the loss itself says what is best.
  template <class Data, class LossOf>
  Result<Fit> fit(const Data& data, std::span<const Index> items, LossOf&& loss) {
    return fit(data, items, loss, [&](const M&) { return at_.loss; });
  }

  /// The model to use: the average if one is kept.
  const M& learned() const { return average_ ? average_->value() : model_; }

  const M& gradient() const { return parallel_.gradient(); }
  Optimizer& optimizer() { return optimizer_; }
  const Schedule& schedule() const { return schedule_; }
  Index steps() const { return at_.step; }
  Index epochs() const { return at_.epoch; }

  // ── Checkpoints ────────────────────────────────────────────────────────────────────────────────

  /// All that is needed to go on: model ("model."), optimizer, average, schedule, counters.
  Status save(const std::string& path) {
    at_.key = random_.key();
    at_.stream = random_.stream();
    return limen::save(inventory(at_, schedule_), path, {{"limen", version}, {"kind", "trainer"}});
  }

  /// Reads what `save` wrote, into a trainer of the same types; the schedule is the one saved. On
  /// an error nothing has changed.
  Status load(const std::string& path) {
    auto file = Safetensors::open(path);
    if (!file) return file.error();
    At at;
    Schedule schedule;
    Inventory counters;  // first, as they must make sense before anything else is touched
    list(counters, at, schedule);
    if (Status s = limen::load(counters, *file, {.ignore_extra = true, .finite = false}); !s)
      return s;
    if (Status s = schedule.check(); !s) return s;
    if (at.step < 0 || at.epoch < 0 || at.worse < 0) {
      return Error{"trainer.step, .epoch, .worse", "0 or more", "less in " + file->file_name()};
    }
    if (Status s = limen::load(inventory(at, schedule), *file, {.finite = false}); !s) return s;
    at_ = at;
    schedule_ = schedule;
    random_ = Random(at.key, at.stream);
    return {};
  }

 private:
  /// Where the run is.
  struct At {
    Index step = 0, epoch = 0, worse = 0;  ///< worse: epochs since the best
    double loss = 0, best = std::numeric_limits<double>::max();
    std::uint64_t key = 0, stream = 0;  ///< of the generator
  };

  static TrainerOptions checked(TrainerOptions o) {
    const auto at_least = [](const char* who, Index& x, Index least) {
      if (x >= least) return;
      fail({who, std::to_string(least) + " or more", std::to_string(x)});
      x = least;
    };
    at_least("TrainerOptions.batch", o.batch, 1);
    at_least("TrainerOptions.shards", o.shards, 1);
    at_least("TrainerOptions.epochs", o.epochs, 0);
    at_least("TrainerOptions.patience", o.patience, 0);
    detail::check_option("TrainerOptions.clip", o.clip, 0, detail::unlimited);
    detail::check_option("TrainerOptions.average", o.average, 0, 1);
    return o;
  }

  template <class Data, class Rows, class LossOf>
  Result<double> step_on([[maybe_unused]] const Data& data, std::span<const Index> items,
                         Rows&& rows, LossOf&& loss, std::span<State> states, Index first_row) {
    const FlushDenormals guard;
    if constexpr (requires { data.size(); }) {
      const auto size = static_cast<Index>(data.size());
      for (const Index i : items) {
        if (i >= 0 && i < size) continue;
        return Error{"number of a sequence", "0 to " + std::to_string(size - 1), std::to_string(i)};
      }
    }
    auto found = parallel_.run(model_, items, rows, loss,
                               random_.split(static_cast<std::uint64_t>(at_.step)),
                               optimizer_.roles(), states, first_row);
    if (!found) return found.error();
    if (std::optional<Error> error = learn(*found)) return *std::move(error);
    if (!states.empty()) parallel_.last_states(states);
    return found->loss;
  }

  /// One step along the gradient, if it is finite and anything was counted.
  std::optional<Error> learn(const Found& found) {
    M& gradient = parallel_.gradient();
    const double norm = global_norm(gradient);
    if (!std::isfinite(norm) || !std::isfinite(found.loss)) return not_finite(found.loss, norm);
    if (found.weight == 0) return {};
    if (options_.clip > 0) clip_to(gradient, norm, options_.clip);
    optimizer_.update(model_, gradient, schedule_(at_.step));
    settle(model_, gradient, options_.statistics);
    if (average_) average_->update(model_);
    ++at_.step;
    return {};
  }

  Error not_finite(double value, double norm) const {
    const std::string place = "loss " + std::to_string(value) + " and gradient norm " +
                              std::to_string(norm) + " in step " + std::to_string(at_.step);
    if (const std::string name = first_not_finite(model_); !name.empty()) {
      return {name, "finite numbers", "others, hence " + place};
    }
    const std::string name = first_not_finite(gradient());
    return {name.empty() ? "loss" : name, "a finite gradient", place};
  }

  std::vector<Index> order_of_epoch(std::span<const Index> items) const {
    std::vector<Index> order(items.begin(), items.end());
    if (options_.shuffle) {
      Random random(random_.key() ^ 0x9E3779B97F4A7C15, random_.stream());
      random.split(static_cast<std::uint64_t>(at_.epoch)).shuffle(std::span(order));
    }
    return order;
  }

  Status finish_epoch(double measured) {
    const bool better = measured < at_.best;
    at_.worse = better ? 0 : at_.worse + 1;
    if (better) at_.best = measured;
    if (better && !options_.best.empty()) {
      if (Status s = limen::save(learned(), options_.best); !s) return s;
    }
    return options_.last.empty() ? Status() : save(options_.last);
  }

  bool stopped_early() const { return options_.patience > 0 && at_.worse >= options_.patience; }

  static void list(Inventory& all, At& at, Schedule& schedule) {
    schedule.list(all, "schedule.");
    all.add_number("trainer.step", at.step);
    all.add_number("trainer.epoch", at.epoch);
    all.add_number("trainer.worse", at.worse);
    all.add_number("trainer.loss", at.loss);
    all.add_number("trainer.best", at.best);
    all.add_number("trainer.key", at.key);
    all.add_number("trainer.stream", at.stream);
  }

  Inventory inventory(At& at, Schedule& schedule) {
    Inventory all;
    all.add("model.", model_);
    optimizer_.list(all, "optimizer.");
    if (average_) average_->list(all, "average.");
    list(all, at, schedule);
    return all;
  }

  M& model_;
  Optimizer optimizer_;
  Schedule schedule_;
  TrainerOptions options_;
  Random random_;
  DataParallel<M> parallel_;
  std::optional<Average<M>> average_;
  At at_;
};

}  // namespace limen::inline LIMEN_ABI
