#include <limen/spiking/event_step.hpp>

#include "../allocations.hpp"
#include "../catch.hpp"

#include <limen/nn/activation.hpp>
#include <limen/spiking/lif.hpp>

using namespace limen;

namespace {

constexpr SpikeLinearConfig first{.d_in = 40, .d_out = 90}, second{.d_in = 90, .d_out = 33};
constexpr LifConfig hidden{.d_model = 90, .decay = 0.8, .threshold = 0.4};
constexpr LifConfig own{.d_model = 33,
                        .decay = 0.7,
                        .threshold = 0.3,
                        .reset = Reset::to_value,
                        .learn_decay = Learned::each,
                        .learn_threshold = Learned::each};
constexpr LifConfig tired{.d_model = 90, .decay = 0.8, .threshold = 0.4, .refractory = 2};

using Net = Sequential<SpikeLinear<first>, Lif<hidden>, SpikeLinear<second>, Lif<own>>;
using Tired = Sequential<SpikeLinear<first>, Lif<tired>, SpikeLinear<second>>;
using Mixed = Sequential<SpikeLinear<first>, Activate<ActivateConfig{.d = 90}>, Lif<hidden>,
                         SpikeLinear<second>, Lif<own>, Activate<ActivateConfig{.d = 33}>>;

template <class Real>
Vector<Real, 40> spikes(Random& random) {
  Vector<Real, 40> x;
  for (Real& v : x.values) v = random.uniform() < 0.3 ? Real(1) : Real(0);
  return x;
}

template <class L, Index D>
void require_same(const Fired<D>& list, const Vector<typename L::Scalar, D>& row) {
  const auto back = row_of<typename L::Scalar>(list);
  for (Index i = 0; i < D; ++i) REQUIRE(back[i] == row[i]);
  REQUIRE(spike_list_fault(list.list(), D).empty());
}
template <class L, Index D>
void require_same(const Vector<typename L::Scalar, D>& y,
                  const Vector<typename L::Scalar, D>& row) {
  for (Index i = 0; i < D; ++i) REQUIRE(y[i] == row[i]);
}

template <class Learned>
Index as_rows() {
  Random random(3);
  const auto net = prepare(Learned::initialized(random));
  using Real = typename Learned::Scalar;
  typename Learned::State rows{}, lists{}, mixed{};
  Index spiked = 0;
  for (Index t = 0; t < 30; ++t) {
    const auto x = spikes<Real>(random);
    const std::size_t before = allocations();
    const auto by_list = step_events(net, fired(x), lists);
    const auto by_row = step_events(net, x, mixed);
    REQUIRE(allocations() == before);
    static_assert(noexcept(step_events(net, fired(x), lists)));
    const auto y = net.step(x, rows);
    require_same<Learned>(by_list, y);
    require_same<Learned>(by_row, y);
    for (const Real v : y.values) spiked += v != 0;
  }
  return spiked;
}

}  // namespace

TEMPLATE_TEST_CASE("Lists between layers give what rows give, to the bit, and ask for no memory",
                   "[spiking][event_step]", float, double) {
  using Real = TestType;
  REQUIRE(as_rows<typename Net::with_scalar<Real>>() > 0);
  REQUIRE(as_rows<typename Tired::with_scalar<Real>>() > 0);
  REQUIRE(as_rows<typename Mixed::with_scalar<Real>>() > 0);
}

TEST_CASE("A list of one's own is checked", "[spiking][event_step]") {
  const auto list = [](std::vector<SpikeIndex> ids) { return fired<40>(ids); };
  REQUIRE(list({0, 7, 39}));
  REQUIRE(list({0, 7, 39}).value().count == 3);
  REQUIRE(list({0, 7, 39}).value()[7]);
  REQUIRE_FALSE(list({0, 7, 39}).value()[8]);
  REQUIRE(list({0, 7, 40}).error().message() ==
          "list of spikes: wanted ascending numbers below 40, found 40 at position 2");
  REQUIRE_FALSE(list({7, 7}));
  REQUIRE_FALSE(list({8, 7}));
  REQUIRE_FALSE(list({-1}));
}

static_assert(detail::FiresLists<Lif<hidden>>);
static_assert(!detail::FiresLists<SpikeLinear<first>>);
