#include <limen/moe/polytropon.hpp>

#include <limen/core/random.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/moe_adapters.hpp"
#include "../laws.hpp"
#include "tagged.hpp"

using namespace limen;

namespace {

template <Index I, Index O, class S = float>
using Map = Linear<LinearConfig{.d_in = I, .d_out = O}, S>;

/// Noise, the last number of each row a task.
template <class Real, Index D>
Sequence<Real, D> rows_of_tasks(std::initializer_list<int> tasks) {
  Random random(3);
  Sequence<Real, D> x(static_cast<Index>(tasks.size()));
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(random.normal());
  Index t = 0;
  for (const int task : tasks) x(t++, D - 1) = static_cast<Real>(task);
  return x;
}

/// An inventory that has learned something.
template <class L>
L learned(std::uint64_t seed = 1) {
  Random random(seed);
  L layer = L::initialized(random);
  fill_normal(layer.a, 0.7, random);
  fill_normal(layer.b, 0.7, random);
  fill_normal(layer.z, 1, random);
  return layer;
}

template <class L>
void hold(check::Options options = {}) {
  static_assert(check::names_every_member<L>);
  options.nan_stays = false;  // it is an error
  const auto with = [&]<class S>(S) {
    using Whole = Tagged<L::tasks, typename L::template with_scalar<S>>;
    Random random(2);
    Whole layer = Whole::initialized(random);
    get<1>(layer.layers) = learned<typename L::template with_scalar<S>>();
    laws::hold(layer, options);
  };
  with(double{});
  options.slope = 1e3;  // the steps of float are wide enough to change a task
  with(float{});
}

template <Index D, class A, class B>
void same(const A& a, const B& b, double tolerance) {
  REQUIRE(a.rows() == b.rows());
  for (Index t = 0; t < a.rows(); ++t) {
    for (Index d = 0; d < D; ++d) {
      REQUIRE(static_cast<double>(a(t, d)) ==
              Approx(static_cast<double>(b(t, d))).epsilon(tolerance).margin(tolerance));
    }
  }
}

constexpr PolytroponConfig mhr{.n_tasks = 3,
                               .n_skills = 4,
                               .n_heads = 2,
                               .rank = 3,
                               .alpha = 5,
                               .average_task = true,
                               .train_base = true};
constexpr PolytroponConfig one_number{
    .n_tasks = 1, .n_skills = 2, .rank = 1, .alpha = 1, .average_task = true};

/// The example of two adapters of one number: A = (1, 2), B = (1, -1), z = (0, 2), W = 0.
using Pair =
    Polytropon<one_number, Linear<LinearConfig{.d_in = 1, .d_out = 1, .bias = false}, double>>;
Pair pair() {
  Pair layer;
  layer.a[0] = 1;
  layer.a[1] = 2;
  layer.b[0] = 1;
  layer.b[1] = -1;
  layer.z[1] = 2;
  return layer;
}

}  // namespace

TEST_CASE("Polytropon keeps the laws of layers", "[moe][polytropon][laws]") {
  hold<Polytropon<PolytroponConfig{.n_tasks = 1, .n_skills = 1, .rank = 1, .train_base = true},
                  Map<1, 1>>>();
  hold<Polytropon<PolytroponConfig{.n_tasks = 3, .n_skills = 3, .rank = 2, .train_base = true},
                  Map<7, 17>>>();
  hold<Polytropon<mhr, Map<6, 4>>>();
}

TEST_CASE("Drawn mixtures keep the laws of layers", "[moe][polytropon][laws]") {
  hold<Polytropon<PolytroponConfig{.n_tasks = 2,
                                   .n_skills = 3,
                                   .rank = 2,
                                   .sample = true,
                                   .temperature = 0.7,
                                   .train_base = true},
                  Map<5, 3>>>({.random = true});
}

TEST_CASE("Polytropon by hand: matrices are mixed before they multiply", "[moe][polytropon]") {
  const Pair layer = pair();
  // w = (.362110, .637890): Ā = 1.637890, B̄ = -.275781. A mean of outputs would give -.913671.
  REQUIRE(forward(layer, Sequence<double, 2>{{1, 0}})(0, 0) == Approx(-0.451698).epsilon(2e-6));
  REQUIRE(forward(layer, Sequence<double, 2>{{1, 1}})(0, 0) == 0);  // the mean of B is 0
  const auto lora = layer.adapter(0);
  REQUIRE(lora.a[0] == Approx(1.637890).epsilon(1e-6));
  REQUIRE(lora.b[0] == Approx(-0.275781).epsilon(2e-6));
  REQUIRE(layer.average().a[0] == 1.5);
  REQUIRE(layer.average().b[0] == 0);
}

