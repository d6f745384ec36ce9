#include <limen/probe/attribution.hpp>
#include <limen/probe/causal_trace.hpp>
#include <limen/probe/patch.hpp>
#include <limen/probe/path_patch.hpp>
#include <limen/probe/subspace.hpp>

#include "../catch.hpp"
#include "../goldens/golden.hpp"
#include "../goldens/probe_hooks.hpp"
#include "models.hpp"

using namespace probed;
namespace hooks = goldens::probe_hooks;

namespace {

struct Golden {
  Net net;
  Sequence<double, 3> clean = rows<3>(hooks::clean), corrupt = rows<3>(hooks::corrupt);

  Golden() { set_parameters(net, hooks::parameters); }
  auto study() const { return Patching(net, clean, corrupt, LogitDifference{.a = 0, .b = 2}); }
};

const std::string a_hidden = "2.blocks.0.inner.2.hidden", a_mlp = "2.blocks.0.inner.3.mlp",
                  b_in = "2.blocks.1.inner.0.in", b_hidden = "2.blocks.1.inner.2.hidden",
                  b_mlp = "2.blocks.1.inner.3.mlp";

std::string message(const auto& result) { return result ? "" : result.error().message(); }

}  // namespace

TEST_CASE("Patching a stream of three numbers gives the effects known by hand",
          "[probe][patch][path]") {
  const auto model = stream();
  const Sequence<double, 1> clean{{1}}, corrupt{{3}};
  const Patching study(model, clean, corrupt, First{});
  const std::string a = "0.inner.a", in = "1.inner.0.in", m = "1.inner.1.m";
  auto whole = study.effect({{.tap = a}});
  REQUIRE(whole);
  REQUIRE(whole->base == 4.5);
  REQUIRE(whole->source == 13.5);
  REQUIRE(whole->patched == 7.5);
  REQUIRE(whole->share() == Approx(1 / 3.0));
  REQUIRE(whole->fractional_decrease() == Approx(1 - 7.5 / 4.5));
  auto to_m = path_effect(study, {.sender = {.tap = a}, .receiver = {.tap = in}, .frozen = {}});
  REQUIRE(to_m);
  REQUIRE(to_m->patched == 6.5);  // m took 2.5, the way around it did not change
  REQUIRE(to_m->share() == Approx(2 / 9.0));
  auto to_y = path_effect(study, {.sender = {.tap = a}, .frozen = {m}});
  REQUIRE(to_y);
  REQUIRE(to_y->patched == 5.5);
  REQUIRE(to_y->share() == Approx(1 / 9.0));  // they add up, as the model is linear
}

TEST_CASE("Patching everything is the source, patching nothing the base, to the bit",
          "[probe][patch]") {
  const Golden g;
  const auto study = g.study();
  auto all = study.effect({{.tap = "0.embed"}});
  auto none = study.effect({{.tap = "0.embed", .rows = {0, 0}}});
  REQUIRE((all && none));
  REQUIRE(all->patched == all->source);
  REQUIRE(none->patched == none->base);
  REQUIRE(all->share() == 1);
  REQUIRE(none->share() == 0);
}

TEST_CASE("Patches are those of PyTorch's hooks", "[probe][patch][golden]") {
  const Golden g;
  const auto study = g.study();
  std::vector<double> patched;
  for (const std::vector<Site>& sites :
       std::vector<std::vector<Site>>{{{.tap = "0.embed"}},
                                      {{.tap = "1.inner.mix", .rows = {3, 2}}},
                                      {{.tap = a_hidden, .rows = {4, 1}, .columns = {1, 3}}},
                                      {{.tap = "2.blocks.*.inner.3.mlp"}}}) {
    auto effect = study.effect(sites);
    INFO(message(effect));
    REQUIRE(effect);
    patched.push_back(effect->patched);
  }
  golden::same("patched", patched, hooks::patched, 1e-12);

  auto direct =
      path_effect(study, {.sender = {.tap = a_mlp}, .frozen = {"2.blocks.*.inner.3.mlp"}});
  auto through = path_effect(
      study,
      {.sender = {.tap = a_mlp}, .receiver = {.tap = b_in}, .frozen = {"2.blocks.*.inner.3.mlp"}});
  REQUIRE((direct && through));
  golden::same("path", std::vector{direct->patched, through->patched}, hooks::path, 1e-12);

  std::vector<Direction> V(2, Direction(6));
  for (std::size_t i = 0; i < 12; ++i) V[i / 6][i % 6] = hooks::V[i];
  auto subspace = subspace_effect(study, {.tap = b_hidden}, V);
  REQUIRE(subspace);
  golden::same("subspace", std::vector{subspace->patched}, hooks::subspace, 1e-12);
}

