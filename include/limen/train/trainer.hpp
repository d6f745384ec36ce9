#pragma once
/// @file  Trainer: mini-batches, threads, checkpoints, and when to stop.
///
///     Trainer<Model, AdamW<Model>> trainer(model, AdamW<Model>({.rate = 3e-3}),
///                                          {.decay = Decay::cosine, .total = 900},
///                                          {.batch = 64, .epochs = 40, .last = "last.safetensors"});
///     auto fit = trainer.fit(data, training, loss, measure);
///
///   data      data[i] gives the rows of sequence i (Sequences, or anything of yours)
///   loss      loss(y, shard) gives a Loss; `shard` says whose rows y are
///   measure   measure(model) gives a number to make small, such as the error on other data
///
/// A mini-batch is cut into `.shards` parts, which run on the threads allowed (core/parallel.hpp),
/// each with its own gradient and its own generator; the gradients are added in the order of the
/// shards. So the number of threads does not change a bit. What is drawn depends on (seed, step,
/// shard) and (seed, epoch) alone, so a run that is saved and loaded goes on bit for bit.

#include <cmath>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/random.hpp>
#include <limen/io/checkpoint.hpp>
#include <limen/train/average.hpp>
#include <limen/train/clip.hpp>
#include <limen/train/loss.hpp>
#include <limen/train/optimizer.hpp>
#include <limen/train/progress.hpp>
#include <limen/train/schedule.hpp>
#include <limen/train/sequences.hpp>

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
  std::string best = "";    ///< file for the model with the best measure; empty: none
  std::string last = "";    ///< file for all that is needed to go on, after each epoch; empty: none
};

/// How a run went.
struct Fit {
  Index epochs = 0;  ///< done so far
  Index steps = 0;
  double loss = 0;   ///< mean of the last epoch
  double best = 0;   ///< the best measure (without one: the best loss)
  bool stopped_early = false;
};

template <Trainable M, class Optimizer>
class Trainer {
  using Real = typename M::Scalar;
  using State = typename M::State;

 public:
  /// Trains `model` in place; it must outlive the trainer.
  Trainer(M& model, Optimizer optimizer, Schedule schedule = {}, TrainerOptions options = {})
      : model_(model),
        optimizer_(std::move(optimizer)),
        schedule_(schedule),
        options_(std::move(options)),
        random_(options_.seed) {
    schedule_.check().value();
    if (options_.batch < 1 || options_.shards < 1) {
      fail({"TrainerOptions", "a batch and shards of at least 1",
            std::to_string(options_.batch) + " and " + std::to_string(options_.shards)});
      options_.batch = options_.shards = 1;
    }
    for (Index s = 0; s < options_.shards; ++s) workers_.push_back(std::make_unique<Worker>());
    if (options_.average > 0) average_.emplace(model_, options_.average);
  }

  // ── One step ───────────────────────────────────────────────────────────────────────────────────

  /// Learns from the sequences `items` of the data; gives their mean loss before the step. If that or
  /// the gradient is not finite, the model stays as it was and the error names the first parameter.
  template <class Data, class LossOf>
  Result<double> step(const Data& data, std::span<const Index> items, LossOf&& loss) {
    return step_on(
        items, 0, [&](Index i) { return data[i]; }, loss, {});
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
    return step_on(items, first, piece, loss, states);
  }

  // ── A run ──────────────────────────────────────────────────────────────────────────────────────

  /// Epochs over the sequences `items`, until `.epochs` are done or patience ends.
  template <class Data, class LossOf, class Measure>
  Result<Fit> fit(const Data& data, std::span<const Index> items, LossOf&& loss,
                  Measure&& measure) {
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
        auto value = step(data, std::span(order).subspan(static_cast<std::size_t>(first),
                                                         static_cast<std::size_t>(size)),
                          loss);
        if (!value) return value.error();
        sum += *value * static_cast<double>(size);
        progress.show(b + 1, sum / static_cast<double>(first + size));
      }
      ++at_.epoch;
      at_.loss = count > 0 ? sum / static_cast<double>(count) : 0;
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

