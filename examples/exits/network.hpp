#pragma once
// A convolutional network with four exits for digits of 8 x 8 pixels, and how it is trained.

#include <limen/compose/sequential.hpp>
#include <limen/exit/early_exit.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/exit/jei_training.hpp>
#include <limen/io/digits.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/pooling.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include <vector>

constexpr limen::Extent eight{8, 8}, four{4, 4}, two{2, 2};
constexpr limen::Conv2dConfig conv1{.image = eight, .d_in = 1, .d_out = 12, .padding = {1, 1}};
constexpr limen::Conv2dConfig conv2{.image = four, .d_in = 12, .d_out = 32, .padding = {1, 1}};
constexpr limen::Conv2dConfig conv3{.image = four, .d_in = 32, .d_out = 64, .padding = {1, 1}};
constexpr limen::Conv2dConfig conv4{.image = two, .d_in = 64, .d_out = 96, .padding = {1, 1}};
constexpr limen::PoolConfig pool1{.image = eight, .d = 12};
constexpr limen::PoolConfig pool3{.image = four, .d = 64};

template <limen::Index D>
using Bend = limen::Activate<limen::ActivateConfig{.d = D, .activation = limen::Activation::relu}>;
template <limen::Index D>
using Head = limen::Exit<limen::Linear<limen::LinearConfig{.d_in = D, .d_out = 10}>>;

using Stage1 = limen::Sequential<limen::Conv2d<conv1>, Bend<768>, limen::MaxPool<pool1>>;
using Stage2 = limen::Sequential<limen::Conv2d<conv2>, Bend<512>>;
using Stage3 = limen::Sequential<limen::Conv2d<conv3>, Bend<1024>, limen::MaxPool<pool3>>;
using Stage4 = limen::Sequential<limen::Conv2d<conv4>, Bend<384>>;

template <limen::EarlyExitConfig C>
using NetWith = limen::EarlyExitWith<C, Stage1, Head<192>, Stage2, Head<512>, Stage3, Head<256>,
                                     Stage4, Head<384>>;
using Net = NetWith<limen::EarlyExitConfig{.equilibrium = true}>;
using FrozenNet = NetWith<limen::EarlyExitConfig{.frozen = true}>;
using Fast = limen::prepared_form<Net>;
using Gates = limen::ExitGates<Net::exits - 1>;

constexpr auto work = limen::exit_macs<Net>();
constexpr double whole = static_cast<double>(limen::dense_macs<Net>(1));

/// Images and what they show.
struct Part {
  limen::Sequence<float, 64> x;
  std::vector<int> labels;

  Part(const limen::Digits& digits, std::span<const limen::Index> rows)
      : x(static_cast<limen::Index>(rows.size())) {
    limen::gather_rows(digits.images.matrix(), rows.data(), x.matrix());
    for (const auto i : rows) labels.push_back(digits.labels[static_cast<std::size_t>(i)]);
  }
  limen::Index size() const { return x.rows(); }
  limen::LabelledRows<float, 64> rows() const { return {x, labels}; }
};

struct Parts {
  Part training, validation, test;  // nothing is chosen on the last

  explicit Parts(const limen::Digits& digits)
      : training(digits, some(digits, false)),
        validation(digits, some(digits, true)),
        test(digits, digits.testing()) {}

 private:
  /// Every fourth image of the training part is for validation.
  static std::vector<limen::Index> some(const limen::Digits& digits, bool validation) {
    std::vector<limen::Index> rows;
    const auto all = digits.training();
    for (std::size_t i = 0; i < all.size(); ++i) {
      if ((i % 4 == 3) == validation) rows.push_back(all[i]);
    }
    return rows;
  }
};

/// All heads together, the last one teaching the others.
inline Net trained(const Part& part, limen::Index epochs, std::uint64_t seed, bool progress) {
  using namespace limen;
  Random random(seed);
  Net net = Net::initialized(random);
  const Sequences<float, 64> images(part.x, 1);
  std::vector<Index> items(static_cast<std::size_t>(part.size()));
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = static_cast<Index>(i);
  constexpr Index batch = 64;
  const Index steps = (part.size() + batch - 1) / batch * epochs;
  Trainer trainer(net, AdamW<Net>({.rate = 0.004, .decay = 0.05}),
                  {.decay = Decay::cosine, .warm_up = 20, .total = std::max<Index>(steps, 21)},
                  {.batch = batch, .epochs = epochs, .progress = progress, .seed = seed});
  trainer
      .fit(images, items,
           [&](SequenceView<float, Net::out> y, const Shard& shard) {
             return exit_loss<Net::exits>(y, shard.at_every_row(part.labels),
                                          {.distill = 0.3, .temperature = 2});
           })
      .value();
  return net;
}

/// Gates that leave where that is worth its work at a price of λ for the whole network. They learn
/// on the validation part: of what it was trained on the network is always sure.
inline Gates trained_gates(const Net& net, const Parts& parts, double lambda, Net& with_heads) {
  using namespace limen;
  FrozenNet frozen{net.parts};
  Random random(1);
  Gates gates = Gates::initialized(random);
  JeiTraining training(frozen, gates, jei_costs(work, 10),
                       {.lambda = lambda, .warm_up = 0, .epochs = 60, .block = 3, .rate = 0.005});
  training.fit(parts.validation.rows(), parts.validation.rows()).value();
  with_heads.parts = frozen.parts;
  return gates;
}