TEST_CASE("Causal tracing restores what PyTorch's hooks restore", "[probe][causal_trace][golden]") {
  const Golden g;
  std::vector<Activations> noise(2, {2, 4, std::vector<double>(8)});
  for (std::size_t i = 0; i < 16; ++i) noise[i / 8].values[i % 8] = hooks::noise[i];
  auto trace =
      causal_trace(g.net, g.clean, Probability{.of = 1}, {.tap = "0.embed", .rows = {2, 2}}, noise,
                   {{{.tap = "1.inner.mix", .rows = {4, 1}}}, {{.tap = a_mlp}, {.tap = b_mlp}}});
  REQUIRE(trace);
  golden::same("clean", std::vector{trace->clean}, hooks::trace_clean, 1e-12);
  golden::same("corrupted", std::vector{trace->corrupted}, hooks::trace_corrupted, 1e-12);
  REQUIRE(trace->total == Approx(trace->clean - trace->corrupted));
  for (double& effect : trace->indirect) effect += trace->corrupted;
  golden::same("restored", trace->indirect, hooks::trace_restored, 1e-12);
}

TEST_CASE("Causal tracing draws the same noise for the same seed, of the deviation asked for",
          "[probe][causal_trace]") {
  const Golden g;
  const Corruption how{.corrupt = {.tap = "0.embed", .rows = {3, 2}}, .sigma = 2, .draws = 5};
  const auto run = [&](Corruption c) {
    return causal_trace(g.net, g.clean, Probability{.of = 1}, c,
                        {{{.tap = "0.embed"}}, {{.tap = "0.embed", .rows = {0, 3}}}})
        .value();
  };
  const CausalTrace one = run(how), two = run(how);
  REQUIRE(one.corrupted == two.corrupted);
  REQUIRE(one.corrupted != one.clean);
  REQUIRE(one.indirect[0] == Approx(one.total));  // restoring all undoes it
  REQUIRE(one.indirect[1] == 0);                  // these rows had no noise
  Corruption other = how;
  other.seed = 1;
  REQUIRE(run(other).corrupted != one.corrupted);

  // The answer is the noise itself: mean 0, deviation 2.
  const Tap<"x", Bend<1>> plain;
  double sum = 0, squares = 0;
  const auto value = [&](SequenceView<double, 1> y) {
    sum += y(0, 0);
    squares += y(0, 0) * y(0, 0);
    return y(0, 0);
  };
  const Sequence<double, 1> zero{{0}};
  REQUIRE(causal_trace(plain, zero, value, Corruption{{.tap = "x"}, 2, 4000}, {}));
  REQUIRE(std::abs(sum / 4000) < 0.1);
  REQUIRE(squares / 4000 == Approx(4).epsilon(0.1));
}

TEST_CASE("Attribution is PyTorch's gradient times the change", "[probe][attribution][golden]") {
  const Golden g;
  const auto slope = [](SequenceView<double, 3> y) {
    auto d = Sequence<double, 3>::zeros(y.rows());
    d(y.rows() - 1, 0) = 1;
    d(y.rows() - 1, 2) = -1;
    return d;
  };
  const std::vector<Site> sites{
      {.tap = "1.inner.mix"}, {.tap = a_mlp, .rows = {4, 1}}, {.tap = b_hidden}};
  auto effects = attribution(g.net, g.clean, g.corrupt, slope, sites);
  INFO(message(effects));
  REQUIRE(effects);
  golden::same("attributed", *effects, hooks::attributed, 1e-12);

  // Everything passes the embedding: over the whole way its effects make up the whole change.
  const auto study = g.study();
  auto whole = attribution(g.net, g.clean, g.corrupt, slope, {{.tap = "0.embed"}}, 2000);
  REQUIRE(whole);
  const auto all = study.effect({{.tap = "0.embed"}}).value();
  REQUIRE((*whole)[0] == Approx(all.source - all.base).epsilon(1e-5));

  // On a linear model it is the effect of the patch.
  const auto model = stream();
  const Sequence<double, 1> clean{{1}}, corrupt{{3}};
  const auto one = [](SequenceView<double, 1>) { return Sequence<double, 1>{{1}}; };
  auto linear = attribution(model, clean, corrupt, one, {{.tap = "0.inner.a"}});
  REQUIRE(linear);
  REQUIRE((*linear)[0] == Approx(3));  // 7.5 - 4.5
}

