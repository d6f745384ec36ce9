#include <limen/compose/sequential.hpp>
#include <limen/nn/batch_norm.hpp>
#include <limen/nn/dropout.hpp>
#include <limen/nn/embedding.hpp>
#include <limen/nn/gru.hpp>
#include <limen/nn/linear.hpp>
#include <limen/train/adamw.hpp>
#include <limen/train/muon.hpp>
#include <limen/train/sgd.hpp>
#include <limen/train/trainer.hpp>

#include <atomic>
#include <cmath>
#include <csignal>
#include <limits>
#include <thread>

#include <sys/resource.h>

#include "../allocations.hpp"
#include "../catch.hpp"
#include "../io/temporary.hpp"

using namespace limen;

namespace {

/// With everything that a step can move: states, draws, statistics.
using Model =
    Sequential<Gru<GruConfig{.d_in = 3, .d_hidden = 6}>, Dropout<DropoutConfig{.d = 6}>,
               BatchNorm<BatchNormConfig{.d = 6}>, Linear<LinearConfig{.d_in = 6, .d_out = 4}>>;

Model fresh() {
  Random random(1);
  return Model::initialized(random);
}

template <class M>
bool same(const M& a, const M& b) {
  bool equal = true;
  for_each_tensor([&](const auto& x, const auto& y) { equal = equal && x == y; }, a, b);
  return equal;
}

/// Ragged sequences of noise around a mean that tells the class.
struct Task {
  Sequences<float, 3> data;
  std::vector<int> labels;
  std::vector<Index> items;

  explicit Task(Index count = 20) {
    Random random(2);
    for (Index i = 0; i < count; ++i) {
      const int label = static_cast<int>(random.below(4));
      Sequence<float, 3> x(1 + i % 5);
      for (Index k = 0; k < x.size(); ++k) {
        const bool up = k % 3 < 2 && (label >> (k % 3) & 1) != 0;
        x.data()[k] = static_cast<float>(random.normal() + (up ? 1.5 : 0));
      }
      data.add(x);
      labels.push_back(label);
      items.push_back(i);
    }
  }

  auto loss() const {
    return [this](SequenceView<float, 4> y, const Shard& shard) {
      const auto at = shard.at_last_row(labels);
      return cross_entropy(y, std::span<const int>(at.begin(), at.end()));
    };
  }
};

using Optimizer = AdamW<Model>;
Optimizer adamw() { return Optimizer({.rate = 0.02}); }

TrainerOptions options() {
  return {.batch = 6, .shards = 3, .epochs = 4, .clip = 1, .average = 0.9};
}
const Schedule schedule{.decay = Decay::cosine, .warm_up = 2, .total = 16};

}  // namespace

TEST_CASE("A model learns", "[train][trainer]") {
  const Task task(60);
  Model model = fresh();
  auto o = options();
  o.epochs = 40;
  Trainer trainer(model, adamw(), {}, o);
  auto first = trainer.step(task.data, task.items, task.loss());
  REQUIRE(first);
  auto fit = trainer.fit(task.data, task.items, task.loss());
  REQUIRE(fit);
  REQUIRE(fit->epochs == 40);
  REQUIRE(fit->steps == 401);
  REQUIRE(fit->loss < 0.5 * *first);
  REQUIRE(fit->best <= fit->loss);
  REQUIRE_FALSE(fit->stopped_early);
}

TEST_CASE("The number of threads does not change a bit", "[train][trainer][threads]") {
  const Task task;
  const auto run = [&](int threads) {
    const Threads allowed(threads);
    Model model = fresh();
    Trainer trainer(model, adamw(), schedule, options());
    REQUIRE(trainer.fit(task.data, task.items, task.loss()));
    REQUIRE_FALSE(same(model, fresh()));
    return std::pair(model, trainer.learned());
  };
  const auto one = run(1), two = run(2);
  REQUIRE(same(one.first, two.first));
  REQUIRE(same(one.second, two.second));
  REQUIRE_FALSE(same(one.first, one.second));
}

