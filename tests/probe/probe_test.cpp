#include <limen/probe/clamp.hpp>
#include <limen/probe/probe.hpp>
#include <limen/probe/record.hpp>

#include <limen/compose/branch.hpp>
#include <limen/core/memory.hpp>

#include "../allocations.hpp"
#include "../catch.hpp"
#include "../goldens/golden.hpp"
#include "../goldens/probe_hooks.hpp"
#include "models.hpp"

using namespace probed;
namespace hooks = goldens::probe_hooks;

namespace {

Net net() {
  Net n;
  set_parameters(n, hooks::parameters);
  return n;
}

template <class Real, Index D>
bool same_bits(const Sequence<Real, D>& a, const Sequence<Real, D>& b) {
  return a.rows() == b.rows() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(Real)) == 0;
}

}  // namespace

TEST_CASE("The network of the goldens is PyTorch's", "[probe][golden]") {
  golden::same("clean", forward(net(), rows<3>(hooks::clean)), hooks::y_clean, 1e-12);
  golden::same("corrupt", forward(net(), rows<3>(hooks::corrupt)), hooks::y_corrupt, 1e-12);
}

TEST_CASE("tap_names lists the taps of a run", "[probe]") {
  REQUIRE(tap_names(net(), rows<3>(hooks::clean)) ==
          std::vector<std::string>{"0.embed", "1.inner.mix", "2.blocks.0.inner.0.in",
                                   "2.blocks.0.inner.2.hidden", "2.blocks.0.inner.3.mlp",
                                   "2.blocks.1.inner.0.in", "2.blocks.1.inner.2.hidden",
                                   "2.blocks.1.inner.3.mlp", "2.blocks"});
}

TEST_CASE("A probe without hooks changes no bit", "[probe]") {
  Probe probe;
  const auto x = rows<3>(hooks::clean);
  REQUIRE(same_bits(watch(net(), x, probe), forward(net(), x)));
}

TEST_CASE("A probed model is a model: same type, same size, nothing allocated", "[probe]") {
  using Plain = Sequential<Map<3, 4>, Map<4, 3>>;
  using Tapped = Sequential<Tap<"a", Map<3, 4>>, Tap<"b", Map<4, 3>>>;
  STATIC_REQUIRE(sizeof(Tapped) == sizeof(Plain));
  STATIC_REQUIRE(std::is_same_v<Tapped::State, Plain::State>);
  STATIC_REQUIRE(std::is_same_v<Tapped::Cache, Plain::Cache>);
  Random random(3);
  const auto tapped = Tapped::initialized(random);
  Plain plain;
  std::vector<double> all;
  for_each_tensor([&](const auto& t) { all.insert(all.end(), t.flat().begin(), t.flat().end()); },
                  tapped);
  set_parameters(plain, all);
  const auto x = rows<3>(hooks::clean);
  Tapped::Cache cache;
  Tapped gradient;
  const auto dy = rows<3>(hooks::dy);
  for (int warm = 0; warm < 2; ++warm) {
    const std::size_t before = allocations();
    const auto y = forward(tapped, x);
    forward(tapped, Sequence<double, 3>(x), cache);
    backward(tapped, dy, cache, gradient);
    if (warm == 1) REQUIRE(allocations() == before);
    REQUIRE(same_bits(y, forward(plain, x)));
  }
}

TEST_CASE("A tap that there is not is an error with close names", "[probe]") {
  Probe probe;
  probe.on("2.blocks.1.iner.3.mlp", [](const TapPoint&, auto) {});
  Sequence<double, 3> y;
  const Status s = try_watch(net(), rows<3>(hooks::clean), probe, y);
  REQUIRE_FALSE(s);
  REQUIRE(s.error().message() ==
          "tap 2.blocks.1.iner.3.mlp: wanted 2.blocks.1.inner.3.mlp or 2.blocks.0.inner.3.mlp or "
          "2.blocks.1.inner.0.in, found no tap of that name");
  REQUIRE_THROWS_WITH(watch(net(), rows<3>(hooks::clean), probe), has_part("2.blocks.1.inner"));
  REQUIRE_THROWS_WITH(record(net(), rows<3>(hooks::clean), {"0.embd"}), has_part("0.embed"));
  const auto seen = record(net(), rows<3>(hooks::clean));
  REQUIRE_THROWS_WITH(seen["0.embet"], has_part("wanted 0.embed"));
  REQUIRE(seen["0.embed"].rows == 5);
}

