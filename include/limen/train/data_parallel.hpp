#pragma once
/// @file  The gradient of a mini-batch, on several threads, with the same bits for any number of
/// them.
///
///     DataParallel<Model> parallel(2);                          // two shards
///     const Threads two(2);                                     // that may run at the same time
///     auto found = parallel.run(model, items, rows, loss, random);
///     optimizer.update(model, parallel.gradient());
///
/// The sequences are cut into shards of neighbours. Each shard has a gradient, a cache and a random
/// generator of its own; the gradients are added in the order of the shards. So the number of
/// shards is part of the result, the number of threads is not.
///
///   rows   rows(i) gives the rows of sequence i
///   loss   loss(y, shard) gives a Loss; `shard` says whose rows y are. Called by several threads.

#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <limen/core/layer.hpp>
#include <limen/core/parallel.hpp>
#include <limen/core/random.hpp>
#include <limen/train/loss.hpp>
#include <limen/train/optimizer.hpp>
#include <limen/train/sequences.hpp>

namespace limen::inline LIMEN_ABI {

/// What the shards found together.
struct Found {
  double loss = 0;    ///< mean over what was counted, or the sum, as the loss has it
  double weight = 0;  ///< how much was counted; 0: there is nothing to learn from
};

template <Trainable M>
class DataParallel {
  using Real = typename M::Scalar;
  using State = typename M::State;

 public:
  explicit DataParallel(Index shards) {
    if (shards < 1) fail({"DataParallel: shards", "1 or more", std::to_string(shards)});
    for (Index s = 0; s < (shards < 1 ? 1 : shards); ++s) {
      workers_.push_back(std::make_unique<Worker>());
    }
  }

  /// For layers along edges: the graph of all sequences.
  void set_graph(const GraphRun* graph) { graph_ = graph; }

  /// Of `run`, until the next one.
  M& gradient() { return workers_[0]->gradient; }
  const M& gradient() const { return workers_[0]->gradient; }

  /// From rest, or from `states`, one for each of the items; where those end, `last_states` says.
  /// `first_row` is for the loss to know. Gradients of frozen parameters are left 0.
  template <class Rows, class LossOf>
  Result<Found> run(const M& model, std::span<const Index> items, Rows&& rows, LossOf&& loss,
                    const Random& random, std::span<const ParameterRole> roles = {},
                    std::span<const State> states = {}, Index first_row = 0) {
    const FlushDenormals guard;
    const Index count = static_cast<Index>(items.size());
    const Index most = static_cast<Index>(workers_.size());
    used_ = count < most ? count : most;
    if (!states.empty() && states.size() != items.size()) {
      return Error{"states of the batch", std::to_string(items.size()),
                   std::to_string(states.size())};
    }
    if (used_ == 0) return Error{"sequences of the batch", "at least one", "none"};
    parallel_for(used_, 2 * worth_a_thread_ns, [&](Index s) {
      Worker& w = *workers_[static_cast<std::size_t>(s)];
      const auto first = static_cast<std::size_t>(count * s / used_);
      const auto size = static_cast<std::size_t>(count * (s + 1) / used_) - first;
      w.random = random.split(static_cast<std::uint64_t>(s));
      const auto from = states.empty() ? states : states.subspan(first, size);
      w.states.assign(from.begin(), from.end());
      guarded(w, [&] { run_shard(w, model, items.subspan(first, size), first_row, rows, loss); });
    });
    if (std::optional<Error> error = first_error()) return *std::move(error);
    return reduce(roles);
  }

  /// Where the sequences of the latest run ended.
  void last_states(std::span<State> states) const {
    for (Index s = 0; s < used_; ++s) {
      const auto& from = workers_[static_cast<std::size_t>(s)]->states;
      std::copy(from.begin(), from.end(), states.begin());
      states = states.subspan(from.size());
    }
  }

 private:
  /// What a shard works with. Kept from run to run, with its memory.
  struct Worker {
    M gradient{};
    typename M::Cache cache{};
    std::vector<Index> offsets{0};
    std::vector<State> states, d_states;
    Random random;
    double value = 0, weight = 0;
    Reduction reduction = Reduction::mean;
    std::optional<Error> error;
#if LIMEN_EXCEPTIONS
    std::exception_ptr thrown;
#endif
  };

