#include <limen/attention/cross_attention.hpp>

#include <memory>
#include <vector>

#include "../goldens/attention_cross.hpp"
#include "../goldens/golden.hpp"
#include "../laws.hpp"

using namespace limen;

namespace {

constexpr CrossAttentionConfig small{.d_model = 1, .n_heads = 1, .capacity = 16};
constexpr CrossAttentionConfig grouped{.d_model = 6,
                                       .d_context = 5,
                                       .n_heads = 4,
                                       .n_kv_heads = 2,
                                       .d_head = 3,
                                       .capacity = 16,
                                       .bias = true,
                                       .out_bias = true};
constexpr CrossAttentionConfig bare{
    .d_model = 34, .d_context = 3, .n_heads = 2, .capacity = 16, .out = false};
constexpr CrossAttentionConfig with_offsets{
    .d_model = 4, .n_heads = 2, .n_kv_heads = 1, .capacity = 16, .key_offsets = 3};

template <Index D>
Sequence<double, D> noise(Index rows, Random& random) {
  Sequence<double, D> x(rows);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = random.normal();
  return x;
}

template <class A, class B>
void same(const A& a, const B& b, double tolerance = 1e-12) {
  REQUIRE(a.size() == b.size());
  for (Index i = 0; i < a.size(); ++i) REQUIRE(std::abs(a.data()[i] - b.data()[i]) <= tolerance);
}

/// Slopes of Σ y r in all numbers, against backward.
template <class L>
void check_slopes(const L& given, Batch<NoState> batch, Batch<NoState> contexts, Index rows,
                  Index context_rows, Random& random) {
  L layer = given, gradient;
  auto x = noise<L::in>(rows, random);
  auto c = noise<L::d_context>(context_rows, random);
  const auto r = noise<L::out>(rows, random);
  typename L::Cache cache;
  const auto loss = [&] {
    const auto y = layer.forward(Sequence(x), Sequence(c), batch, contexts, cache);
    double sum = 0;
    for (Index i = 0; i < y.size(); ++i) sum += y.data()[i] * r.data()[i];
    return sum;
  };
  loss();
  const auto d = layer.backward(r, cache, gradient);
  const auto check = [&](double* values, const double* slopes, Index n) {
    for (Index i = 0; i < n; ++i) {
      const double before = values[i], h = 1e-6;
      values[i] = before + h;
      const double above = loss();
      values[i] = before - h;
      const double below = loss();
      values[i] = before;
      REQUIRE(std::abs((above - below) / (2 * h) - slopes[i]) < 1e-7 * (1 + std::abs(slopes[i])));
    }
  };
  check(x.data(), d.x.data(), x.size());
  check(c.data(), d.context.data(), c.size());
  for_each_tensor([&](auto& value, auto& slope) { check(value.data(), slope.data(), value.size); },
                  layer, gradient);
  loss();
  const L once = gradient;
  layer.backward(r, cache, gradient);
  for_each_tensor(
      [&](const auto& twice, const auto& first) {
        for (Index i = 0; i < twice.size; ++i) REQUIRE(std::abs(twice[i] - 2 * first[i]) < 1e-11);
      },
      gradient, once);
}

template <CrossAttentionConfig C>
void check_all() {
  using L = CrossAttention<C, double>;
  static_assert(check::names_every_member<L>);
  Random random(3);
  L layer = L::initialized(random);
  if constexpr (C.key_offsets > 0) {
    for (double& v : layer.key_offset.flat()) v = random.normal();
  }
  const Index offsets[] = {0, 2, 2, 7}, context_offsets[] = {0, 4, 5, 5}, one[] = {0, 7};
  check_slopes(layer, from_rest(offsets), from_rest(context_offsets), 7, 5, random);
  check_slopes(layer, from_rest(offsets), {}, 7, 4, random);
  check_slopes(layer, from_rest(one), {}, 7, 0, random);

  // The context as a state, in pieces; whole sequences, single steps, and the inference form.
  const auto x = noise<L::in>(7, random);
  const auto c = noise<L::d_context>(5, random);
  typename L::Cache cache;
  const auto y = layer.forward(Sequence(x), Sequence(c), {}, {}, cache);
  const auto fast = prepare(layer);
  const auto state = std::make_unique<typename L::State>();
  REQUIRE(layer.read(middle_rows(c, 0, 2), *state));
  REQUIRE(fast.read(middle_rows(c, 2, 3), *state));
  same(layer.forward(x, *state), y);
  same(fast.forward(x, *state), y);
  {
    const Threads two(2);
    same(layer.forward(x, *state), y);
  }
  for (Index t = 0; t < 7; ++t) {
    const std::size_t before = allocations();
    const auto row = layer.step(x.row(t), *state), fast_row = fast.step(x.row(t), *state);
    REQUIRE(allocations() == before);
    for (Index i = 0; i < L::out; ++i) {
      REQUIRE(std::abs(row[i] - y(t, i)) < 1e-12);
      REQUIRE(std::abs(fast_row[i] - y(t, i)) < 1e-12);
    }
  }
  laws::hold(layer, {.state_has_slope = false});
}

}  // namespace