TEST_CASE("After an error the states of the run are as before", "[probe]") {
  const auto model = net();
  Net::State state{};
  model.forward(rows<3>(hooks::clean), state);
  const Net::State before = state;
  Probe probe;
  probe.on("nowhere", [](const TapPoint&, auto) {});
  REQUIRE_THROWS(watch(model, rows<3>(hooks::corrupt), probe, state));
  REQUIRE(std::memcmp(&state, &before, sizeof state) == 0);
  probe.clear();
  watch(model, rows<3>(hooks::corrupt), probe, state);
  REQUIRE(std::memcmp(&state, &before, sizeof state) != 0);
}

TEST_CASE("Hooks come in the order in which they were hung, and can be taken off", "[probe]") {
  Probe probe;
  std::string order;
  probe.on("0.embed", [&](const TapPoint&, MatrixView<double> h) {
    order += 'a';
    h(0, 0) = 1;
  });
  const auto second = probe.on("*.embed", [&](const TapPoint&, MatrixView<double> h) {
    order += h(0, 0) == 1 ? 'b' : '?';
    h(0, 0) = 2;
  });
  Recording seen;
  probe.on("0.embed", RecordInto{&seen});
  watch(net(), rows<3>(hooks::clean), probe);
  REQUIRE(order == "ab");
  REQUIRE(seen["0.embed"](0, 0) == 2);  // written last, stays
  probe.remove(second);
  watch(net(), rows<3>(hooks::clean), probe);
  REQUIRE(order == "aba");
  REQUIRE(seen["0.embed"](0, 0) == 1);
}

TEST_CASE("A hook for float cannot hear double, and says so", "[probe]") {
  Probe probe;
  probe.on("0.embed", [](const TapPoint&, MatrixView<float>) {});
  REQUIRE_THROWS_WITH(watch(net(), rows<3>(hooks::clean), probe),
                      has_part("tap 0.embed: wanted numbers that the hook takes, found double"));
}

TEST_CASE("A site says which rows and columns are not there", "[probe]") {
  const auto x = rows<3>(hooks::clean);
  const auto error = [&](Site site) {
    Probe probe;
    clamp(probe, std::move(site), 0.0);
    Sequence<double, 3> y;
    const Status s = try_watch(net(), x, probe, y);
    return s ? std::string() : s.error().message();
  };
  REQUIRE(error({.tap = "0.embed", .rows = {4, 2}}) ==
          "tap 0.embed: wanted rows 4 to 5, found 5 rows");
  REQUIRE(error({.tap = "0.embed", .columns = {-1, 2}}) ==
          "tap 0.embed: wanted columns -1 to 0, found 4 columns");
  REQUIRE(error({.tap = "0.embed", .rows = {4, 1}, .columns = {0, 4}}).empty());
  REQUIRE(error({.tap = "0.embed", .rows = {5}}).empty());  // none, which is allowed
}

namespace {
struct Positive {
  template <class Real, Index D>
  bool operator()(VectorView<Real, D> x) const {
    return x[0] > Real(0);
  }
};
}  // namespace

TEST_CASE("Rows by number are refused where rows were gathered", "[probe]") {
  using Model = Branch<Positive, Tap<"no", Bend<1>>, Tap<"yes", Bend<1>>>;
  const Model model;
  Probe probe;
  clamp(probe, {.tap = "1.yes", .rows = {0, 1}}, 9.0);
  REQUIRE_THROWS_WITH(watch(model, Sequence<double, 1>{{1}, {-1}, {2}}, probe),
                      has_part("wanted the run's 3 rows, as some are named, found 2 gathered"));
  probe.clear();
  clamp(probe, {.tap = "1.yes"}, 9.0);
  const auto y = watch(model, Sequence<double, 1>{{1}, {-1}, {2}}, probe);
  REQUIRE((y(0, 0) == 9 && y(1, 0) == -1 && y(2, 0) == 9));
}