  template <class Rows, class LossOf>
  void run_shard(Worker& w, const M& model, std::span<const Index> items, Index first_row,
                 Rows& rows, LossOf& loss) const {
    set_zero(w.gradient);
    w.offsets.assign(1, 0);
    for (const Index i : items) w.offsets.push_back(w.offsets.back() + rows(i).rows());
    Context context{.random = &w.random, .taps = nullptr, .graph = graph_};
    const auto batch = [&](std::vector<State>& of) {
      return of.empty() ? Batch<State>(w.offsets, &context) : Batch<State>(of, w.offsets, &context);
    };
    const auto y = model.forward(gather(w.offsets, items, rows), batch(w.states), w.cache);
    if (y.rows() != w.offsets.back()) return failed(w, "output of the model", y.rows());
    auto l = loss(SequenceView<Real, M::out>(y), Shard{items, w.offsets, first_row});
    if (l.dy.rows() != y.rows()) return failed(w, "gradient of the loss", l.dy.rows());
    w.value = l.value;
    w.weight = l.weight;
    w.reduction = l.reduction;
    w.d_states.assign(w.states.size(), State{});
    model.backward(l.dy, batch(w.d_states), w.cache, w.gradient);
  }

  /// The rows of the items, back to back.
  template <class Rows>
  static Sequence<Real, M::in> gather(std::span<const Index> offsets, std::span<const Index> items,
                                      Rows& rows) {
    Sequence<Real, M::in> x(offsets.back());
    for (std::size_t k = 0; k < items.size(); ++k) {
      const SequenceView<Real, M::in> from = rows(items[k]);
      for (Index t = 0; t < from.rows(); ++t) {
        std::memcpy(x.row_data(offsets[k] + t), from.row(t).data(), sizeof(Real) * M::in);
      }
    }
    return x;
  }

  /// Rows are missing. Without exceptions somebody has left word why.
  static void failed(Worker& w, const char* who, Index found) {
    w.error = last_error()
                  ? *last_error()
                  : Error{who, std::to_string(w.offsets.back()) + " rows", std::to_string(found)};
  }

  /// An exception must not leave a thread: it is kept, and thrown again where the run was called.
  template <class F>
  static void guarded(Worker& w, F f) {
    w.error.reset();
    last_error().reset();
#if LIMEN_EXCEPTIONS
    w.thrown = nullptr;
    try {
      f();
    } catch (const Exception& e) {
      w.error = e.error;
    } catch (...) {
      w.thrown = std::current_exception();
    }
#else
    f();
    if (!w.error && last_error()) w.error = last_error();
#endif
  }

  std::optional<Error> first_error() const {
    for (Index s = 0; s < used_; ++s) {
      const Worker& w = *workers_[static_cast<std::size_t>(s)];
#if LIMEN_EXCEPTIONS
      if (w.thrown) std::rethrow_exception(w.thrown);
#endif
      if (w.error) return w.error;
    }
    return {};
  }

  /// All gradients to the first worker's, each by its share of what was counted.
  Found reduce(std::span<const ParameterRole> roles) {
    Found found;
    for (Index s = 0; s < used_; ++s) found.weight += workers_[static_cast<std::size_t>(s)]->weight;
    for (Index s = 0; s < used_; ++s) {
      const Worker& w = *workers_[static_cast<std::size_t>(s)];
      const double share = w.reduction == Reduction::sum ? 1
                           : found.weight > 0            ? w.weight / found.weight
                                                         : 0;
      found.loss += share * w.value;
      add_share(s == 0, share, w.gradient, roles);
    }
    return found;
  }

  void add_share(bool first, double share, const M& part, std::span<const ParameterRole> roles) {
    std::size_t number = 0;
    for_each_tensor(
        [&](auto& sum, const auto& p) {
          const bool frozen = number < roles.size() && roles[number].frozen;
          ++number;
          if constexpr (is_statistic<std::remove_cvref_t<decltype(sum)>>) {
            if (first) return;
            detail::add_scaled(sum.data(), 1, p.data(), sum.size);
            sum.weight += p.weight;
          } else if (frozen) {
            if (first) fill(sum, 0);
          } else if (!first) {
            detail::add_scaled(sum.data(), share, p.data(), sum.size);
          } else if (share != 1) {
            detail::scale(sum.data(), share, sum.size);
          }
        },
        gradient(), part);
  }

  std::vector<std::unique_ptr<Worker>> workers_;
  Index used_ = 0;
  const GraphRun* graph_ = nullptr;
};

}  // namespace limen::inline LIMEN_ABI