TEST_CASE("The share of pairs that answer as the source is counted", "[probe][patch]") {
  const Golden g;
  const std::vector<Sequence<double, 3>> bases{g.clean, g.corrupt}, sources{g.corrupt, g.clean};
  REQUIRE(interchange_accuracy(g.net, bases, sources, {{.tap = "0.embed"}}).value() == 1);
  const auto best = [&](const Sequence<double, 3>& x) {
    const auto y = forward(g.net, x);
    const double* z = y.row(y.rows() - 1).data();
    return std::max_element(z, z + 3) - z;
  };
  REQUIRE(best(g.clean) != best(g.corrupt));
  REQUIRE(
      interchange_accuracy(g.net, bases, sources, {{.tap = "0.embed", .rows = {0, 0}}}).value() ==
      0);
  REQUIRE(message(interchange_accuracy(g.net, bases, {}, {})) ==
          "sources: wanted 2, one for each base, found 0");
}

TEST_CASE("Subspaces of the toy of the paper: success that is an illusion", "[probe][subspace]") {
  // h = (z, 0, z); what is read is h2 and h3, the answer 2 h2 + h3.
  using Model = Sequential<Map<1, 3, false>, Tap<"h", Bend<3>>, Map<3, 2, false>, Map<2, 1, false>>;
  Model model;
  set_parameters(model, std::vector<double>{1, 0, 1, 0, 1, 0, 0, 0, 1, 2, 1});
  const Sequence<double, 1> base{{-1}}, source{{1}};
  const Patching study(model, base, source, First{});
  const auto patched = [&](Direction v) {
    return subspace_effect(study, {.tap = "1.h"}, {v}).value().patched;
  };
  REQUIRE(patched({1, 0, 0}) == -1);
  REQUIRE(patched({0, 1, 0}) == -1);
  REQUIRE(patched({0, 0, 1}) == 1);
  REQUIRE(patched({1, 1, 0}) == Approx(1));
  const Activations W{2, 3, {0, 1, 0, 0, 0, 1}}, data{4, 3, {-1, 0, -1, 1, 0, 1, 2, 0, 2, 0, 0, 0}};
  auto illusion = illusion_check(study, {.tap = "1.h"}, {1, 1, 0}, W, data);
  REQUIRE(illusion);
  REQUIRE(illusion->row == Direction{0, 1, 0});
  REQUIRE(illusion->null == Direction{1, 0, 0});
  REQUIRE(illusion->v.share() == Approx(1));
  REQUIRE(illusion->v_row.share() == 0);
  REQUIRE(illusion->v_null.share() == 0);
  REQUIRE(illusion->row_variance == 0);
  REQUIRE(illusion->null_variance == Approx(1.25));
  REQUIRE(illusion->all.share() == 1);
  REQUIRE(illusion->illusory());
  auto faithful = illusion_check(study, {.tap = "1.h"}, {0, 0, 1}, W, data);
  REQUIRE(faithful);
  REQUIRE(faithful->v_row.share() == Approx(1));
  REQUIRE_FALSE(faithful->illusory());
  REQUIRE_FALSE(faithful->kernel_is_empty);
  const Activations all{3, 3, {1, 0, 0, 1, 1, 0, 0, 1, 1}};
  auto full = illusion_check(study, {.tap = "1.h"}, {1, 1, 0}, all, data);
  REQUIRE(full);
  REQUIRE(full->kernel_is_empty);
  REQUIRE(full->v_null.share() == 0);
}

TEST_CASE("A patch along a complete basis is the whole patch", "[probe][subspace]") {
  const Golden g;
  const auto study = g.study();
  std::vector<Direction> V(6, Direction(6));
  for (std::size_t i = 0; i < 6; ++i) V[i][i] = 1;
  auto all = subspace_effect(study, {.tap = a_hidden}, V);
  auto whole = study.effect({{.tap = a_hidden}});
  REQUIRE((all && whole));
  REQUIRE(all->patched == Approx(whole->patched));
}

