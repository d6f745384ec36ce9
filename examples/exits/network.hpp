#pragma once
// A convolutional network with four exits for small images, and how it is trained.

#include <limen/compose/sequential.hpp>
#include <limen/exit/early_exit.hpp>
#include <limen/exit/exit_loss.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/exit/jei_training.hpp>
#include <limen/nn/activation.hpp>
#include <limen/nn/conv.hpp>
#include <limen/nn/linear.hpp>
#include <limen/nn/pooling.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include <algorithm>
#include <vector>

/// For images of side x side pixels.
template <limen::Index side>
struct Reader {
  static constexpr limen::Index pixels = side * side, half = side / 2, quarter = half / 2;

  template <limen::Index n, limen::Index I, limen::Index O>
  using Conv =
      limen::Conv2d<limen::Conv2dConfig{.image = {n, n}, .d_in = I, .d_out = O, .padding = {1, 1}}>;
  template <limen::Index n, limen::Index D>
  using Pool = limen::MaxPool<limen::PoolConfig{.image = {n, n}, .d = D}>;
  template <limen::Index D>
  using Bend =
      limen::Activate<limen::ActivateConfig{.d = D, .activation = limen::Activation::relu}>;
  template <limen::Index D>
  using Head = limen::Exit<limen::Linear<limen::LinearConfig{.d_in = D, .d_out = 10}>>;

  using Stage1 = limen::Sequential<Conv<side, 1, 12>, Bend<12 * pixels>, Pool<side, 12>>;
  using Stage2 = limen::Sequential<Conv<half, 12, 32>, Bend<32 * half * half>>;
  using Stage3 = limen::Sequential<Conv<half, 32, 64>, Bend<64 * half * half>, Pool<half, 64>>;
  using Stage4 = limen::Sequential<Conv<quarter, 64, 96>, Bend<96 * quarter * quarter>>;

  template <limen::EarlyExitConfig C>
  using With = limen::EarlyExitWith<C, Stage1, Head<12 * half * half>, Stage2,
                                    Head<32 * half * half>, Stage3, Head<64 * quarter * quarter>,
                                    Stage4, Head<96 * quarter * quarter>>;
  using Net = With<limen::EarlyExitConfig{.equilibrium = true}>;
  using Frozen = With<limen::EarlyExitConfig{.frozen = true}>;
  using Fast = limen::prepared_form<Net>;

  static constexpr auto work = limen::exit_macs<Net>();
  static constexpr double whole = static_cast<double>(limen::dense_macs<Net>(1));
};

using Gates = limen::ExitGates<3>;

/// Images and what they show.
template <limen::Index pixels>
struct Part {
  limen::Sequence<float, pixels> x;
  std::vector<int> labels;

  limen::Index size() const { return x.rows(); }
  limen::LabelledRows<float, pixels> rows() const { return {x, labels}; }
};

/// Some of the images of a part.
template <limen::Index pixels>
Part<pixels> chosen(const limen::Sequence<float, pixels>& images, const std::vector<int>& labels,
                    const std::vector<limen::Index>& rows) {
  Part<pixels> part{limen::Sequence<float, pixels>(static_cast<limen::Index>(rows.size())), {}};
  limen::gather_rows(images.matrix(), rows.data(), part.x.matrix());
  for (const auto i : rows) part.labels.push_back(labels[static_cast<std::size_t>(i)]);
  return part;
}

template <limen::Index pixels>
struct Parts {
  Part<pixels> training, validation, test;  // nothing is chosen on the last
};

/// All heads together, the last one teaching the others.
template <class R>
typename R::Net trained(const Part<R::pixels>& part, limen::Index epochs, std::uint64_t seed,
                        bool progress) {
  using namespace limen;
  using Net = typename R::Net;
  Random random(seed);
  Net net = Net::initialized(random);
  const Sequences<float, R::pixels> images(part.x, 1);
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
template <class R>
Gates trained_gates(const typename R::Net& net, const Parts<R::pixels>& parts, double lambda,
                    typename R::Net& with_heads) {
  using namespace limen;
  typename R::Frozen frozen{net.parts};
  Random random(1);
  Gates gates = Gates::initialized(random);
  const Index epochs = std::max<Index>(8, 21600 / parts.validation.size());
  JeiTraining training(
      frozen, gates, jei_costs(R::work, 10),
      {.lambda = lambda, .warm_up = 0, .epochs = epochs, .block = 3, .rate = 0.005});
  training.fit(parts.validation.rows(), parts.validation.rows()).value();
  with_heads.parts = frozen.parts;
  return gates;
}
