#include <limen/attention/editor.hpp>
#include <limen/attention/multi_head_attention.hpp>
#include <limen/compose/repeat.hpp>
#include <limen/compose/residual.hpp>
#include <limen/compose/sequential.hpp>
#include <limen/compose/tap.hpp>
#include <limen/nn/rms_norm.hpp>

#include <vector>

#include "../catch.hpp"

using namespace limen;

namespace {

constexpr Index D = 8;
constexpr AttentionConfig C{.d_model = D,
                            .n_heads = 2,
                            .capacity = 32,
                            .rope = {.base = 100},
                            .gate = {.position = GatePosition::G1},
                            .sink = true};
constexpr RmsNormConfig N{.d = D};
template <class Real>
using Model =
    Repeat<2, Residual<Sequential<RmsNorm<N, Real>, Tap<"attention", Attention<C, Real>>>>>;

Sequence<double, D> noise(Index rows, std::uint64_t seed) {
  Random random(seed);
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}
double distance(const Sequence<double, D>& a, const Sequence<double, D>& b) {
  REQUIRE(a.rows() == b.rows());
  double most = 0;
  for (Index i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(a.data()[i] - b.data()[i]));
  }
  return most;
}

const Index offsets[] = {0, 5, 10};

}  // namespace

TEST_CASE("An editor that changes nothing changes nothing", "[attention][editor]") {
  Random random(1);
  const auto model = Model<double>::initialized(random);
  const auto x = noise(10, 2);
  std::vector<Index> layers;
  auto looks = edit_maps([&](Index layer, auto& maps) {
    layers.push_back(layer);
    REQUIRE(maps.sequences() == 2);
    REQUIRE(maps.heads() == 2);
    REQUIRE(maps.queries() == 5);
  });
  Context run{.attention = &looks};
  const auto y = model.forward(x, from_rest(offsets, &run));
  REQUIRE(distance(y, model.forward(x, from_rest(offsets))) < 1e-12);
  REQUIRE(layers == std::vector<Index>{0, 1});
  looks.restart();
  model.forward(x, from_rest(offsets, &run));
  REQUIRE(layers == std::vector<Index>{0, 1, 0, 1});
}

TEST_CASE("An editor reaches the layers of a composed model, those it means",
          "[attention][editor]") {
  // The same model by hand, with maps of its second layer edited.
  Random random(3);
  const auto model = Model<double>::initialized(random);
  const auto x = noise(10, 4);
  const Index word[] = {1}, masked[] = {0};
  const auto edit = [&](auto& maps) {
    emphasise(maps, 0, std::span(word), decltype(maps(0, 0).row(0)[0] + 0)(0.25));
    fade(maps, 1, 2, 5, std::span(masked), decltype(maps(0, 0).row(0)[0] + 0)(0));
    replace(maps, 0, 1, std::span(masked));
  };
  auto second = edit_maps([&](Index layer, auto& maps) {
    if (layer == 1) edit(maps);
  });
  Context run{.attention = &second};
  const auto y = model.forward(x, from_rest(offsets, &run));

  const auto& [first_block, second_block] = std::tie(model.layers[0].inner, model.layers[1].inner);
  const auto block = [&](const auto& b, const Sequence<double, D>& in, Context* c) {
    auto out = b.forward(in, from_rest(offsets, c));
    for (Index i = 0; i < out.size(); ++i) out.data()[i] += in.data()[i];
    return out;
  };
  auto all = edit_maps([&](Index, auto& maps) { edit(maps); });
  Context alone{.attention = &all};
  const auto middle = block(first_block, x, nullptr);
  REQUIRE(distance(y, block(second_block, middle, &alone)) < 1e-12);
  REQUIRE(distance(y, model.forward(x, from_rest(offsets))) > 1e-3);
}

TEST_CASE("An editor sees what a state holds, and leaves it as it was", "[attention][editor]") {
  Random random(5);
  const auto model = prepare(Model<double>::initialized(random));
  using M = prepared_form<Model<double>>;
  const auto x = noise(7, 6);
  auto looks = edit_maps([](Index, auto& maps) {
    REQUIRE(maps.keys() == (maps.queries() == 4 ? 4 : 4 + maps.queries()));
  });
  Context run{.attention = &looks};
  const auto a = std::make_unique<M::State>(), b = std::make_unique<M::State>();
  for (const auto& [begin, rows] : {std::pair<Index, Index>{0, 4}, {4, 3}}) {
    const auto part = middle_rows(x, begin, rows);
    REQUIRE(distance(model.forward(part, Batch(*a, &run)), model.forward(part, *b)) < 1e-12);
  }
  REQUIRE(distance(model.forward(middle_rows(x, 0, 1), *a),
                   model.forward(middle_rows(x, 0, 1), *b)) < 1e-12);
}

TEST_CASE("A listener and an editor may be there at once", "[attention][editor]") {
  struct Names final : TapListener {
    std::vector<std::string> heard;
    void at(std::string_view name, MatrixView<float>) override { heard.emplace_back(name); }
    void at(std::string_view name, MatrixView<double>) override { heard.emplace_back(name); }
  };
  Random random(7);
  const auto model = Model<double>::initialized(random);
  int edited = 0;
  auto looks = edit_maps([&](Index, auto&) { ++edited; });
  Names names;
  Context run{.taps = &names, .attention = &looks};
  model.forward(noise(10, 8), from_rest(offsets, &run));
  REQUIRE(edited == 2);
  REQUIRE(names.heard.size() > 2);
}

TEST_CASE("An editor refuses what it cannot do", "[attention][editor]") {
  Random random(9);
  const auto layer = Attention<C, double>::initialized(random);
  auto looks = edit_maps([](Index, auto&) {});
  Context run{.attention = &looks};
  const Index ragged[] = {0, 4, 10};
  REQUIRE_THROWS_WITH(layer.forward(noise(10, 1), from_rest(ragged, &run)),
                      "attention maps: wanted 4 x 4 for every sequence, found 6 x 6");
  Attention<C, double>::Cache cache;
  REQUIRE_THROWS_WITH(layer.forward(noise(10, 1), from_rest(offsets, &run), cache),
                      "Attention with an editor: wanted inference, found training");
  constexpr AttentionConfig kept{.d_model = D, .n_heads = 2, .window = 3, .first = 1};
  const auto streaming = Attention<kept, double>::initialized(random);
  REQUIRE_THROWS_WITH(
      streaming.forward(noise(10, 1), from_rest(offsets, &run)),
      "Attention with an editor: wanted no rows that are seen for ever, found .first");
}
