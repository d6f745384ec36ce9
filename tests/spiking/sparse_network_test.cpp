#include <limen/spiking/sparse_network.hpp>

#include "../allocations.hpp"
#include "../catch.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <sys/resource.h>

#include <limen/spiking/lazy_network.hpp>
#include <limen/spiking/lif.hpp>

using namespace limen;

namespace {

template <class Real>
SparseSynapses<Real> of(const std::vector<Synapse>& synapses, Index n) {
  return SparseSynapses<Real>::of(synapses, n, n).value();
}

std::vector<Synapse> noise(Index n, Index count, Index longest, double scale, std::uint64_t seed) {
  Random random(seed);
  std::vector<Synapse> all;
  const auto any = [&] { return static_cast<Index>(random.below(static_cast<std::uint64_t>(n))); };
  for (Index k = 0; k < count; ++k) {
    const auto d = static_cast<Index>(random.below(static_cast<std::uint64_t>(longest)));
    all.push_back({any(), any(), scale * (random.uniform() - 0.3), 1 + d});
  }
  return all;
}

/// The definition: every synapse in every step.
template <class Neuron>
class Plain {
  using Real = typename Neuron::Scalar;
  static constexpr Index N = Neuron::out;

 public:
  explicit Plain(std::vector<Synapse> synapses) : synapses_(std::move(synapses)) {}
  std::vector<SpikeIndex> step(const Neuron& neuron, const Real* drive) {
    Vector<Real, N> x{};
    for (const Synapse& s : synapses_) {
      const auto t = static_cast<Index>(past_.size()) - s.delay;
      if (t < 0) continue;
      const Real sent = past_[static_cast<std::size_t>(t)][s.from];
      x[s.to] += sent * static_cast<Real>(s.weight);
    }
    for (Index i = 0; i < N; ++i) x[i] += drive[i];
    past_.push_back(neuron.step(x, *state_));
    std::vector<SpikeIndex> ids;
    for (Index i = 0; i < N; ++i) {
      if (past_.back()[i] != 0) ids.push_back(static_cast<SpikeIndex>(i));
    }
    return ids;
  }

 private:
  std::vector<Synapse> synapses_;
  std::vector<Vector<Real, N>> past_;
  std::unique_ptr<typename Neuron::State> state_ = std::make_unique<typename Neuron::State>();
};

constexpr LifConfig subtracting{.d_model = 50, .decay = 0.5};
constexpr LifConfig resting{
    .d_model = 50, .decay = 0.5, .rest = -0.5, .reset = Reset::to_value, .reset_to = -1};
constexpr LifConfig keeping{.d_model = 50, .decay = 0.5, .reset = Reset::none};
constexpr LifConfig tired{.d_model = 50,
                          .decay = 0.9,
                          .reset = Reset::to_value,
                          .refractory = 2,
                          .learn_decay = Learned::each};

std::vector<SpikeIndex> copy(std::span<const SpikeIndex> ids) { return {ids.begin(), ids.end()}; }

/// The most this program has held so far.
double peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return 1024.0 * static_cast<double>(usage.ru_maxrss);
}

}  // namespace

TEST_CASE("A spike arrives when its delay has passed, at all it reaches", "[spiking][sparse]") {
  using N3 = Lif<LifConfig{.d_model = 3, .decay = 0, .reset = Reset::to_value}, double>;
  Random random(1);
  const SparseNetwork<N3> net(
      N3::initialized(random),
      of<double>({{0, 1, 1, 1}, {0, 2, 1, 3}, {1, 2, 0.5, 2}, {2, 2, -1, 1}}, 3));
  REQUIRE(net.synapses().count() == 4);
  REQUIRE(net.synapses().longest_delay() == 3);
  auto state = net.rest();
  const double go[] = {1, 0, 0}, still[] = {0, 0, 0};
  const auto fired = [&](const double* drive) { return copy(net.step(state, drive)); };
  REQUIRE(fired(go) == std::vector<SpikeIndex>{0});
  REQUIRE(fired(still) == std::vector<SpikeIndex>{1});  // 0 -> 1 after 1
  REQUIRE(fired(still).empty());
  REQUIRE(fired(still) == std::vector<SpikeIndex>{2});  // 0 -> 2 after 3, with 1 -> 2 after 1 + 2
  REQUIRE(fired(still).empty());
}