TEST_CASE("Shards have the gradient of the whole batch", "[train][trainer]") {
  using Plain = Sequential<Gru<GruConfig{.d_in = 3, .d_hidden = 6}, double>,
                           Linear<LinearConfig{.d_in = 6, .d_out = 4}, double>>;
  const Task task;
  Sequences<double, 3> data;
  for (const Index i : task.items) {
    const auto x = task.data[i];
    Sequence<double, 3> wide(x.rows());
    for (Index k = 0; k < wide.size(); ++k) wide.data()[k] = static_cast<double>(x.data()[k]);
    data.add(wide);
  }
  Random random(5);
  const auto model = Plain::initialized(random);
  const auto run = [&](Index shards, Reduction reduction) {
    DataParallel<Plain> parallel(shards);
    auto found = parallel.run(
        model, task.items, [&](Index i) { return data[i]; },
        [&](auto y, const Shard& shard) {
          const auto at = shard.at_every_row(task.labels);
          return cross_entropy(y, std::span<const int>(at.begin(), at.end()),
                               {.reduction = reduction});
        },
        Random());
    REQUIRE(found);
    REQUIRE(found->weight == static_cast<double>(data.rows()));
    return std::pair(found->loss, parallel.gradient());
  };
  for (const Reduction reduction : {Reduction::mean, Reduction::sum}) {
    const auto one = run(1, reduction);
    for (const Index shards : {2, 3, 20, 50}) {
      const auto many = run(shards, reduction);
      REQUIRE(many.first == Approx(one.first).epsilon(1e-12));
      for_each_tensor(
          [&](const auto& a, const auto& b) {
            for (Index i = 0; i < a.size; ++i) REQUIRE(std::abs(a[i] - b[i]) < 1e-12);
          },
          one.second, many.second);
    }
  }
}

TEST_CASE("A run that is saved and loaded goes on bit for bit", "[train][trainer][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("last.safetensors");
  const Task task;
  Model straight = fresh();
  Trainer all(straight, adamw(), schedule, options());
  REQUIRE(all.fit(task.data, task.items, task.loss()));

  auto half = options();
  half.epochs = 2;
  half.last = path;
  Model first = fresh();
  Trainer before(first, adamw(), schedule, half);
  REQUIRE(before.fit(task.data, task.items, task.loss()));

  Model second;  // zeros
  auto rest = options();
  rest.seed = 77;  // the one of the file counts
  Trainer after(second, Optimizer({.rate = 0.02}), {.total = 1}, rest);
  REQUIRE(after.load(path));
  REQUIRE(same(second, first));
  REQUIRE(after.epochs() == 2);
  REQUIRE(after.steps() == 8);
  REQUIRE(after.schedule().total == 16);
  auto fit = after.fit(task.data, task.items, task.loss());
  REQUIRE(fit);
  REQUIRE(fit->epochs == 4);
  REQUIRE(same(second, straight));
  REQUIRE(same(after.learned(), all.learned()));

  Model weights;  // the model alone can be taken out of it
  REQUIRE(load(weights, path, {.prefix = "model."}));
  REQUIRE(same(weights, first));
}

TEST_CASE("Momentum and AdamW's moments are saved too", "[train][trainer][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("last.safetensors");
  const Task task;
  const auto goes_on = [&](auto make) {
    Model a = fresh(), b;
    Trainer one(a, make(), {}, options()), two(b, make(), {}, options());
    REQUIRE(one.step(task.data, task.items, task.loss()));
    REQUIRE(one.save(path));
    REQUIRE(two.load(path));
    REQUIRE(one.step(task.data, task.items, task.loss()));
    REQUIRE(two.step(task.data, task.items, task.loss()));
    REQUIRE(same(a, b));
  };
  goes_on([] { return Sgd<Model>({.rate = 0.1, .momentum = 0.9}); });
  goes_on([] { return Muon<Model>(); });
}

