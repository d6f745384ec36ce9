#pragma once
/// @file  Heads and gates of a network that is there already, trained in turns: JEI-DNN.
///
///     JeiTraining training(net, gates, jei_costs(exit_macs<Net>(), 10), {.lambda = 0.15});
///     training.fit({x, labels}, {x_valid, labels_valid}).value();
///     net.run(x, {}, gates);
///
///   1. heads alone, Σ_k w_k CE(z_k), w falling from K to 2; a head that does not get better on the
///      validation rows for some epochs stays at its best
///   2. blocks of mini-batches, gates and heads in turn, the gates first in each epoch: the ones
///      move while the others stand (exit/jei_loss.hpp), decay and momentum included
///
/// Layers and the last head never move: the network must be `.frozen`. Each row is a sequence of
/// its own. Chataoui & Coates, arXiv:2310.09163, section 4.3 and algorithm 1.

#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include <limen/exit/early_exit.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/exit/jei_loss.hpp>
#include <limen/train/schedule.hpp>
#include <limen/train/sgd.hpp>

namespace limen::inline LIMEN_ABI {

template <class Real, Index D>
struct LabelledRows {
  SequenceView<Real, D> x;
  std::span<const int> labels;
};

struct JeiTrainingOptions {
  double lambda = 0.15;  ///< price of the whole network
  JeiError error = JeiError::cross_entropy;
  JeiNormalise normalise = JeiNormalise::detached_ratio;
  Index batch = 64;
  Index warm_up = 6, patience = 2;  ///< epochs of heads alone; of those without a better head
  Index epochs = 12;                ///< of gates and heads in turn
  Index block = 200;                ///< mini-batches until it is the others' turn
  double rate = 0.01, least_rate = 2e-4, momentum = 0.9, decay = 5e-4;
  std::uint64_t seed = 0;
};

template <class Net>
class JeiTraining {
  static constexpr Index K = Net::exits, G = K - 1, C = Net::classes, D = Net::out;
  static_assert(Net::config.frozen, "JeiTraining: the network must be EarlyExitConfig{.frozen}");
  static_assert(G > 0, "JeiTraining: a network with one exit has nothing to decide");
  using Real = typename Net::Scalar;

 public:
  using Gates = ExitGates<G, Real>;
  using Rows = LabelledRows<Real, Net::in>;

  /// Both are trained in place. `cost`: see jei_costs.
  JeiTraining(Net& net, Gates& gates, const std::array<double, std::size_t{K}>& cost,
              JeiTrainingOptions options = {})
      : net_(net),
        gates_(gates),
        options_(options),
        jei_{.cost = cost,
             .lambda = options.lambda,
             .error = options.error,
             .normalise = options.normalise},
        gate_step_(sgd()),
        head_steps_(of_heads([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
          return Sgd<Head<I>>(sgd());
        })) {}

  /// Warm-up and all epochs.
  Status fit(const Rows& training, const Rows& valid) {
    if (const Status fits = check_jei(jei_, C); !fits) return fits;
    if (training.x.rows() == 0) return Error{"JeiTraining: rows", "one or more", "none"};
    warm_up(training, valid);
    for (Index e = 0; e < options_.epochs; ++e) epoch(training, valid, e);
    return {};
  }

  /// Mean loss of the mini-batch before the step.
  double gate_step(const Rows& rows, double factor = 1) {
    clear(gate_gradient_);
    const auto y = net_.forward(rows.x, {});
    const auto loss =
        jei_gate_loss(gates_, SequenceView<Real, D>(y), rows.labels, jei_, gate_gradient_);
    if (loss.rows > 0) gate_step_.update(gates_, gate_gradient_, factor);
    return loss.value;
  }
  double head_step(const Rows& rows, double factor = 1) {
    return learn(rows, factor, {}, [&](const auto& y) {
      return jei_head_loss(gates_, y, rows.labels, jei_.normalise);
    });
  }

  const JeiOptions<K>& objective() const { return jei_; }

 private:
  template <std::size_t I>
  using Head = detail::part_at<Net, I>;

  SgdOptions sgd() const {
    return {.rate = options_.rate, .momentum = options_.momentum, .decay = options_.decay};
  }

  /// f for the position of each head but the last.
  template <class F>
  static auto of_heads(F f) {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      const auto one = [&]<std::size_t J>(std::integral_constant<std::size_t, J> at) {
        if constexpr (Net::Plan::exit_at[J] && J + 1 < Net::depth) {
          return std::tuple(f(at));
        } else {
          return std::tuple();
        }
      };
      return std::tuple_cat(one(std::integral_constant<std::size_t, I>())...);
    }(std::make_index_sequence<Net::depth>());
  }
  /// f(head, gradient, its optimizer, k)
  template <class F>
  void for_each_head(F f) {
    of_heads([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      constexpr auto k = static_cast<std::size_t>(Net::Plan::exit_of[I]);
      f(get<I>(net_.parts), get<I>(gradient_.parts), std::get<k>(head_steps_), k);
      return 0;
    });
  }