TEST_CASE("Cross attention: slopes, and a context that is a state or an argument",
          "[attention][cross]") {
  check_all<small>();
  check_all<grouped>();
  check_all<bare>();
  check_all<with_offsets>();
}

TEST_CASE("CrossAttention streams, and learns only with its context as an argument",
          "[attention][cross]") {
  using L = CrossAttention<grouped>;
  STATIC_REQUIRE(Streaming<L>);
  STATIC_REQUIRE_FALSE(Trainable<L>);
  STATIC_REQUIRE(std::is_same_v<L::State, prepared_form<L>::State>);
}

TEST_CASE("Cross attention without a context is silent", "[attention][cross]") {
  Random random(2);
  auto layer = CrossAttention<grouped, double>::initialized(random);
  for (Index i = 0; i < 6; ++i) layer.o_bias[i] = static_cast<double>(i);
  CrossAttention<grouped, double>::State state{};
  const auto y = layer.step(Vector<double, 6>{1, 2, 3, 4, 5, 6}, state);
  for (Index i = 0; i < 6; ++i) REQUIRE(y[i] == static_cast<double>(i));
}

TEST_CASE("Cross attention reads what an edit leaves", "[attention][cross][maps]") {
  using L = CrossAttention<grouped, double>;
  Random random(6);
  const L layer = L::initialized(random);
  const auto x = noise<6>(4, random);
  const auto c = noise<5>(6, random);
  const Index rows[] = {0, 2, 4}, context_rows[] = {0, 3, 6};
  const auto run = [&](auto edit) {
    return layer.forward_edited(x, c, from_rest(rows), from_rest(context_rows), edit);
  };
  L::Cache cache;
  same(run([](auto&) {}),
       layer.forward(Sequence(x), Sequence(c), from_rest(rows), from_rest(context_rows), cache));
  // Without its last column, sequence 1 is what it is without its last row of context, but for the
  // share that is then missing.
  const Index last[] = {2};
  AttentionMaps<double> seen;
  const auto y = run([&](auto& maps) {
    seen = maps.copy();
    fade(maps, 1, 0, 2, last, 0.0);
  });
  REQUIRE(seen.sequences() == 2);
  REQUIRE(seen.keys() == 3);
  for (Index i = 0; i < 2; ++i) {
    const auto p = std::as_const(seen)(1, 3);
    REQUIRE(std::abs(p.row(i)[0] + p.row(i)[1] + p.row(i)[2] - 1) < 1e-12);
  }
  const auto free = run([](auto&) {});
  for (Index t = 0; t < 2; ++t) {  // sequence 0 was left alone
    for (Index i = 0; i < 6; ++i) REQUIRE(y(t, i) == free(t, i));
  }
  double changed = 0;
  for (Index t = 2; t < 4; ++t) {
    for (Index i = 0; i < 6; ++i) changed += std::abs(y(t, i) - free(t, i));
  }
  REQUIRE(changed > 1e-3);
}

TEST_CASE("Cross attention behind a mask is that to the rows it leaves",
          "[attention][cross][mask]") {
  using L = CrossAttention<grouped, double>;
  Random random(8);
  auto layer = L::initialized(random);
  for (Index i = 0; i < 6; ++i) layer.o_bias[i] = static_cast<double>(i);
  const auto x = noise<6>(5, random), dy = noise<6>(5, random);
  const auto c = noise<5>(4, random);
  // Row 0 sees the first key, row 1 none, rows 2 to 4 the last two.
  const std::uint8_t keep[] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1};
  const AttentionMask mask{.queries = 5, .keys = 4, .keep = keep};
  Masked masked(mask);
  Context run{.attention = &masked};
  const Index rows[] = {0, 5}, keys[] = {0, 4};

  L gradient, apart;
  L::Cache cache, part;
  const auto y =
      layer.forward(Sequence(x), Sequence(c), from_rest(rows, &run), from_rest(keys), cache);
  const auto slope = layer.backward(dy, cache, gradient);
  auto dc = Sequence<double, 5>::zeros(4);
  const auto piece = [&](Index row, Index n, Index key, Index m) {
    const auto alone =
        layer.forward(middle_rows(x, row, n).copy(), middle_rows(c, key, m).copy(), {}, {}, part);
    same(middle_rows(y, row, n).copy(), alone);
    const auto d = layer.backward(middle_rows(dy, row, n), part, apart);
    same(middle_rows(slope.x, row, n).copy(), d.x);
    for (Index i = 0; i < d.context.size(); ++i) dc.row_data(key)[i] += d.context.data()[i];
  };
  piece(0, 1, 0, 1);
  piece(1, 1, 0, 0);
  piece(2, 3, 2, 2);
  same(slope.context, dc);
  for (Index i = 0; i < 6; ++i) REQUIRE(y(1, i) == static_cast<double>(i));
  for_each_tensor(
      [](const auto& left, const auto& right) {
        for (Index i = 0; i < left.size; ++i) REQUIRE(std::abs(left[i] - right[i]) < 1e-11);
      },
      gradient, apart);

  // For inference, and of a context that is a state.
  same(layer.forward(x, c, from_rest(rows, &run), from_rest(keys)), y);
  const auto state = std::make_unique<L::State>();
  REQUIRE(layer.read(c, *state));
  same(layer.forward(x, Batch(*state, &run)), y);
  REQUIRE(state->seen == 4);
}