TEST_CASE("A checkpoint that makes no sense changes nothing", "[train][trainer][checkpoint]") {
  const Temporary folder;
  const std::string path = folder.path("last.safetensors");
  const Task task;
  Model model = fresh();
  auto o = options();
  Trainer trainer(model, adamw(), schedule, o);
  REQUIRE(trainer.step(task.data, task.items, task.loss()));
  const Model before = model;
  const auto refused = [&](const auto& other, const std::string& who) {
    REQUIRE(other);
    const Status s = trainer.load(path);
    REQUIRE_FALSE(s);
    REQUIRE(s.error().who == who);
    REQUIRE(same(model, before));
    REQUIRE(trainer.steps() == 1);
    REQUIRE(trainer.schedule().total == 16);
  };
  Model other = fresh();
  refused(Trainer(other, Sgd<Model>(), schedule, o).save(path),
          "optimizer.m.0.weight_ih");  // another optimizer
  auto plain = o;
  plain.average = 0;
  refused(Trainer(other, adamw(), schedule, plain).save(path), "average.0.weight_ih");
  refused(save(other, path), "schedule.decay");  // a model only

  REQUIRE(Trainer(other, adamw(), schedule, o).save(path));
  const std::string whole = content(path);
  write_content(path, whole.substr(0, whole.size() - 1));
  REQUIRE_FALSE(trainer.load(path));
  REQUIRE(same(model, before));
  auto file = Safetensors::open(folder.path("last.safetensors"));
  REQUIRE_FALSE(file);
  write_content(path, whole);
  file = Safetensors::open(path);
  REQUIRE(file);
  const auto corrupt = [&](const char* name, auto value, const std::string& who) {
    std::string bytes = whole;
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    std::memcpy(bytes.data() + 8 + length + file->find(name)->begin, &value, sizeof(value));
    write_content(path, bytes);
    refused(Status(), who);
  };
  corrupt("schedule.total", Index{1}, "Schedule.total");
  corrupt("schedule.decay", 99, "Schedule.decay");
  corrupt("trainer.step", Index{-1}, "trainer.step, .epoch, .worse");
  write_content(path, whole);
  REQUIRE(trainer.load(path));
  REQUIRE(same(model, other));
}

TEST_CASE("Patience ends a run, and the best model is kept", "[train][trainer]") {
  const Temporary folder;
  const Task task;
  Model model = fresh();
  auto o = options();
  o.epochs = 100;
  o.patience = 3;
  o.average = 0;
  o.best = folder.path("best.safetensors");
  Trainer trainer(model, adamw(), {}, o);
  std::vector<Model> seen;
  const double measures[] = {5, 3, 4, 3, std::numeric_limits<double>::quiet_NaN(), 9, 1};
  auto fit = trainer.fit(task.data, task.items, task.loss(), [&](const Model& m) {
    seen.push_back(m);
    return measures[seen.size() - 1];
  });
  REQUIRE(fit);
  REQUIRE(fit->stopped_early);
  REQUIRE(fit->epochs == 5);
  REQUIRE(fit->best == 3);
  Model best;
  REQUIRE(load(best, o.best));
  REQUIRE(same(best, seen[1]));
  REQUIRE(same(model, seen[4]));
}

TEST_CASE("NaN stops a run where it was last good", "[train][trainer]") {
  const Temporary folder;
  const Task task;
  Model model = fresh();
  auto o = options();
  o.average = 0;
  o.last = folder.path("last.safetensors");
  Trainer trainer(model, adamw(), schedule, o);
  std::atomic<int> calls = 0;
  Model good;
  const auto loss = [&](SequenceView<float, 4> y, const Shard& shard) {
    auto l = task.loss()(y, shard);
    // Four steps of three shards are an epoch; this is in the third step of the second.
    if (++calls > 4 * 3 + 2 * 3) l.value = std::numeric_limits<double>::quiet_NaN();
    return l;
  };
  auto fit = trainer.fit(task.data, task.items, loss, [&](const Model& m) {
    good = m;
    return 0.0;
  });
  REQUIRE_FALSE(fit);
  REQUIRE(fit.error().who == "loss");
  REQUIRE(fit.error().found.find("in step 6") != std::string::npos);
  REQUIRE(trainer.steps() == 6);
  Model kept;  // that of the first epoch
  Trainer again(kept, adamw(), schedule, o);
  REQUIRE(again.load(o.last));
  REQUIRE(again.steps() == 4);
  REQUIRE(same(kept, good));
}