  template <class M>
  static void clear(M& gradient) {
    for_each_tensor([](auto& g) { fill(g, 0); }, gradient);
  }

  template <class LossOf>
  double learn(const Rows& rows, double factor, const std::array<bool, std::size_t{K}>& done,
               LossOf loss_of) {
    for_each_head([](auto&, auto& gradient, auto&, std::size_t) { clear(gradient); });
    typename Net::Cache cache;
    const auto y = forward(net_, rows.x.copy(), cache);
    const auto loss = loss_of(y);
    if (loss.weight == 0 || loss.dy.rows() != y.rows()) return 0;
    backward(net_, loss.dy, cache, gradient_);
    for_each_head([&](auto& head, auto& gradient, auto& step, std::size_t k) {
      if (!done[k]) step.update(head, gradient, factor);
    });
    return loss.value;
  }

  /// f(rows of a mini-batch, its number) over all of them in another order each epoch.
  template <class F>
  void for_each_batch(const Rows& all, F f) {
    std::vector<Index> order(static_cast<std::size_t>(all.x.rows()));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Index>(i);
    Random(options_.seed).split(epoch_++).shuffle(std::span(order));
    std::vector<int> labels;
    for (Index first = 0, n = 0; first < all.x.rows(); first += options_.batch, ++n) {
      const Index count = std::min(options_.batch, all.x.rows() - first);
      Sequence<Real, Net::in> x(count);
      gather_rows(all.x.matrix(), order.data() + first, x.matrix());
      labels.clear();
      for (Index i = 0; i < count; ++i) {
        labels.push_back(
            all.labels[static_cast<std::size_t>(order[static_cast<std::size_t>(first + i)])]);
      }
      f(Rows{x, labels}, n);
    }
  }

  void warm_up(const Rows& training, const Rows& valid) {
    std::array<double, std::size_t{K}> best;
    std::array<Index, std::size_t{K}> worse{};
    std::array<bool, std::size_t{K}> done{};
    best.fill(std::numeric_limits<double>::infinity());
    Net kept = net_;
    ExitLossOptions<K> loss{.weights = falling_weights<K>()};
    loss.weights[K - 1] = 0;  // frozen
    for (Index e = 0; e < options_.warm_up; ++e) {
      for_each_batch(training, [&](const Rows& rows, Index) {
        learn(rows, 1, done, [&](const auto& y) { return exit_loss<K>(y, rows.labels, loss); });
      });
      const auto y = net_.forward(valid.x, {});
      of_heads([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
        constexpr auto k = static_cast<std::size_t>(Net::Plan::exit_of[I]);
        if (done[k]) return 0;
        ExitLossOptions<K> own{.weights = {}};
        own.weights[k] = 1;
        const double now = exit_loss<K>(y, valid.labels, own).value;
        if (now < best[k]) {
          best[k] = now;
          worse[k] = 0;
          get<I>(kept.parts) = get<I>(net_.parts);
        } else if (++worse[k] >= options_.patience) {
          done[k] = true;
        }
        return 0;
      });
    }
    of_heads([&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
      get<I>(net_.parts) = get<I>(kept.parts);
      return 0;
    });
  }

  void epoch(const Rows& training, const Rows& valid, Index e) {
    const Schedule cosine{.decay = Decay::cosine,
                          .total = std::max<Index>(options_.epochs, 1),
                          .least = options_.least_rate / options_.rate};
    const double factor = cosine(e);
    for_each_batch(training, [&](const Rows& rows, Index n) {
      if (n / options_.block % 2 == 0) {
        gate_step(rows, factor);
      } else {
        head_step(rows, factor);
      }
    });
    const auto y = net_.forward(valid.x, {});
    jei_.balance = jei_balance<K>(SequenceView<Real, D>(y), valid.labels, jei_);
  }

  Net& net_;
  Gates& gates_;
  JeiTrainingOptions options_;
  JeiOptions<K> jei_;
  Net gradient_{};
  Gates gate_gradient_{};
  Sgd<Gates> gate_step_;
  decltype(of_heads([]<std::size_t I>(std::integral_constant<std::size_t, I>) {
    return Sgd<Head<I>>();
  })) head_steps_;
  std::uint64_t epoch_ = 0;
};

}  // namespace limen::inline LIMEN_ABI