TEST_CASE("An editor in the Context reaches cross attention", "[attention][cross][editor]") {
  using L = CrossAttention<grouped, double>;
  Random random(9);
  const L layer = L::initialized(random);
  const auto x = noise<6>(4, random);
  const auto c = noise<5>(6, random);
  const Index rows[] = {0, 2, 4}, context_rows[] = {0, 3, 6}, last[] = {2};
  const auto edit = [&](auto& maps) {
    fade(maps, 1, 0, 2, std::span(last), decltype(maps(0, 0).row(0)[0] + 0)(0));
  };
  Index asked = 0;
  auto editor = edit_maps([&](Index layer_number, auto& maps) {
    REQUIRE(layer_number == asked++);
    edit(maps);
  });
  Context run{.attention = &editor};
  const auto expected = layer.forward_edited(x, c, from_rest(rows), from_rest(context_rows), edit);
  same(layer.forward(x, c, from_rest(rows, &run), from_rest(context_rows)), expected);
  std::vector<L::State> states(2);
  for (Index b = 0; b < 2; ++b) {
    REQUIRE(layer.read(middle_rows(c, 3 * b, 3), states[static_cast<std::size_t>(b)]));
  }
  same(layer.forward(x, Batch<L::State>(states, rows, &run)), expected);
  REQUIRE(asked == 2);
  L::Cache cache;
  REQUIRE_THROWS_WITH(layer.forward(Sequence(x), Sequence(c), from_rest(rows, &run),
                                    from_rest(context_rows), cache),
                      "CrossAttention with an editor: wanted inference, found training");
}

TEST_CASE("Cross attention refuses masks of the wrong size", "[attention][cross][mask]") {
  using L = CrossAttention<grouped, double>;
  const L layer;
  const std::vector<std::uint8_t> entries(40, 1);
  const Index rows[] = {0, 2, 4}, keys[] = {0, 3, 6};
  const auto x = Sequence<double, 6>::zeros(4);
  const auto c = Sequence<double, 5>::zeros(6);
  const auto ask = [&](std::span<const AttentionMask> masks) {
    Masked masked(masks);
    Context run{.attention = &masked};
    layer.forward(x, c, from_rest(rows, &run), from_rest(keys));
    L::Cache cache;
    layer.forward(Sequence(x), Sequence(c), from_rest(rows, &run), from_rest(keys), cache);
  };
  const auto all = std::span(entries);
  const AttentionMask good{.queries = 2, .keys = 3, .keep = all.first(6)};
  const AttentionMask heads{.queries = 2, .keys = 3, .keep = all.first(24), .by_head = true};
  const AttentionMask square{.queries = 2, .keys = 2, .keep = all.first(4)};
  const AttentionMask few{.queries = 2, .keys = 3, .keep = all.first(5)};
  const AttentionMask pair[] = {good, heads}, bad[] = {good, square}, three[] = {good, good, good};
  REQUIRE_NOTHROW(ask({&good, 1}));
  REQUIRE_NOTHROW(ask(pair));
  REQUIRE_THROWS_WITH(ask(bad),
                      "attention mask: wanted 2 queries by 3 keys, found 2 queries by 2 keys");
  REQUIRE_THROWS_WITH(ask({&few, 1}), "attention mask: .keep: wanted 6 entries, found 5");
  REQUIRE_THROWS_WITH(ask(three), "attention masks: wanted 2, or one for all, found 3");
  // A cache is then still that of the forward before.
  L::Cache cache;
  L first, second;
  layer.forward(Sequence(x), Sequence(c), from_rest(rows), from_rest(keys), cache);
  const auto slope = layer.backward(x, cache, first);
  Masked wrong(square);
  Context refused{.attention = &wrong};
  REQUIRE_THROWS(layer.forward(middle_rows(x, 0, 2).copy(), middle_rows(c, 0, 3).copy(),
                               from_rest({}, &refused), {}, cache));
  same(layer.backward(x, cache, second).context, slope.context, 0);

  L::State state{};
  REQUIRE(layer.read(middle_rows(c, 0, 4), state));
  Masked masked(good);
  Context run{.attention = &masked};
  REQUIRE_THROWS_WITH(layer.forward(middle_rows(x, 0, 2), Batch(state, &run)),
                      "attention mask: wanted 2 queries by 4 keys, found 2 queries by 3 keys");
}