TEST_CASE("The parameter that is not finite is named", "[train][trainer]") {
  const Task task;
  Model model = fresh();
  Trainer trainer(model, adamw(), {}, options());
  const auto message = [&] {
    const Model before = model;
    const auto r = trainer.step(task.data, task.items, task.loss());
    REQUIRE_FALSE(r);
    REQUIRE(trainer.steps() == 0);
    return r.error().message();
  };
  auto& head = get<3>(model.layers);
  head.bias[1] = std::numeric_limits<float>::infinity();
  REQUIRE(message().starts_with("3.bias: wanted finite numbers, found others, hence loss "));
  head.bias[1] = 0;
  const auto spoil = [&](SequenceView<float, 4> y, const Shard& shard) {
    auto l = task.loss()(y, shard);
    l.dy(0, 2) = std::numeric_limits<float>::quiet_NaN();
    return l;
  };
  const Model before = model;
  const auto r = trainer.step(task.data, task.items, spoil);
  REQUIRE_FALSE(r);
  REQUIRE(r.error().who == "0.weight_ih");
  REQUIRE(r.error().wanted == "a finite gradient");
  REQUIRE(same(model, before));
  REQUIRE(trainer.step(task.data, task.items, task.loss()));  // and goes on
}

TEST_CASE("A disk that is full ends the run and keeps the old checkpoint",
          "[train][trainer][checkpoint]") {
  const Temporary folder;
  const Task task;
  Model model = fresh();
  auto o = options();
  o.last = folder.path("last.safetensors");
  Trainer trainer(model, adamw(), schedule, o);
  Model good;
  int epochs = 0;
  rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const auto measure = [&](const Model&) {
    if (++epochs == 1) good = model;
    if (epochs == 2) {
      const rlimit small{1000, before.rlim_max};
      ::setrlimit(RLIMIT_FSIZE, &small);
    }
    return 0.0;
  };
  auto fit = trainer.fit(task.data, task.items, task.loss(), measure);
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  REQUIRE_FALSE(fit);
  REQUIRE(fit.error().message() == o.last + ": wanted all of it written, found File too large");
  Model kept;
  auto other = o;
  Trainer again(kept, adamw(), schedule, other);
  REQUIRE(again.load(o.last));
  REQUIRE(same(kept, good));
  REQUIRE(trainer.fit(task.data, task.items, task.loss(), measure));  // with room, it goes on
  REQUIRE(trainer.epochs() == 4);

  o.last = folder.path("no folder/last.safetensors");
  Model third = fresh();
  Trainer nowhere(third, adamw(), schedule, o);
  fit = nowhere.fit(task.data, task.items, task.loss());
  REQUIRE_FALSE(fit);
  REQUIRE(fit.error().wanted == "a place to write");
}

#if LIMEN_EXCEPTIONS
TEST_CASE("Wrong data is named and changes nothing", "[train][trainer]") {
  using Reader = Sequential<Embedding<EmbeddingConfig{.vocabulary = 5, .d = 4}>,
                            Gru<GruConfig{.d_in = 4, .d_hidden = 3}>>;
  Sequences<float, 1> data;
  data.add(Sequence<float, 1>{{0}, {4}});
  data.add(Sequence<float, 1>{{1}, {5}});  // no token
  data.add(Sequence<float, 1>{{2}});
  std::vector<int> labels{0, 1, 2};
  Random random(3);
  Reader model = Reader::initialized(random);
  const Reader before = model;
  auto o = options();
  o.average = 0;
  Trainer trainer(model, AdamW<Reader>(), {}, o);
  std::vector<Reader::State> states(2);
  get<1>(states[0]).h[0] = 0.5F;
  const auto loss = [&](SequenceView<float, 3> y, const Shard& shard) {
    const auto at = shard.at_last_row(labels);
    return cross_entropy(y, std::span<const int>(at.begin(), at.end()));
  };
  const auto message = [&](std::vector<Index> items) {
    const auto r =
        trainer.step_chunk(data, items, 0, 5, std::span(states).first(items.size()), loss);
    REQUIRE_FALSE(r);
    REQUIRE(same(model, before));
    REQUIRE(trainer.steps() == 0);
    REQUIRE(get<1>(states[0]).h[0] == 0.5F);
    REQUIRE(get<1>(states[1]).h[0] == 0);
    return r.error().message();
  };
  INFO(message({0, 1}));
  REQUIRE(message({0, 1}).find("found 5") != std::string::npos);
  REQUIRE(message({0, 3}) == "number of a sequence: wanted 0 to 2, found 3");
  REQUIRE(message({-1}) == "number of a sequence: wanted 0 to 2, found -1");
  labels[2] = 3;
  REQUIRE(message({0, 2}) == "label of row 0: wanted 0 to 2 (or -1: not counted), found 3");
  labels.pop_back();
  REQUIRE(message({0, 2}) == "labels: wanted more than 2, found 2");
  labels.push_back(2);
  const std::vector<Index> good{0, 2};
  REQUIRE(
      trainer.step_chunk(data, good, 0, 5, std::span(states).first(1), loss).error().message() ==
      "states of the batch: wanted 2, found 1");
  REQUIRE(trainer.step(data, {}, loss).error().who == "sequences of the batch");
  REQUIRE(trainer.fit(data, {}, loss).error().who == "sequences to learn from");
  REQUIRE(same(model, before));
  REQUIRE(trainer.step_chunk(data, good, 0, 5, states, loss));
  REQUIRE_FALSE(same(model, before));
  REQUIRE(get<1>(states[1]).h[0] != 0);
}