TEST_CASE("What cannot be patched says why", "[probe][patch]") {
  const Golden g;
  const auto study = g.study();
  REQUIRE(message(study.effect({{.tap = "0.embde"}})) ==
          "tap 0.embde: wanted 0.embed, found no tap of that name");
  const Sequence<double, 3> one{{1, 2, 3}};
  REQUIRE(message(Patching(g.net, g.clean, one, LogitDifference{}).effect({})) ==
          "rows of the source: wanted 5 as in the base, found 1");
  REQUIRE_THAT(message(Patching(g.net, g.clean, g.clean, LogitDifference{}).effect({})),
               has_part("metric: wanted another value for the source, found the base's"));
  REQUIRE(message(path_effect(
              study, {.sender = {.tap = b_mlp}, .receiver = {.tap = b_in}, .frozen = {}})) ==
          "path to " + b_in + ": wanted a receiver behind " + b_mlp + ", found one in front of it");
  REQUIRE(message(subspace_effect(study, {.tap = b_hidden}, {Direction(6)})) ==
          "direction: wanted another than 0, found 0");
  REQUIRE_THAT(
      message(subspace_effect(study, {.tap = b_hidden}, {{1, 0, 0, 0, 0, 0}, {1, 1, 0, 0, 0, 0}})),
      has_part("directions 0 and 1: wanted orthonormal ones"));
  REQUIRE(message(subspace_effect(study, {.tap = b_hidden}, {{1, 0}})) ==
          "directions at " + b_hidden + ": wanted 6 numbers, found 2");
  REQUIRE(message(causal_trace(g.net, g.clean, LogitDifference{}, {.tap = "0.embed"}, {}, {})) ==
          "causal trace: wanted at least one draw of noise, found none");
  REQUIRE(message(causal_trace(g.net, g.clean, LogitDifference{},
                               {.tap = "0.embed", .rows = {7, 1}}, {{1, 4, {1, 2, 3, 4}}}, {})) ==
          "tap 0.embed: wanted rows 7 to 7, found 5 rows");
}

namespace {

/// A layer that a row passes twice.
template <class L>
struct Twice {
  static constexpr Index in = L::in, out = L::out;
  using Scalar = typename L::Scalar;
  template <class T>
  using with_scalar = Twice<typename L::template with_scalar<T>>;
  L inner;

  template <class F, class... M>
  static constexpr void visit(F&& f, M&... m) {
    L::visit(f, m.inner...);
  }
  using State = NoState;
  Sequence<Scalar, out> forward(SequenceView<Scalar, in> x, Batch<State> batch) const {
    return inner.forward(SequenceView<Scalar, in>(inner.forward(x, batch)), batch);
  }
};

}  // namespace

TEST_CASE("A tap that is passed twice is patched with what it had each time", "[probe][patch]") {
  Twice<Tap<"a", Map<1, 1, false>>> model;
  model.inner.inner.weight[0] = 2;  // 2 x, then 4 x
  const Sequence<double, 1> base{{1}}, source{{10}};
  const Patching study(model, base, source, First{});
  std::vector<double> passed;
  Probe probe;
  detail::replace_from(probe, {.tap = "a"}, study.source());
  probe.on("a", [&](const TapPoint&, auto rows) { passed.push_back(rows(0, 0)); });
  watch(model, base, probe);
  REQUIRE(passed == std::vector<double>{20, 40});
}

TEST_CASE("Along all directions a row of a site takes its own row of the source",
          "[probe][subspace]") {
  const Golden g;
  const auto study = g.study();
  for (const Index row : {3, 4}) {
    std::vector<Direction> V(4, Direction(4));
    for (std::size_t d = 0; d < 4; ++d) V[d][d] = 1;
    const Site site{.tap = "0.embed", .rows = {row, 1}};
    auto all = subspace_effect(study, site, V), whole = study.effect({site});
    REQUIRE((all && whole));
    REQUIRE(whole->share() != 0);
    REQUIRE(all->patched == Approx(whole->patched).epsilon(1e-12));
  }
}