  const M& gradient() const { return workers_[0]->gradient; }
  Optimizer& optimizer() { return optimizer_; }
  const Schedule& schedule() const { return schedule_; }
  Index steps() const { return at_.step; }
  Index epochs() const { return at_.epoch; }

  // ── Checkpoints ────────────────────────────────────────────────────────────────────────────────

  /// All that is needed to go on: model ("model."), optimizer, average, schedule, counters.
  Status save(const std::string& path) {
    return limen::save(inventory(), path, {{"limen", version}, {"kind", "trainer"}});
  }

  /// Reads what `save` wrote, into a trainer of the same type and options; on an error nothing has
  /// changed.
  Status load(const std::string& path) {
    const At before = at_;
    const Status s = limen::load(inventory(), path);
    if (s) {
      random_ = Random(at_.key, at_.stream);
    } else {
      at_ = before;
    }
    return s;
  }

 private:
  /// What a shard works with. Kept from step to step, with its memory.
  struct Worker {
    M gradient{};
    typename M::Cache cache{};
    std::vector<Index> offsets{0};
    std::vector<State> d_states;
    Random random;
    double value = 0, weight = 0;
    Reduction reduction = Reduction::mean;
    std::optional<Error> error;
#if LIMEN_EXCEPTIONS
    std::exception_ptr thrown;
#endif
  };

  /// Where the run is.
  struct At {
    Index step = 0, epoch = 0, worse = 0;  ///< worse: epochs since the best
    double loss = 0, best = std::numeric_limits<double>::infinity();
    std::uint64_t key = 0, stream = 0;
  };

  template <class Rows, class LossOf>
  Result<double> step_on(std::span<const Index> items, Index first_row, Rows&& rows, LossOf&& loss,
                         std::span<State> states) {
    const FlushDenormals guard;
    if (!states.empty() && states.size() != items.size()) {
      return Error{"states of the batch", std::to_string(items.size()),
                   std::to_string(states.size())};
    }
    const Index count = static_cast<Index>(items.size());
    const Index shards = count < options_.shards ? count : options_.shards;
    if (shards == 0) return 0.0;
    const auto run = [&](Index s) {
      const auto first = static_cast<std::size_t>(count * s / shards);
      const auto size = static_cast<std::size_t>(count * (s + 1) / shards) - first;
      run_guarded(*workers_[static_cast<std::size_t>(s)], s, items.subspan(first, size), first_row,
                  rows, loss, states.empty() ? states : states.subspan(first, size));
    };
    parallel_for(shards, 2 * worth_a_thread_ns, run);
    if (std::optional<Error> error = first_error(shards)) return *std::move(error);
    const double value = reduce(shards);
    if (std::optional<Error> error = learn(value)) return *std::move(error);
    return value;
  }

  template <class Rows, class LossOf>
  void run_shard(Worker& w, Index s, std::span<const Index> items, Index first_row, Rows& rows,
                 LossOf& loss, std::span<State> states) {
    set_zero(w.gradient);
    w.offsets.assign(1, 0);
    for (const Index i : items) w.offsets.push_back(w.offsets.back() + rows(i).rows());
    Sequence<Real, M::in> x(w.offsets.back());
    for (std::size_t k = 0; k < items.size(); ++k) {
      const auto from = rows(items[k]);
      for (Index t = 0; t < from.rows(); ++t) {
        std::memcpy(x.row_data(w.offsets[k] + t), from.row(t).data(), sizeof(Real) * M::in);
      }
    }
    w.random = random_.split(static_cast<std::uint64_t>(at_.step))
                   .split(static_cast<std::uint64_t>(s));
    Context context{.random = &w.random, .taps = nullptr};
    const auto batch = [&](std::span<State> of) {
      return of.empty() ? Batch<State>(w.offsets, &context) : Batch<State>(of, w.offsets, &context);
    };
    const auto y = model_.forward(std::move(x), batch(states), w.cache);
    auto l = loss(SequenceView<Real, M::out>(y), Shard{items, w.offsets, first_row});
    w.value = l.value;
    w.weight = l.weight;
    w.reduction = l.reduction;
    if (l.dy.rows() != y.rows()) {
      w.error = last_error() ? *last_error()
                             : Error{"loss", std::to_string(y.rows()) + " rows of gradient",
                                     std::to_string(l.dy.rows())};
      return;
    }
    w.d_states.assign(states.size(), State{});
    model_.backward(l.dy, batch(w.d_states), w.cache, w.gradient);
  }