TEST_CASE("An exception of the loss reaches the caller", "[train][trainer][threads]") {
  const Threads two(2);
  const Task task;
  Model model = fresh();
  Trainer trainer(model, adamw(), {}, options());
  const auto loss = [](SequenceView<float, 4>, const Shard&) -> Loss<float, 4> {
    throw std::runtime_error("mine");
  };
  REQUIRE_THROWS_WITH(trainer.step(task.data, task.items, loss), "mine");
  REQUIRE(same(model, fresh()));
  const auto short_loss = [](SequenceView<float, 4>, const Shard&) { return Loss<float, 4>{}; };
  REQUIRE(trainer.step(task.data, task.items, short_loss).error().who == "gradient of the loss");
}

TEST_CASE("Trainer options without sense are refused", "[train][trainer]") {
  Model model = fresh();
  const auto who = [&](TrainerOptions o, Schedule s = {}) {
    try {
      const Trainer trainer(model, adamw(), s, o);
    } catch (const Exception& e) {
      return e.error.who;
    }
    return std::string("fine");
  };
  REQUIRE(who({.batch = 0}) == "TrainerOptions.batch");
  REQUIRE(who({.shards = 0}) == "TrainerOptions.shards");
  REQUIRE(who({.epochs = -1}) == "TrainerOptions.epochs");
  REQUIRE(who({.clip = -1}) == "TrainerOptions.clip");
  REQUIRE(who({.average = 1}) == "TrainerOptions.average");
  REQUIRE(who({.patience = -1}) == "TrainerOptions.patience");
  REQUIRE(who({}, {.decay = Decay::cosine}) == "Schedule.total");
  REQUIRE_THROWS_AS(DataParallel<Model>(0), Exception);
}
#endif

TEST_CASE("Long sequences train in chunks with carried state", "[train][trainer][chunks]") {
  const Task task(6);
  const auto run = [&](Index chunk) {
    Model model = fresh();
    auto o = options();
    o.shards = 2;
    Trainer trainer(model, Sgd<Model>({.rate = 0.1}), {}, o);
    std::vector<Model::State> states(6);
    const auto loss = [&](SequenceView<float, 4> y, const Shard& shard) {
      const auto at = shard.at_every_row(task.labels);
      return cross_entropy(y, std::span<const int>(at.begin(), at.end()));
    };
    for (Index first = 0; first < 5; first += chunk) {
      REQUIRE(trainer.step_chunk(task.data, task.items, first, chunk, states, loss));
    }
    return std::pair(model, states);
  };
  Model whole = fresh();
  auto o = options();
  o.shards = 2;
  Trainer trainer(whole, Sgd<Model>({.rate = 0.1}), {}, o);
  REQUIRE(trainer.step(task.data, task.items, [&](SequenceView<float, 4> y, const Shard& shard) {
    const auto at = shard.at_every_row(task.labels);
    return cross_entropy(y, std::span<const int>(at.begin(), at.end()));
  }));
  const auto one = run(5), three = run(2);
  REQUIRE(same(one.first, whole));
  REQUIRE_FALSE(same(three.first, whole));
  // The states are those of the model that ran: the first chunk's, before it learned.
  for (Index i = 0; i < 6; ++i) {
    Model::State state;
    fresh().forward(task.data[i], state);
    for (Index h = 0; h < 6; ++h) {
      REQUIRE(get<0>(one.second[static_cast<std::size_t>(i)]).h[h] ==
              Approx(get<0>(state).h[h]).margin(1e-6));
    }
  }
}