TEST_CASE("A clamp holds what its mask names", "[probe][clamp]") {
  using Model = Tap<"v", Bend<3>>;
  const Model model;
  Probe probe;
  Recording slope;
  clamp(probe, {.tap = "v"}, {.values = {0, 9, 0}, .mask = {0, 1, 0}});
  Model::Cache cache;
  Model gradient;
  const auto y = watch(model, Sequence<double, 3>{{1, 2, 3}}, probe, cache);
  REQUIRE((y(0, 0) == 1 && y(0, 1) == 9 && y(0, 2) == 3));
  probe.on("v", RecordGradientsInto{&slope});
  const auto dx = watch_back(model, Sequence<double, 3>{{5, 6, 7}}, probe, cache, gradient);
  REQUIRE((dx(0, 0) == 5 && dx(0, 1) == 0 && dx(0, 2) == 7));
  REQUIRE(slope["v"](0, 1) == 0);
  probe.clear();
  clamp(probe, {.tap = "v"}, {.values = {1, 2}});
  REQUIRE_THROWS_WITH(watch(model, Sequence<double, 3>{{1, 2, 3}}, probe),
                      has_part("clamp of v: wanted 1, 3 or 3 numbers, found 2"));
}

TEST_CASE("What is clamped learns as PyTorch's where() does", "[probe][clamp][golden]") {
  const auto model = net();
  Probe probe;
  Clamp how{.values = {std::begin(hooks::held), std::end(hooks::held)}, .mask = {}};
  for (const double m : hooks::mask) how.mask.push_back(m > 0 ? 1 : 0);
  clamp(probe, {.tap = "2.blocks.0.inner.2.hidden"}, how);
  Net::Cache cache;
  Net gradient;
  golden::same("y", watch(model, rows<3>(hooks::clean), probe, cache), hooks::y_held, 1e-12);
  golden::same("dx", watch_back(model, rows<3>(hooks::dy), probe, cache, gradient), hooks::dx_held,
               1e-12);
  std::vector<double> all;
  for_each_tensor([&](const auto& t) { all.insert(all.end(), t.flat().begin(), t.flat().end()); },
                  gradient);
  golden::same("parameters", all, hooks::d_parameters_held, 1e-12);
}

TEST_CASE("A graft takes another run's values, of the same shape only", "[probe][clamp]") {
  const auto seen = record(net(), rows<3>(hooks::corrupt), {"0.embed"});
  Probe probe;
  replace(probe, {.tap = "0.embed"}, seen["0.embed"]);
  REQUIRE(same_bits(watch(net(), rows<3>(hooks::clean), probe),
                    forward(net(), rows<3>(hooks::corrupt))));
  REQUIRE_THROWS_WITH(watch(net(), Sequence<double, 3>{{1, 2, 3}}, probe),
                      has_part("tap 0.embed: wanted [1 x 4], found [5 x 4] to put there"));
}

TEST_CASE("Floats are kept and put back bit by bit", "[probe]") {
  using Model = Net::with_scalar<float>;
  Random random(1);
  const auto model = Model::initialized(random);
  Sequence<float, 3> a(4), b(4);
  for (Index i = 0; i < a.size(); ++i) {
    a.data()[i] = static_cast<float>(random.normal());
    b.data()[i] = static_cast<float>(random.normal());
  }
  Probe probe;
  replace(probe, {.tap = "0.embed"}, record(model, b)["0.embed"]);
  REQUIRE(same_bits(watch(model, a, probe), forward(model, b)));
}

TEST_CASE("Nothing in front of what was replaced learns through it", "[probe][clamp]") {
  const auto model = net();
  const auto x = rows<3>(hooks::clean);
  Probe probe;
  replace(probe, {.tap = "0.embed", .columns = {1, 2}}, record(model, x)["0.embed"]);
  Net::Cache cache;
  Net gradient, plain;
  Probe none;
  const auto y = watch(model, Sequence<double, 3>(x), probe, cache);
  watch_back(model, y, probe, cache, gradient);
  watch_back(model, y, none, cache, plain);
  const auto& d = get<0>(gradient.layers).inner.bias;
  const auto& whole = get<0>(plain.layers).inner.bias;
  REQUIRE((d[1] == 0 && d[2] == 0));
  REQUIRE((d[0] == whole[0] && d[3] == whole[3] && whole[1] != 0));
}