TEST_CASE("Cross attention refuses contexts that do not fit", "[attention][cross]") {
  using L = CrossAttention<grouped, double>;
  const L layer;
  L::State state{};
  const auto status = layer.read(Sequence<double, 5>::zeros(17), state);
  REQUIRE_FALSE(status);
  REQUIRE(status.error().message() == "CrossAttention: context: wanted at most 16 rows, found 17");
  REQUIRE(state.seen == 0);
  const Index three[] = {0, 1, 2, 3}, two[] = {0, 1, 2};
  L::Cache cache;
  REQUIRE_THROWS_WITH(layer.forward(Sequence<double, 6>::zeros(3), Sequence<double, 5>::zeros(2),
                                    from_rest(three), from_rest(two), cache),
                      "CrossAttention: contexts: wanted 3, or one for all, found 2");
}

namespace {

template <CrossAttentionConfig C>
void check_golden(const golden::Run& run, golden::Numbers context, golden::Numbers d_context,
                  std::initializer_list<golden::Parameter> parameters) {
  using L = CrossAttention<C, double>;
  L layer, gradient;
  const auto* from = parameters.begin();
  for_each_tensor(
      [&](auto& tensor) {
        REQUIRE(static_cast<std::size_t>(tensor.size) == from->value.size());
        std::copy(from->value.begin(), from->value.end(), tensor.data());
        ++from;
      },
      layer);
  const auto rows = []<Index D>(std::integral_constant<Index, D>, golden::Numbers values) {
    Sequence<double, D> x(static_cast<Index>(values.size()) / D);
    std::copy(values.begin(), values.end(), x.data());
    return x;
  };
  constexpr std::integral_constant<Index, L::in> width;
  constexpr std::integral_constant<Index, L::d_context> context_width;
  typename L::Cache cache;
  golden::same("y", layer.forward(rows(width, run.x), rows(context_width, context), {}, {}, cache),
               run.y, 1e-10);
  const auto d = layer.backward(rows(width, run.dy), cache, gradient);
  golden::same("dx", d.x, run.dx, 1e-10);
  golden::same("dc", d.context, d_context, 1e-10);
  from = parameters.begin();
  for_each_parameter(
      [&](const std::string& name, const auto& tensor) {
        golden::same(name.c_str(), tensor.flat(), from++->gradient, 1e-10);
      },
      gradient);
}

constexpr CrossAttentionConfig torch_like(Index d_model, Index d_context, Index heads) {
  return {.d_model = d_model,
          .d_context = d_context,
          .n_heads = heads,
          .capacity = 1,
          .bias = true,
          .out_bias = true};
}

}  // namespace

// The numbers: tests/goldens/attention.py, cross().
TEST_CASE("Cross attention computes what torch.nn.MultiheadAttention does",
          "[attention][cross][golden]") {
#define LIMEN_CROSS(name, config)                                              \
  {                                                                            \
    namespace g = goldens::attention::name;                                    \
    check_golden<config>({g::x, g::y, g::dy, g::dx}, g::context, g::d_context, \
                         {{g::q_weight, g::d_q_weight},                        \
                          {g::q_bias, g::d_q_bias},                            \
                          {g::k_weight, g::d_k_weight},                        \
                          {g::k_bias, g::d_k_bias},                            \
                          {g::v_weight, g::d_v_weight},                        \
                          {g::v_bias, g::d_v_bias},                            \
                          {g::o_weight, g::d_o_weight},                        \
                          {g::o_bias, g::d_o_bias}});                          \
  }
  LIMEN_CROSS(cross_1, torch_like(2, 3, 1))
  LIMEN_CROSS(cross_4, torch_like(6, 4, 3))
  LIMEN_CROSS(cross_7, torch_like(8, 5, 2))
#undef LIMEN_CROSS
}