TEST_CASE("What starts with B = 0 changes nothing, and only B has a gradient",
          "[moe][polytropon]") {
  using L = Polytropon<mhr, Map<6, 4>>;
  Random random(1);
  const L layer = L::initialized(random);
  const auto x = rows_of_tasks<float, 7>({0, 2, 3, 0, 1, 2});
  const auto bare = layer.base.forward(SequenceView<float, 6>(x.data(), x.rows(), 7), {});
  L::Cache cache;
  L gradient;
  const auto y = forward(layer, Sequence<float, 7>(x), cache);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == bare.data()[i]);
  backward(layer, y, cache, gradient);
  REQUIRE(gradient.a == decltype(gradient.a)());
  REQUIRE(gradient.z == decltype(gradient.z)());
  REQUIRE(!(gradient.b == decltype(gradient.b)()));
}

TEST_CASE("The adapter of a task is the layer on its rows, merged or not", "[moe][polytropon]") {
  using L = Polytropon<mhr, Map<6, 4, double>>;
  const auto layer = learned<L>();
  const auto x = rows_of_tasks<double, 7>({0, 2, 3, 0, 1, 2});
  const auto y = forward(layer, x);
  for (Index t = 0; t < x.rows(); ++t) {
    const auto lora = layer.adapter(static_cast<Index>(x(t, 6)));
    const SequenceView<double, 6> row(x.row(t).data(), 1);
    same<4>(SequenceView<double, 4>(y.row(t).data(), 1), forward(lora, row), 1e-13);
    auto plain = lora.merged();
    same<4>(SequenceView<double, 4>(y.row(t).data(), 1), forward(plain, row), 1e-13);
    lora.take_out_of(plain);
    for (Index i = 0; i < plain.weight.size; ++i) {
      REQUIRE(plain.weight[i] == Approx(layer.base.weight[i]).epsilon(1e-14).margin(1e-14));
    }
  }
  same<4>(forward(layer.average(), SequenceView<double, 6>(x.row(2).data(), 1)),
          SequenceView<double, 4>(y.row(2).data(), 1), 1e-13);
}

TEST_CASE("A number that is no task is an error that names the row", "[moe][polytropon]") {
  using L = Polytropon<PolytroponConfig{.n_tasks = 3}, Map<6, 4>>;
  const auto layer = learned<L>();
  const auto fast = prepare(layer);
  NoState state;
  for (const float wrong : {3.0F, -1.0F, 0.5F, std::numeric_limits<float>::quiet_NaN()}) {
    auto x = rows_of_tasks<float, 7>({0, 2, 1});
    x(1, 6) = wrong;
    L::Cache cache;
    REQUIRE_THROWS_WITH(forward(layer, x), has_part("task of row 1") && has_part("0 to 2"));
    REQUIRE_THROWS_WITH(forward(fast, x), has_part("task of row 1"));
    REQUIRE_THROWS_WITH(forward(layer, Sequence<float, 7>(x), cache), has_part("task of row 1"));
    REQUIRE(std::isnan(layer.step(x.row(1), state)[0]));  // cannot fail
    REQUIRE(std::isnan(fast.step(x.row(1), state)[3]));
    REQUIRE(!std::isnan(fast.step(x.row(2), state)[3]));
  }
  REQUIRE_THROWS_WITH(layer.adapter(3), has_part("task") && has_part("0 to 2"));
}

