#pragma once
// Digits as times of spikes, a network that spikes, and one that does not, of the same size.

#include <limen/compose/sequential.hpp>
#include <limen/io/digits.hpp>
#include <limen/kernel/rows.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/linear.hpp>
#include <limen/spiking/dynamic_confidence.hpp>
#include <limen/spiking/encode.hpp>
#include <limen/spiking/leaky_integrator.hpp>
#include <limen/spiking/lif.hpp>
#include <limen/spiking/operations.hpp>
#include <limen/spiking/spike_linear.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include <span>
#include <vector>

namespace spikes {

constexpr limen::Index steps = 16, hidden = 128;
constexpr double smoothing = 4;  // what the evidence is divided by, in training too

/// A pixel fires once, the earlier the darker; what is nearly white does not.
constexpr limen::LatencyOptions code{.threshold = 0.1};

constexpr limen::SpikeLinearConfig from_pixels{
    .d_in = 64, .d_out = hidden, .input_gradient = false};
constexpr limen::LifConfig neurons{.d_model = hidden,
                                   .decay = 0.9,
                                   .threshold = 0.5,
                                   .detach_reset = true,
                                   .learn_decay = limen::Learned::each};
constexpr limen::SpikeLinearConfig to_classes{.d_in = hidden, .d_out = 10};
constexpr limen::LeakyIntegratorConfig adding{.d_model = 10, .decay = 1, .gain = 1 / smoothing};

/// Gives what each step says for each class.
using Spiking = limen::Sequential<limen::SpikeLinear<from_pixels>, limen::Lif<neurons>,
                                  limen::SpikeLinear<to_classes>>;
using Fast = limen::prepared_form<Spiking>;
/// And what has been said so far.
using Learning = limen::Sequential<limen::SpikeLinear<from_pixels>, limen::Lif<neurons>,
                                   limen::SpikeLinear<to_classes>, limen::LeakyIntegrator<adding>>;

using Dense = limen::Sequential<
    limen::Linear<limen::LinearConfig{.d_in = 64, .d_out = hidden}>,
    limen::Activate<limen::ActivateConfig{.d = hidden, .activation = limen::Activation::relu}>,
    limen::Linear<limen::LinearConfig{.d_in = hidden, .d_out = 10}>>;

struct Part {
  limen::Sequence<float, 64> images, spikes;  // [B x 64], [B steps x 64]
  std::vector<int> labels;

  Part(const limen::Digits& digits, std::span<const limen::Index> rows)
      : images(static_cast<limen::Index>(rows.size())) {
    limen::gather_rows(digits.images.matrix(), rows.data(), images.matrix());
    for (const auto i : rows) labels.push_back(digits.labels[static_cast<std::size_t>(i)]);
    spikes = limen::latency_code(images, steps, code);
  }
  limen::Index size() const { return images.rows(); }
};

struct Parts {
  Part training, validation, test;  // nothing is chosen on the last

  explicit Parts(const limen::Digits& digits)
      : training(digits, some(digits, false)),
        validation(digits, some(digits, true)),
        test(digits, digits.testing()) {}

 private:
  /// Every fifth image of the training part is for validation.
  static std::vector<limen::Index> some(const limen::Digits& digits, bool validation) {
    std::vector<limen::Index> rows;
    const auto all = digits.training();
    for (std::size_t i = 0; i < all.size(); ++i) {
      if ((i % 5 == 4) == validation) rows.push_back(all[i]);
    }
    return rows;
  }
};

struct Settings {
  limen::Index epochs = 60;
  double rate = 0.01, decay = 0.1;
  std::uint64_t seed = 1;
  bool progress = true;
};

template <class Net, limen::Index rows, class Loss>
Net trained(limen::SequenceView<float, 64> x, limen::Index count, const Settings& s, Loss&& loss) {
  using namespace limen;
  Random random(s.seed);
  Net net = Net::initialized(random);
  const Sequences<float, 64> data(x, rows);
  std::vector<Index> items;
  for (Index i = 0; i < count; ++i) items.push_back(i);
  constexpr Index batch = 64;
  const Index total = (count + batch - 1) / batch * s.epochs;
  Trainer trainer(
      net, AdamW<Net>({.rate = s.rate, .decay = s.decay}),
      {.decay = Decay::cosine, .warm_up = 20, .total = std::max<Index>(total, 21)},
      {.batch = batch, .epochs = s.epochs, .clip = 1, .progress = s.progress, .seed = s.seed});
  trainer.fit(data, items, loss).value();
  return net;
}

/// What has been said in the end counts, and, less, what has been said on the way.
inline Spiking trained_to_spike(const Part& part, const Settings& s) {
  using namespace limen;
  const auto net = trained<Learning, steps>(
      part.spikes, part.size(), s, [&](SequenceView<float, 10> y, const Shard& shard) {
        const auto last = shard.at_last_row(part.labels), every = shard.at_every_row(part.labels);
        auto loss = cross_entropy(y, std::span(last.begin(), last.end()));
        const auto early = cross_entropy(y, std::span(every.begin(), every.end()));
        constexpr float share = 0.5F;
        loss.value += share * early.value;
        for (Index i = 0; i < loss.dy.size(); ++i) loss.dy.data()[i] += share * early.dy.data()[i];
        return loss;
      });
  Spiking spiking;
  get<0>(spiking.layers) = get<0>(net.layers);
  get<1>(spiking.layers) = get<1>(net.layers);
  get<2>(spiking.layers) = get<2>(net.layers);
  return spiking;
}

inline Dense trained_densely(const Part& part, const Settings& s) {
  return trained<Dense, 1>(part.images, part.size(), s,
                           [&](limen::SequenceView<float, 10> y, const limen::Shard& shard) {
                             const auto labels = shard.at_every_row(part.labels);
                             return limen::cross_entropy(y,
                                                         std::span(labels.begin(), labels.end()));
                           });
}

}  // namespace spikes