  /// An exception must not leave a thread: it is kept, and thrown again where the step was called.
  template <class... A>
  void run_guarded(Worker& w, A&&... arguments) {
    w.error.reset();
#if LIMEN_EXCEPTIONS
    w.thrown = nullptr;
    try {
      run_shard(w, std::forward<A>(arguments)...);
    } catch (const Exception& e) {
      w.error = e.error;
    } catch (...) {
      w.thrown = std::current_exception();
    }
#else
    last_error().reset();
    run_shard(w, std::forward<A>(arguments)...);
#endif
  }

  std::optional<Error> first_error(Index shards) {
    for (Index s = 0; s < shards; ++s) {
      Worker& w = *workers_[static_cast<std::size_t>(s)];
#if LIMEN_EXCEPTIONS
      if (w.thrown) std::rethrow_exception(w.thrown);
#endif
      if (w.error) return w.error;
    }
    return {};
  }

  /// The mean loss; its gradient goes to the first worker.
  double reduce(Index shards) {
    double weight = 0, value = 0;
    for (Index s = 0; s < shards; ++s) weight += workers_[static_cast<std::size_t>(s)]->weight;
    for (Index s = 0; s < shards; ++s) {
      Worker& w = *workers_[static_cast<std::size_t>(s)];
      const double all = weight > 0 ? weight : 1;
      const double share = w.reduction == Reduction::mean ? w.weight / all : 1 / all;
      value += share * w.value;
      std::size_t number = 0;
      for_each_tensor(
          [&](auto& sum, const auto& part) {
            const bool frozen = optimizer_.roles()[number++].frozen;
            if constexpr (is_statistic<std::remove_cvref_t<decltype(sum)>>) {
              if (s == 0) return;
              detail::add_scaled(sum.data(), 1, part.data(), sum.size);
              sum.weight += part.weight;
            } else if (frozen) {
              if (s == 0) detail::scale(sum.data(), 0, sum.size);
            } else if (s == 0) {
              detail::scale(sum.data(), share, sum.size);
            } else {
              detail::add_scaled(sum.data(), share, part.data(), sum.size);
            }
          },
          workers_[0]->gradient, static_cast<const M&>(w.gradient));
    }
    return value;
  }

  /// One step along the gradient, if it is finite.
  std::optional<Error> learn(double value) {
    M& gradient = workers_[0]->gradient;
    const double norm =
        options_.clip > 0 ? clip_global_norm(gradient, options_.clip) : global_norm(gradient);
    if (!std::isfinite(norm) || !std::isfinite(value)) return not_finite(value, norm);
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

  Inventory inventory() {
    Inventory all;
    at_.key = random_.key();
    at_.stream = random_.stream();
    all.add("model.", model_);
    optimizer_.list(all, "optimizer.");
    if (average_) average_->list(all, "average.");
    schedule_.list(all, "schedule.");
    all.add_number("trainer.step", at_.step);
    all.add_number("trainer.epoch", at_.epoch);
    all.add_number("trainer.worse", at_.worse);
    all.add_number("trainer.loss", at_.loss);
    all.add_number("trainer.best", at_.best);
    all.add_number("trainer.key", at_.key);
    all.add_number("trainer.stream", at_.stream);
    return all;
  }

  M& model_;
  Optimizer optimizer_;
  Schedule schedule_;
  TrainerOptions options_;
  Random random_;
  std::optional<Average<M>> average_;
  std::vector<std::unique_ptr<Worker>> workers_;
  At at_;
};

}  // namespace limen::inline LIMEN_ABI
