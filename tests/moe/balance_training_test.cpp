// A balance bias in the hands of a Trainer.
#include <limen/moe/top_k_router.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/trainer.hpp>

#include "mixtures.hpp"

using namespace limen;

namespace {

constexpr Index D = 6, E = 6, length = 16;

constexpr TopKRouterConfig biased(double rate) {
  return {.d_model = D,
          .n_experts = E,
          .score = RouterScore::sigmoid,
          .balance_bias = true,
          .balance_rate = rate};
}

/// Rows that like the last experts: the router, which starts as the identity, overloads them.
Sequences<float, D> rows() {
  Random random(3);
  Sequences<float, D> all;
  for (int i = 0; i < 16; ++i) {
    Sequence<float, D> x(length);
    for (Index t = 0; t < length; ++t) {
      for (Index d = 0; d < D; ++d) {
        x(t, d) = static_cast<float>(random.normal() + 0.5 * static_cast<double>(d));
      }
    }
    all.add(x);
  }
  return all;
}

template <class Model>
Model start() {
  Random random(4);
  Model model = Model::initialized(random);
  set_zero(model.router);
  for (Index e = 0; e < E; ++e) model.router.weight(e, e) = 1;
  return model;
}

/// Rows of the busiest expert over the mean, after training.
template <class Model>
double worst_load(Model& model, const Sequences<float, D>& data, Index shards, int threads) {
  std::vector<Index> items(16);
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = static_cast<Index>(i);
  const Threads allowed(threads);
  Trainer trainer(model, AdamW<Model>({.rate = 1e-3, .decay = 0.1}), {},
                  {.batch = 8, .shards = shards, .epochs = 60, .progress = false});
  const auto loss = [](SequenceView<float, 2> y, const Shard&) {
    return mean_squared_error(y, Sequence<float, 2>::zeros(y.rows()));
  };
  trainer.fit(data, items, loss).value();
  typename Model::Cache cache;
  Index most = 0, all = 0;
  std::array<Index, std::size_t{E}> load{};
  for (const Index i : items) {
    forward(model, data[i].copy(), cache);
    for (Index e = 0; e < E; ++e) load[static_cast<std::size_t>(e)] += cache.load(e);
  }
  for (const Index l : load) {
    most = std::max(most, l);
    all += l;
  }
  return static_cast<double>(most * E) / static_cast<double>(all);
}

}  // namespace

TEST_CASE("A Trainer settles the balance bias, and experts are as busy as each other",
          "[moe][router][train]") {
  using Model = Mixture<TopKRouter<biased(0.02)>>;
  using Still = Mixture<TopKRouter<biased(0)>>;
  const auto data = rows();
  auto model = start<Model>();
  auto still_one = start<Still>();
  const double without = worst_load(still_one, data, 2, 1), with = worst_load(model, data, 2, 1);
  REQUIRE(without > 1.7);
  REQUIRE(with < 1.25);
  for (const float b : still_one.router.score_correction.flat()) REQUIRE(b == 0);
  // From idle experts to busy ones; each step moved it by the rate, up or down, or not at all.
  REQUIRE(model.router.score_correction[0] > 0.1F);
  REQUIRE(model.router.score_correction[E - 1] < -0.05F);
  for (const float b : model.router.score_correction.flat()) {
    REQUIRE(std::abs(b / 0.02F - std::round(b / 0.02F)) < 1e-3F);
  }
}

TEST_CASE("The load is counted over all shards of a step, on any number of threads",
          "[moe][router][train]") {
  using Model = Mixture<TopKRouter<biased(0.02)>>;
  const auto data = rows();
  auto one = start<Model>(), two = start<Model>(), four = start<Model>();
  worst_load(one, data, 4, 1);
  worst_load(two, data, 4, 2);
  worst_load(four, data, 1, 1);
  REQUIRE(one.router.score_correction == two.router.score_correction);
  for (Index e = 0; e < E; ++e) {  // gradients of four shards add in another order
    REQUIRE(one.router.score_correction[e] == Approx(four.router.score_correction[e]).margin(0.05));
  }
}