TEMPLATE_TEST_CASE_SIG("A sparse network is the sum over all its synapses in every step",
                       "[spiking][sparse]", ((LifConfig C), C), subtracting, resting, tired) {
  using Neuron = Lif<C, double>;
  Random random(1);
  for (const Index longest : {1, 7}) {
    const auto synapses = noise(50, 600, longest, 0.6, 2);
    const auto neuron = Neuron::initialized(random);
    const SparseNetwork<Neuron> net(neuron, of<double>(synapses, 50));
    Plain<Neuron> plain(synapses);
    auto state = net.rest();
    Index spiked = 0;
    for (Index t = 0; t < 60; ++t) {
      double drive[50];
      for (double& d : drive) d = random.uniform() < 0.1 ? 1.3 : 0;
      const std::size_t before = allocations();
      const auto fired = net.step(state, drive);
      REQUIRE(allocations() == before);
      REQUIRE(copy(fired) == plain.step(neuron, drive));
      spiked += static_cast<Index>(fired.size());
      if (t == 20) {  // a state is a value
        const auto kept = state;
        const auto next = copy(net.step(state));
        state = kept;
        REQUIRE(copy(net.step(state)) == next);
        state = kept;
      }
    }
    REQUIRE(spiked > 50);
  }
}

TEMPLATE_TEST_CASE_SIG("A lazy network fires as one that looks at every neuron",
                       "[spiking][sparse]", ((LifConfig C), C), subtracting, resting, keeping) {
  using Neuron = Lif<C, double>;  // half of it is left: powers are exact
  Random random(1);
  const auto synapses = noise(50, 300, 5, 0.9, 2);
  const SparseNetwork<Neuron> net(Neuron::initialized(random), of<double>(synapses, 50));
  const LazyNetwork<C, double> lazy(of<double>(synapses, 50));
  auto state = net.rest();
  auto sleeping = lazy.rest();
  Index spiked = 0, silent = 0;
  for (Index t = 0; t < 400; ++t) {
    double drive[50] = {};
    if (t % 40 < 4) {
      for (Index i = 0; i < 50; ++i) {
        if (random.uniform() < 0.8) continue;
        drive[i] = static_cast<double>(random.below(32)) / 8;  // up to four thresholds at once
        lazy.hear(sleeping, i, drive[i]);
      }
    }
    const auto expected = copy(net.step(state, drive));
    const std::size_t before = allocations();
    const auto fired = lazy.step(sleeping);
    REQUIRE(allocations() == before);
    REQUIRE(copy(fired) == expected);
    spiked += static_cast<Index>(expected.size());
    silent += expected.empty();
    for (Index i = 0; i < 50; ++i) {
      REQUIRE(sleeping.membrane(i, lazy) == Approx(state.neurons->v[i]).margin(1e-12));
    }
  }
  REQUIRE(spiked > 200);
  if (C.reset != Reset::none) REQUIRE(silent > 20);
}

TEST_CASE("A membrane that is lazy for long has forgotten as much as one that was not",
          "[spiking][sparse]") {
  constexpr LifConfig slow{.d_model = 1, .decay = 0.9999};
  const LazyNetwork<slow, double> lazy(of<double>({}, 1));
  auto state = lazy.rest();
  lazy.hear(state, 0, 0.5);
  lazy.step(state);
  Index steps = 0;
  for (const Index silent : {1, 255, 256, 257, 511, 10000, 65535, 65536, 70000}) {
    for (; steps < silent; ++steps) lazy.step(state);
    INFO(silent << " silent steps");
    const double left = 0.5 * std::pow(0.9999, static_cast<double>(silent));
    REQUIRE(state.membrane(0, lazy) == Approx(left).epsilon(1e-10));
  }
}

// What would fire by itself cannot be lazy, and is refused when the program is compiled.
static_assert(lazy_is_exact<subtracting> && lazy_is_exact<resting> && lazy_is_exact<keeping>);
static_assert(!lazy_is_exact<tired>);
static_assert(!lazy_is_exact<LifConfig{.d_model = 1, .threshold = 1, .rest = 1}>);
static_assert(!lazy_is_exact<LifConfig{.d_model = 1, .when = When::next}>);

