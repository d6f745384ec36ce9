#include <limen/exit/early_exit.hpp>

#include <limen/compose/sequential.hpp>
#include <limen/exit/exit_gates.hpp>
#include <limen/exit/exit_macs.hpp>
#include <limen/nn/min_gru.hpp>

#include "../compose/layers.hpp"
#include "../laws.hpp"

using namespace limen;
using namespace parts;

namespace {

template <Index I, Index O>
using Stage = Sequential<Map<I, O>, Bend<O>>;
template <Index D, Index C>
using Leave = Exit<Map<D, C>>;

using Wide = EarlyExit<Stage<20, 33>, Leave<33, 10>, Stage<33, 40>, Leave<40, 10>, Stage<40, 31>,
                       Leave<31, 10>>;
using Remembers =
    EarlyExit<Filter<5>, Leave<5, 3>, Filter<5>, Bend<5>, Leave<5, 3>, Filter<5>, Leave<5, 3>>;

/// What each row would get alone, from all heads.
template <class Net, class Left, class Y>
void same_as_alone(const Left& left, const Y& all) {
  for (Index t = 0; t < all.rows(); ++t) {
    const Index k = left.exit[t];
    for (Index c = 0; c < Net::classes; ++c) {
      INFO("row " << t << ", exit " << k << ", class " << c);
      REQUIRE(std::memcmp(&left.logits(t, c), &all(t, k * Net::classes + c),
                          sizeof(left.logits(t, c))) == 0);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("EarlyExit keeps the laws of layers", "[exit][early_exit][laws]",
                   (EarlyExit<Map<1, 1>, Exit<Map<1, 1>>>),
                   (EarlyExit<Stage<3, 17>, Leave<17, 4>, Map<17, 2>, Leave<2, 4>>), Remembers) {
  laws::hold_for_composed<TestType>();
}

TEST_CASE("Rows that leave early get what they would get alone, to the bit", "[exit][early_exit]") {
  Random random(1);
  const auto net = prepare(Wide::initialized(random));
  const auto x = noise<float, 20>(67, random);
  const auto all = forward(net, x);
  for (const double wanted : {0.12, 0.15, 0.18, 0.25}) {
    const ConfidenceAtLeast policy{wanted};
    const auto left = net.run(x, {}, policy);
    same_as_alone<Wide>(left, all);
    REQUIRE(left.count[0] + left.count[1] + left.count[2] == 67);
    for (Index t = 0; t < 67; ++t) {
      const auto alone = net.run(middle_rows(x, t, 1), {}, policy);
      REQUIRE(alone.exit[0] == left.exit[t]);
      REQUIRE(std::memcmp(alone.logits.data(), left.logits.row(t).data(), sizeof(float) * 10) == 0);
    }
  }
  // the thresholds above are worth something: rows take each exit
  const auto some = net.run(x, {}, ConfidenceAtLeast{{0.18, 0.15}});
  REQUIRE(some.count[0] > 0);
  REQUIRE(some.count[1] > 0);
  REQUIRE(some.count[2] > 0);
}

namespace {

/// Without compaction: all layers on all rows, and a mask of those that are still there.
template <class Net, class Policy>
typename Net::Left masked(const Net& net, SequenceView<float, Net::in> x, const Policy& policy) {
  const auto all = net.forward(x, {});
  typename Net::Left left;
  left.logits = Sequence<float, Net::classes>(x.rows());
  left.exit = Buffer<Index>(x.rows());
  std::vector<exit_memory<Policy>> memory(static_cast<std::size_t>(x.rows()));
  std::vector<char> gone(static_cast<std::size_t>(x.rows()));
  for (Index k = 0; k < Net::exits; ++k) {
    for (Index t = 0; t < x.rows(); ++t) {
      const auto row = static_cast<std::size_t>(t);
      const float* z = all.row(t).data() + k * Net::classes;
      if (gone[row] ||
          (k + 1 < Net::exits &&
           !leaves(policy, std::span<const float>(z, std::size_t{Net::classes}), k, memory[row]))) {
        continue;
      }
      gone[row] = 1;
      std::copy_n(z, Net::classes, left.logits.row_data(t));
      left.exit[t] = k;
      ++left.count[static_cast<std::size_t>(k)];
    }
  }
  return left;
}

}  // namespace

TEST_CASE("Compaction gives what a mask gives, to the bit, with every policy",
          "[exit][early_exit]") {
  Random random(1);
  const auto net = prepare(Wide::initialized(random));
  ExitGates<2> gates;
  gates.weight(0, 0) = gates.weight(1, 0) = 400;
  gates.bias[0] = -400 * 0.16F;
  gates.bias[1] = -400 * 0.15F;
  for (const Index rows : {1, 2, 15, 16, 17, 67, 130}) {
    const auto x = noise<float, 20>(rows, random);
    const auto check = [&](const char* name, const auto& policy, bool all_exits = true) {
      INFO(name << ", " << rows << " rows");
      const auto a = net.run(x, {}, policy), b = masked(net, x, policy);
      REQUIRE(std::equal(a.exit.begin(), a.exit.end(), b.exit.begin()));
      REQUIRE(same_bits(a.logits, b.logits));
      REQUIRE(a.count == b.count);
      if (all_exits && rows == 130) {
        for (const Index n : a.count) REQUIRE(n > 0);
      }
    };
    check("confidence", ConfidenceAtLeast{{0.17, 0.15}});
    check("margin", MarginAtLeast{{0.04, 0.02}});
    check("entropy", EntropyBelow{{2.25, 2.28}});
    check("power entropy", PowerEntropyBelow{{2.1, 2.2}});
    check("normalised entropy", NormalisedEntropyBelow{{0.978, 0.99}});
    check("patience", Patience{.times = 1}, false);
    check("gates", gates);
    check("any of", any_of(ConfidenceAtLeast{{0.18, 0.17}}, Patience{.times = 1}));
    check("always", AlwaysLeave{}, false);
    check("never", NeverLeave{}, false);
    check("own", [](auto z, Index k) { return z[static_cast<std::size_t>(k)] > 0.1F; });
  }
}

TEST_CASE("Patience is counted for each row, whoever has left before", "[exit][early_exit]") {
  Random random(1);
  const auto net = prepare(Wide::initialized(random));
  const auto x = noise<float, 20>(67, random);
  const auto policy = any_of(ConfidenceAtLeast{{0.17, 1}}, Patience{.times = 1});
  const auto left = net.run(x, {}, policy);
  for (const Index n : left.count) REQUIRE(n > 0);
  for (Index t = 0; t < 67; ++t) {
    REQUIRE(net.run(middle_rows(x, t, 1), {}, policy).exit[0] == left.exit[t]);
  }
}

TEST_CASE("Two threads change no bit and no exit", "[exit][early_exit]") {
  Random random(1);
  const auto net = prepare(Wide::initialized(random));
  const auto x = noise<float, 20>(301, random);
  const auto one = net.run(x, {}, EntropyBelow{2.2});
  const Threads threads(2);
  const auto two = net.run(x, {}, EntropyBelow{2.2});
  REQUIRE(same_bits(one.logits, two.logits));
  REQUIRE(std::equal(one.exit.begin(), one.exit.end(), two.exit.begin()));
}

TEST_CASE("Rows 1 and 3 leave, then row 0: the rest go on in order", "[exit][early_exit]") {
  // h = x + 1 at each layer, the head is h itself: z = x + 1, x + 2, x + 3
  using Net = EarlyExit<Map<1, 1>, Leave<1, 1>, Map<1, 1>, Leave<1, 1>, Map<1, 1>, Leave<1, 1>>;
  Net net;
  for_each_tensor([](auto& w) { w[0] = 1; }, net);
  get<1>(net.parts).head.bias[0] = get<3>(net.parts).head.bias[0] = 0;
  get<5>(net.parts).head.bias[0] = 0;
  const auto left = net.run(Sequence<float, 1>{{5}, {10}, {2}, {20}}, {},
                            [](auto z, Index k) { return k == 0 ? z[0] > 10 : z[0] > 6; });
  const Index exits[] = {1, 0, 2, 0};
  const float logits[] = {7, 11, 5, 21};
  for (Index t = 0; t < 4; ++t) {
    REQUIRE(left.exit[t] == exits[t]);
    REQUIRE(left.logits(t, 0) == logits[t]);
  }
  REQUIRE(left.count == std::array<Index, 3>{2, 1, 1});
}

TEST_CASE("A layer with memory remembers the rows that reached it, in run as in step",
          "[exit][early_exit]") {
  Random random(4);
  const auto net = Remembers::with_scalar<double>::initialized(random);
  using State = Remembers::with_scalar<double>::State;
  const Index offsets[] = {0, 4, 4, 5, 16};
  const auto x = noise<double, 5>(16, random);
  const auto policy = [](auto z, Index) { return std::sin(1000 * z[0]) > 0.3; };
  State states[4]{}, stepped[4]{};
  const auto left = net.run(x, {std::span<State>(states), offsets}, policy);
  REQUIRE(left.count[0] > 1);
  REQUIRE(left.count[1] > 1);
  REQUIRE(left.count[2] > 1);
  for (std::size_t b = 0; b < 4; ++b) {
    for (Index t = offsets[b]; t < offsets[b + 1]; ++t) {
      const auto one = net.step(x.row(t), stepped[b], policy);
      INFO("sequence " << b << ", row " << t);
      REQUIRE(one.exit == left.exit[t]);
      for (Index c = 0; c < 3; ++c) {
        REQUIRE(one.logits[c] == Approx(left.logits(t, c)).epsilon(1e-12));
      }
    }
    const auto more = noise<double, 5>(2, random);
    const auto a = net.forward(more, states[b]), c = net.forward(more, stepped[b]);
    for (Index i = 0; i < a.size(); ++i) {
      REQUIRE(a.data()[i] == Approx(c.data()[i]).epsilon(1e-12));
    }
  }
}

TEST_CASE("A step that leaves early takes no memory from the heap", "[exit][early_exit]") {
  Random random(4);
  const auto net = prepare(Remembers::initialized(random));
  Remembers::State state{};
  const auto x = noise<float, 5>(8, random);
  const auto policy =
      any_of(Deadline<>{std::chrono::steady_clock::now()}, Patience{}, ConfidenceAtLeast{0.9});
  const auto before = allocations();
  for (Index t = 0; t < 8; ++t) net.step(x.row(t), state, policy);
  REQUIRE(allocations() == before);
  const auto row = x.row(0);
  STATIC_REQUIRE(noexcept(net.step(row, state, policy)));
}

TEST_CASE("Running again allocates nothing", "[exit][early_exit]") {
  Random random(1);
  const auto net = prepare(Wide::initialized(random));
  const auto x = noise<float, 20>(67, random);
  for (int i = 0; i < 3; ++i) net.run(x, {}, ConfidenceAtLeast{0.15});
  const auto before = allocations();
  net.run(x, {}, ConfidenceAtLeast{0.15});
  REQUIRE(allocations() == before);
}

TEST_CASE("NaN never leaves early, and stays in its row", "[exit][early_exit]") {
  Random random(1);
  const auto net = prepare(Wide::initialized(random));
  auto x = noise<float, 20>(5, random);
  x(2, 7) = std::numeric_limits<float>::quiet_NaN();
  const auto check = [&](const auto& policy) {
    const auto left = net.run(x, {}, policy);
    REQUIRE(left.exit[2] == 2);
    REQUIRE(std::isnan(left.logits(2, 0)));
    for (const Index t : {0, 1, 3, 4}) REQUIRE(std::isfinite(left.logits(t, 0)));
    REQUIRE(left.count[0] > 0);
  };
  check(ConfidenceAtLeast{0.05});
  check(MarginAtLeast{0.0});
  check(EntropyBelow{std::log(10.0)});
  check(PowerEntropyBelow{std::log(10.0)});
  check(NormalisedEntropyBelow{1.0});
  const auto patient = net.run(x, {}, Patience{});
  REQUIRE(patient.exit[2] == 2);
}

TEST_CASE("Always takes the first exit, never the last", "[exit][early_exit]") {
  Random random(1);
  const auto net = Wide::initialized(random);
  const auto x = noise<float, 20>(9, random);
  REQUIRE(net.run(x, {}, AlwaysLeave{}).count == std::array<Index, 3>{9, 0, 0});
  const auto never = net.run(x, {}, NeverLeave{});
  REQUIRE(never.count == std::array<Index, 3>{0, 0, 9});
  REQUIRE(never.asked == std::array<bool, 3>{false, false, true});
  REQUIRE(net.run(Sequence<float, 20>(), {}, AlwaysLeave{}).logits.rows() == 0);
}

TEST_CASE("Work is counted as it ran", "[exit][early_exit]") {
  STATIC_REQUIRE(dense_macs<Wide>(2) == 2 * (20 * 33 + 33 * 40 + 40 * 31 + 31 * 10));
  STATIC_REQUIRE(macs<Wide>(1) == 20 * 33 + 33 * 40 + 40 * 31 + (33 + 40 + 31) * 10);
  STATIC_REQUIRE(exit_macs<Wide>()[0] == 20 * 33 + 330);
  STATIC_REQUIRE(exit_macs<Wide>()[2] == macs<Wide>(1));
  Random random(1);
  const auto net = Wide::initialized(random);
  const auto x = noise<float, 20>(6, random);
  REQUIRE(executed_macs<Wide>(net.run(x, {}, NeverLeave{})) == dense_macs<Wide>(6));
  REQUIRE(executed_macs<Wide>(net.run(x, {}, AlwaysLeave{})) == 6 * (20 * 33 + 330));
  const auto left = net.run(x, {}, ConfidenceAtLeast{{0.17, 0.17}});
  double sum = 0;
  for (std::size_t k = 0; k < 3; ++k) {
    sum += exit_macs<Wide>()[k] * static_cast<double>(left.count[k]);
  }
  REQUIRE(static_cast<double>(executed_macs<Wide>(left)) == sum);
  const Index offsets[] = {0, 2, 2, 6};
  REQUIRE(static_cast<double>(executed_macs<Wide>(left, offsets)) == sum);
}

#if LIMEN_EXCEPTIONS
TEST_CASE("A policy that does not fit the network is an error", "[exit][early_exit]") {
  const Wide net{};
  const Sequence<float, 20> x(3);
  REQUIRE_THROWS_WITH(net.run(x, {}, ConfidenceAtLeast{{0.5, 0.5, 0.5}}),
                      has_part("2: all exits but the last, found 3"));
  REQUIRE_THROWS_WITH(net.run(x, {}, ConfidenceAtLeast{1.5}), has_part("exit 0"));
  REQUIRE_THROWS_WITH(net.run(x, {}, EntropyBelow{3.0}), has_part("2.302585"));
  REQUIRE_THROWS_WITH(net.run(x, {}, Patience{3}), has_part("1 to 2"));
}
#endif

TEST_CASE("With equilibrium each head has the same say in the layers below", "[exit][early_exit]") {
  // one layer w, then heads that are h: dL/dw = x Σ_k c_k dz_k
  using Plain = EarlyExit<Map<1, 1>, Leave<1, 1>, Map<1, 1>, Leave<1, 1>, Map<1, 1>, Leave<1, 1>>;
  using Even = EarlyExitWith<EarlyExitConfig{.equilibrium = true}, Map<1, 1>, Leave<1, 1>,
                             Map<1, 1>, Leave<1, 1>, Map<1, 1>, Leave<1, 1>>;
  const auto gradient = [](auto net) {
    for_each_tensor([](auto& w) { w[0] = 1; }, net);
    typename decltype(net)::Cache cache;
    decltype(net) d;
    forward(net, Sequence<double, 1>{{2}}, cache);
    backward(net, Sequence<double, 3>{{1, 10, 100}}, cache, d);
    return d;
  };
  REQUIRE(get<0>(gradient(Plain::with_scalar<double>()).parts).weight[0] == 2 * 111);
  const auto even = gradient(Even::with_scalar<double>());
  REQUIRE(get<0>(even.parts).weight[0] ==
          Approx(2 * (1 / 3.0 + 2 / 3.0 * (10 / 2.0 + 1 / 2.0 * 100))));
  REQUIRE(get<1>(even.parts).head.bias[0] == 1);  // heads learn as before
}

TEST_CASE("Where layers are frozen only heads learn", "[exit][early_exit]") {
  using Frozen = EarlyExitWith<EarlyExitConfig{.frozen = true}, Stage<3, 5>, Leave<5, 2>, Map<5, 4>,
                               Bend<4>, Leave<4, 2>>::with_scalar<double>;
  using Free =
      EarlyExit<Stage<3, 5>, Leave<5, 2>, Map<5, 4>, Bend<4>, Leave<4, 2>>::with_scalar<double>;
  Random a(1), b(1), random(2);
  const auto frozen = Frozen::initialized(a);
  const auto free = Free::initialized(b);
  const auto x = noise<double, 3>(4, random);
  const auto dy = noise<double, 4>(4, random);
  Frozen::Cache cache;
  Free::Cache free_cache;
  Frozen d;
  Free free_d;
  forward(frozen, Sequence<double, 3>(x), cache);
  forward(free, Sequence<double, 3>(x), free_cache);
  const auto dx = backward(frozen, dy, cache, d);
  backward(free, dy, free_cache, free_d);
  for (Index i = 0; i < dx.size(); ++i) REQUIRE(dx.data()[i] == 0);
  for_each_tensor(
      [](const auto& t) {
        for (double v : t.flat()) REQUIRE(v == 0);
      },
      get<0>(d.parts));
  REQUIRE(get<2>(d.parts).weight == Map<5, 4>::with_scalar<double>().weight);
  REQUIRE(get<1>(d.parts).head.weight == get<1>(free_d.parts).head.weight);
  REQUIRE(get<4>(d.parts).head.weight == get<4>(free_d.parts).head.weight);
}

TEST_CASE("Parts of an EarlyExit are named by position, heads without a name of their own",
          "[exit][early_exit]") {
  REQUIRE(names<EarlyExit<Map<2, 3>, Leave<3, 2>, Norm<3>, Exit<Map<3, 2>>>>() ==
          "0.weight 0.bias 1.weight 1.bias 2.weight 3.weight 3.bias ");
}

TEST_CASE("A network with a layer that has no step has none either", "[exit][early_exit]") {
  using Whole = EarlyExit<Reverse<3>, Leave<3, 2>, Reverse<3>, Leave<3, 2>>;
  STATIC_REQUIRE(Trainable<Whole>);
  STATIC_REQUIRE_FALSE(Streaming<Whole>);
  STATIC_REQUIRE(Streaming<prepared_form<Wide>>);
  STATIC_REQUIRE_FALSE(ExitPolicy<int, float>);
  Random random(1);
  const auto net = Whole::initialized(random);
  const auto left = net.run(noise<float, 3>(4, random), {}, [](auto z, Index) { return z[0] > 0; });
  REQUIRE(left.count[0] + left.count[1] == 4);
}