TEST_CASE("A chunk with nothing to count moves the states only", "[train][trainer][chunks]") {
  const Task task(4);
  Model model = fresh();
  Trainer trainer(model, adamw(), {}, options());
  std::vector<Model::State> states(4);
  const auto loss = [&](SequenceView<float, 4> y, const Shard&) {
    return cross_entropy(y, std::vector<int>(static_cast<std::size_t>(y.rows()), -1));
  };
  auto value = trainer.step_chunk(task.data, task.items, 0, 1, states, loss);
  REQUIRE(value);
  REQUIRE(*value == 0);
  REQUIRE(trainer.steps() == 0);
  REQUIRE(same(model, fresh()));
  REQUIRE(get<0>(states[3]).h[0] != 0);
}

TEST_CASE("Frozen parameters count neither in the step nor in the norm", "[train][trainer]") {
  const Task task;
  Model model = fresh();
  auto o = options();
  o.clip = 0;
  Trainer trainer(model, Optimizer({.rules = {.frozen = {"0", "2"}}}), {}, o);
  REQUIRE(trainer.step(task.data, task.items, task.loss()));
  const Model start = fresh();
  REQUIRE(get<0>(model.layers).weight_hh == get<0>(start.layers).weight_hh);
  REQUIRE_FALSE(get<3>(model.layers).weight == get<3>(start.layers).weight);
  REQUIRE(get<0>(trainer.gradient().layers).weight_hh == Tensor<float, 18, 6>());
}

TEST_CASE("Warm steps allocate nothing", "[train][trainer][allocations]") {
  const Task task;
  Model model = fresh();
  Trainer trainer(model, adamw(), schedule, options());
  const auto step = [&] { REQUIRE(trainer.step(task.data, task.items, task.loss())); };
  step();
  step();
  const auto value = trainer.step(task.data, task.items, task.loss());
  const std::size_t before = allocations();
  const auto again = trainer.step(task.data, task.items, task.loss());
  const std::size_t after = allocations();
  REQUIRE(value);
  REQUIRE(again);
  REQUIRE(after == before);
}

TEST_CASE("Two threads run one model, each with its own state", "[train][threads]") {
  const Model model = fresh();
  const auto fast = prepare(model);
  const Task task;
  const auto stream = [&](std::vector<float>& out) {
    Model::State a{}, b{};
    for (const Index i : task.items) {
      const auto x = task.data[i];
      for (Index t = 0; t < x.rows(); ++t) {
        const auto y = model.step(x.row(t), a), z = fast.step(x.row(t), b);
        out.insert(out.end(), y.values, y.values + 4);
        out.insert(out.end(), z.values, z.values + 4);
      }
      const auto y = model.forward(x, a);
      out.insert(out.end(), y.data(), y.data() + y.size());
    }
  };
  std::vector<float> here, there;
  std::thread other([&] { stream(there); });
  stream(here);
  other.join();
  REQUIRE(here.size() > 100);
  REQUIRE(here == there);
}

TEST_CASE("Two threads train two models from one data set", "[train][threads]") {
  const Task task;
  const auto train = [&](Model& model) {
    Trainer trainer(model, adamw(), schedule, options());
    return static_cast<bool>(trainer.fit(task.data, task.items, task.loss()));
  };
  Model a = fresh(), b = fresh();
  bool fine = false;
  std::thread other([&] { fine = train(b); });
  REQUIRE(train(a));
  other.join();
  REQUIRE(fine);
  REQUIRE(same(a, b));
}