TEST_CASE("Synapses that cannot be are named", "[spiking][sparse]") {
  const auto fault = [](Synapse s) {
    return SparseSynapses<float>::of(std::vector<Synapse>{{0, 1, 1, 1}, s}, 3, 3).error().message();
  };
  REQUIRE(fault({3, 0, 1, 1}) == "synapse 1 from: wanted from 0 to 2, found 3");
  REQUIRE(fault({0, -1, 1, 1}) == "synapse 1 to: wanted from 0 to 2, found -1");
  REQUIRE(fault({0, 1, 1, -1}) == "synapse 1 delay: wanted from 0 to 65535, found -1");
  REQUIRE(fault({0, 1, 1, 65536}) == "synapse 1 delay: wanted from 0 to 65535, found 65536");
  REQUIRE(fault({0, 1, std::numeric_limits<double>::quiet_NaN(), 1})
              .find("synapse 1 weight: wanted a finite") == 0);
  using N3 = Lif<LifConfig{.d_model = 3}>;
  REQUIRE_THROWS_WITH(SparseNetwork<N3>(N3{}, of<float>({{0, 1, 1, 1}}, 4)),
                      has_part("wanted between 3 neurons, found from 4 to 4"));
  REQUIRE_THROWS_WITH(SparseNetwork<N3>(N3{}, of<float>({{0, 1, 1, 0}, {0, 1, 1, 2}}, 3)),
                      has_part("delay within a network: wanted at least 1 step"));
  Random random(1);
  const auto one = [](Index) { return 1.0; };
  REQUIRE_THROWS_WITH(SparseSynapses<float>::random(3, 3, 1.5, 1, one, random),
                      has_part("probability"));
  REQUIRE_THROWS_WITH(SparseSynapses<float>::random(3, 3, 0.5, -1, one, random), has_part("delay"));
}

TEST_CASE("Random synapses are as many as was asked for, none twice, none to oneself",
          "[spiking][sparse]") {
  Random random(3), again(3);
  const auto weight = [](Index i) { return static_cast<double>(i); };
  const auto s = SparseSynapses<float>::random(500, 500, 0.1, 2, weight, random);
  const auto same = SparseSynapses<float>::random(500, 500, 0.1, 2, weight, again);
  REQUIRE(s.count() == same.count());
  REQUIRE(std::abs(static_cast<double>(s.count()) - 24950) < 5 * std::sqrt(24950 * 0.9));
  Index count = 0;
  for (Index i = 0; i < 500; ++i) {
    Index before = -1;
    s.for_each(i, [&](Index to, float w, Index delay) {
      REQUIRE(to > before);
      REQUIRE(to != i);
      REQUIRE(to < 500);
      REQUIRE(w == static_cast<float>(i));
      REQUIRE(delay == 2);
      before = to;
      ++count;
    });
  }
  REQUIRE(count == s.count());
  const auto all = SparseSynapses<float>::random(4, 5, 1, 1, weight, random);
  REQUIRE(all.count() == 20);
  REQUIRE(SparseSynapses<float>::random(4, 4, 1, 1, weight, random).count() == 12);
}

// The thread sanitizer keeps notes beside each byte.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define LIMEN_TEST_BYTES 5.0
#endif
#endif
#if !defined(LIMEN_TEST_BYTES)
#define LIMEN_TEST_BYTES 1.0
#endif

TEST_CASE("A million neurons that rarely fire take bounded memory and little time",
          "[spiking][sparse]") {
  constexpr Index n = 1'000'000, fan_out = 10;
  constexpr LifConfig c{.d_model = n, .decay = 0.9};
  Random random(1);
  release_pool();
  const double before = peak_bytes();
  auto synapses = SparseSynapses<float>::random(
      n, n, double{fan_out} / n, 1, [](Index) { return 0.25; }, random);
  const auto count = static_cast<double>(synapses.count());
  REQUIRE(std::abs(count - 1e7) < 5e4);
  REQUIRE(static_cast<double>(synapses.bytes()) < 8 * count + 8 * n + 64);
  const double made = peak_bytes();
  REQUIRE(made - before <
          LIMEN_TEST_BYTES * 1.3 * (8 * count + 8 * n));  // nothing besides while it is made
  const LazyNetwork<c> net(std::move(synapses));
  auto state = net.rest();
  const double rested = peak_bytes();
  REQUIRE(state.bytes() <= 30u * n);
  REQUIRE(rested - made < LIMEN_TEST_BYTES * 1.3 * 30 * n);
  Index spiked = 0;
  for (Index t = 0; t < 100; ++t) {
    for (Index k = 0; k < 200; ++k) {
      net.hear(state, static_cast<Index>(random.below(n)), 1);
    }
    spiked += static_cast<Index>(net.step(state).size());
  }
  REQUIRE(spiked >= 19900);
  REQUIRE(spiked < 40000);
  REQUIRE(peak_bytes() - rested < LIMEN_TEST_BYTES * 8e6);
}