TEST_CASE("Where adapters are frozen only the mixtures learn", "[moe][polytropon]") {
  constexpr PolytroponConfig whole{.n_tasks = 2, .n_skills = 3, .rank = 2};
  constexpr PolytroponConfig z_only{
      .n_tasks = 4, .n_skills = 3, .rank = 2, .train_adapters = false};
  const auto layer = learned<Polytropon<whole, Map<6, 4>>>();
  Random random(5);
  const auto more = layer.with_tasks<z_only>(random);
  for (Index i = 0; i < layer.z.size; ++i) REQUIRE(more.z[i] == layer.z[i]);
  for (Index i = layer.z.size; i < more.z.size; ++i) REQUIRE(std::abs(more.z[i]) <= 1e-3F);
  const auto x = rows_of_tasks<float, 7>({1, 0, 1});
  const auto old = forward(layer, x), y = forward(more, x);
  for (Index i = 0; i < y.size(); ++i) REQUIRE(y.data()[i] == old.data()[i]);

  using L = Polytropon<z_only, Map<6, 4>>;
  L::Cache cache;
  L gradient;
  forward(more, rows_of_tasks<float, 7>({3, 3, 0}), cache);
  backward(more, rows_of_tasks<float, 4>({1, 2, 1}), cache, gradient);
  REQUIRE(gradient.a == decltype(gradient.a)());
  REQUIRE(gradient.b == decltype(gradient.b)());
  REQUIRE(gradient.base.weight == decltype(gradient.base.weight)());
  const auto touched = [&](Index task) {
    for (Index s = 0; s < 3; ++s) {
      if (gradient.z(task, s) != 0) return true;
    }
    return false;
  };
  REQUIRE(touched(0));
  REQUIRE(!touched(1));
  REQUIRE(!touched(2));
  REQUIRE(touched(3));
}

TEST_CASE("Drawn mixtures differ between sequences and vanish without a generator",
          "[moe][polytropon]") {
  using L = Polytropon<PolytroponConfig{.n_tasks = 1, .n_skills = 3, .rank = 2, .sample = true},
                       Map<2, 1>>;
  const auto layer = learned<L>();
  const Sequence<float, 3> x{{1, 2, 0}, {1, 2, 0}, {1, 2, 0}};
  const Index offsets[] = {0, 2, 3};
  L::Cache cache;
  Random random(1);
  Context run{.random = &random};
  const auto y = layer.forward(Sequence<float, 3>(x), from_rest(offsets, &run), cache);
  REQUIRE(y(0, 0) == y(1, 0));
  REQUIRE(y(0, 0) != y(2, 0));
  const auto inferred = forward(layer, x), calm = forward(layer, Sequence<float, 3>(x), cache);
  REQUIRE(calm(0, 0) == inferred(0, 0));
  REQUIRE(y(0, 0) != inferred(0, 0));
}

TEST_CASE("Polytropon and MHR are what PyTorch differentiates", "[moe][polytropon][golden]") {
  const auto tasks = [](golden::Numbers rows, Index width) {  // the column of tasks put in
    std::vector<double> all;
    const double of[] = {2, 0, 2, 2, 0, 1};
    for (std::size_t t = 0; t < 6; ++t) {
      const auto row =
          rows.subspan(t * static_cast<std::size_t>(width), static_cast<std::size_t>(width));
      all.insert(all.end(), row.begin(), row.end());
      all.push_back(of[t]);
    }
    return all;
  };
  const auto with_zeros = [&](golden::Numbers rows) {
    auto all = tasks(rows, 6);
    for (std::size_t t = 0; t < 6; ++t) all[7 * t + 6] = 0;
    return all;
  };
  SECTION("Polytropon") {
    using namespace goldens::adapters::polytropon;
    const auto in = tasks(x, 6), slope = with_zeros(dx);
    golden::check_in_double_and_float<Polytropon<
        PolytroponConfig{.n_tasks = 3, .n_skills = 4, .rank = 2, .alpha = 5, .train_base = true},
        Map<6, 5>>>({in, y, dy, slope},
                    {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}, {z, d_z}});
  }
  SECTION("MHR") {
    using namespace goldens::adapters::mhr;
    const auto in = tasks(x, 6), slope = with_zeros(dx);
    golden::check_in_double_and_float<Polytropon<
        PolytroponConfig{
            .n_tasks = 3, .n_skills = 3, .n_heads = 2, .rank = 2, .alpha = 5, .train_base = true},
        Map<6, 4>>>({in, y, dy, slope},
                    {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}, {z, d_z}});
  }
  SECTION("MHR, rounded") {
    using namespace goldens::adapters::rounded;
    const auto in = tasks(x, 6), slope = with_zeros(dx);
    golden::check_in_double_and_float<Polytropon<PolytroponConfig{.n_tasks = 3,
                                                                  .n_skills = 5,
                                                                  .n_heads = 2,
                                                                  .rank = 2,
                                                                  .alpha = 5,
                                                                  .round = true,
                                                                  .train_base = true},
                                                 Map<6, 4>>>(
        {in, y, dy, slope}, {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}, {z, d_z}});
  }
  SECTION("MHR, scaled") {
    using namespace goldens::adapters::scaled;
    const auto in = tasks(x, 6), slope = with_zeros(dx);
    golden::check_in_double_and_float<Polytropon<PolytroponConfig{.n_tasks = 3,
                                                                  .n_skills = 3,
                                                                  .n_heads = 2,
                                                                  .rank = 2,
                                                                  .alpha = 5,
                                                                  .weigh = SkillWeights::scaled,
                                                                  .train_base = true},
                                                 Map<6, 4>>>(
        {in, y, dy, slope}, {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}, {z, d_z}});
  }
  SECTION("Polytropon, rounded and scaled") {
    using namespace goldens::adapters::rounded_scaled;
    const auto in = tasks(x, 6), slope = with_zeros(dx);
    golden::check_in_double_and_float<Polytropon<PolytroponConfig{.n_tasks = 3,
                                                                  .n_skills = 3,
                                                                  .rank = 2,
                                                                  .alpha = 5,
                                                                  .weigh = SkillWeights::scaled,
                                                                  .round = true,
                                                                  .train_base = true},
                                                 Map<6, 4>>>(
        {in, y, dy, slope}, {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}, {z, d_z}});
  }
  SECTION("MHR, of unit length") {
    using namespace goldens::adapters::unit;
    const auto in = tasks(x, 6), slope = with_zeros(dx);
    golden::check_in_double_and_float<Polytropon<PolytroponConfig{.n_tasks = 3,
                                                                  .n_skills = 3,
                                                                  .n_heads = 2,
                                                                  .rank = 2,
                                                                  .alpha = 5,
                                                                  .weigh = SkillWeights::unit,
                                                                  .train_base = true},
                                                 Map<6, 4>>>(
        {in, y, dy, slope}, {{weight, d_weight}, {bias, d_bias}, {a, d_a}, {b, d_b}, {z, d_z}});
  }
}

TEST_CASE("Other weights of adapters keep the laws of layers", "[moe][polytropon][laws]") {
  hold<Polytropon<PolytroponConfig{.n_tasks = 2,
                                   .n_skills = 3,
                                   .n_heads = 2,
                                   .rank = 2,
                                   .weigh = SkillWeights::unit,
                                   .train_base = true},
                  Map<4, 2>>>();
  hold<Polytropon<PolytroponConfig{.n_tasks = 2,
                                   .n_skills = 3,
                                   .rank = 1,
                                   .weigh = SkillWeights::scaled,
                                   .sample = true,
                                   .train_base = true},
                  Map<4, 2>>>({.random = true});
}

TEST_CASE("Rounded mixtures use whole adapters, and learn through those they do not use",
          "[moe][polytropon]") {
  using L = Polytropon<PolytroponConfig{.n_tasks = 2, .n_skills = 3, .rank = 1, .round = true},
                       Map<2, 1, double>>;
  L layer = learned<L>(), gradient;
  const double z[] = {0.2, -0.1, 3, -1, -2, 0};  // task 0 has adapters 0 and 2, task 1 none
  std::copy_n(z, 6, layer.z.data());
  const auto lora = layer.adapter(0);
  for (Index i = 0; i < 2; ++i) {
    REQUIRE(lora.a[i] == Approx((layer.a[i] + layer.a[4 + i]) / 2));
  }
  REQUIRE(lora.b[0] == Approx((layer.b[0] + layer.b[2]) / 2));
  L::Cache cache;
  const Sequence<double, 3> x{{1, 2, 0}, {1, 2, 1}};
  const auto y = forward(layer, Sequence<double, 3>(x), cache);
  const auto bare = layer.base.forward(SequenceView<double, 2>(x.data(), 2, 3), {});
  REQUIRE(y(1, 0) == bare(1, 0));
  backward(layer, Sequence<double, 1>{{1}, {1}}, cache, gradient);
  REQUIRE(gradient.z(0, 1) != 0);
  for (Index s = 0; s < 3; ++s) REQUIRE(std::abs(gradient.z(1, s)) < 10);
}

namespace {
using L = Polytropon<mhr, Map<6, 4>>;
static_assert(Layer<L>);
static_assert(L::in == 7 && L::tasks == 4);
static_assert(Streaming<prepared_form<L>>);
static_assert(!Trainable<prepared_form<L>>);
}  // namespace
