// Against the blocks of transformers: see tests/goldens/moe.py.
#include <limen/moe/mixture_of_experts.hpp>
#include <limen/moe/shared_expert.hpp>
#include <limen/moe/top_k_router.hpp>
#include <limen/nn/gated_linear.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/moe_blocks.hpp"

using namespace limen;
using golden::Numbers;

namespace {

constexpr Index D = 6, H = 5;

template <class Real, Index... Dims>
void read(Tensor<Real, Dims...>& to, Numbers from) {
  REQUIRE(from.size() == static_cast<std::size_t>(to.size));
  for (Index i = 0; i < to.size; ++i) to[i] = static_cast<Real>(from[static_cast<std::size_t>(i)]);
}

/// f(tensor, its part of a stacked one): gate and up of all experts in one, down in another.
template <class Experts, class F>
void for_each_stacked(Experts& experts, Numbers gate_up, Numbers down, F f) {
  constexpr std::size_t part = std::size_t{H * D};
  for (std::size_t e = 0; e < experts.layers.size(); ++e) {
    auto& expert = experts.layers[e];
    f(expert.gate, gate_up.subspan(2 * e * part, part));
    f(expert.up, gate_up.subspan((2 * e + 1) * part, part));
    f(expert.down, down.subspan(e * part, part));
  }
}

struct Stacked {
  Numbers gate, gate_up, down;
};

template <class L>
void read_mixture(L& layer, const Stacked& from) {
  read(layer.router.weight, from.gate);
  for_each_stacked(layer.experts, from.gate_up, from.down,
                   [](auto& to, Numbers part) { read(to, part); });
}

template <class L>
void same_gradient(L& gradient, const Stacked& expected, double tolerance) {
  golden::same("gate", gradient.router.weight.flat(), expected.gate, tolerance);
  for_each_stacked(gradient.experts, expected.gate_up, expected.down, [=](auto& got, Numbers part) {
    golden::same("expert", got.flat(), part, tolerance);
  });
}

template <class Real>
Sequence<Real, D> rows(Numbers from) {
  Sequence<Real, D> x(static_cast<Index>(from.size()) / D);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<Real>(from[std::size_t(i)]);
  return x;
}

template <class L>
void same_run(const L& layer, L& gradient, const golden::Run& run, double tolerance) {
  using Real = typename L::Scalar;
  typename L::Cache cache;
  const auto x = rows<Real>(run.x);
  golden::same("y", forward(layer, x), run.y, tolerance);
  golden::same("prepared", forward(prepare(layer), x), run.y, tolerance);
  golden::same("trained", forward(layer, Sequence<Real, D>(x), cache), run.y, tolerance);
  golden::same("dx", backward(layer, rows<Real>(run.dy), cache, gradient), run.dx, tolerance);
}

template <class Real>
constexpr double tolerance_of = sizeof(Real) == 8 ? 1e-10 : 2e-5;

template <Index Hidden, class Real>
using Ffn = GatedLinear<GatedLinearConfig{.d_model = D, .d_hidden = Hidden}, Real>;

constexpr TopKRouterConfig normalised{.d_model = D, .n_experts = 4};
constexpr TopKRouterConfig gathered{.d_model = D, .n_experts = 4, .normalise = false};
constexpr TopKRouterConfig deepseek{.d_model = D,
                                    .n_experts = 6,
                                    .score = RouterScore::sigmoid,
                                    .scale = 2.5,
                                    .balance_bias = true,
                                    .n_groups = 3,
                                    .top_groups = 2};

template <TopKRouterConfig C, class Real>
using Mixture = MixtureOfExperts<TopKRouter<C, Real>, Ffn<H, Real>>;

template <class L>
void same_block(const golden::Run& run, const Stacked& values, const Stacked& gradients) {
  L layer, gradient;
  read_mixture(layer, values);
  same_run(layer, gradient, run, tolerance_of<typename L::Scalar>);
  same_gradient(gradient, gradients, tolerance_of<typename L::Scalar>);
}

struct Ffns {
  Numbers gate, up, down;
};

template <class L>
void check_shared(L& layer, L& gradient, const golden::Run& run, const Stacked& values,
                  const Stacked& gradients, const Ffns& shared, const Ffns& d_shared) {
  constexpr double tolerance = tolerance_of<typename L::Scalar>;
  read_mixture(layer.routed, values);
  read(layer.shared.gate, shared.gate);
  read(layer.shared.up, shared.up);
  read(layer.shared.down, shared.down);
  same_run(layer, gradient, run, tolerance);
  same_gradient(gradient.routed, gradients, tolerance);
  golden::same("shared gate", gradient.shared.gate.flat(), d_shared.gate, tolerance);
  golden::same("shared up", gradient.shared.up.flat(), d_shared.up, tolerance);
  golden::same("shared down", gradient.shared.down.flat(), d_shared.down, tolerance);
}

}  // namespace

TEMPLATE_TEST_CASE("A mixture is the block of Mixtral", "[moe][golden]", float, double) {
  using namespace goldens::moe::mixtral;
  same_block<Mixture<normalised, TestType>>({x, y, dy, dx}, {router, gate_up, down},
                                            {d_router, d_gate_up, d_down});
}

TEMPLATE_TEST_CASE("A mixture is the block of Qwen3, normalised", "[moe][golden]", float, double) {
  using namespace goldens::moe::qwen3;
  same_block<Mixture<normalised, TestType>>({x, y, dy, dx}, {router, gate_up, down},
                                            {d_router, d_gate_up, d_down});
}

TEMPLATE_TEST_CASE("A mixture is the block of Qwen3, not normalised", "[moe][golden]", float,
                   double) {
  using namespace goldens::moe::qwen3_gather;
  same_block<Mixture<gathered, TestType>>({x, y, dy, dx}, {router, gate_up, down},
                                          {d_router, d_gate_up, d_down});
}

TEMPLATE_TEST_CASE("With a gated shared expert it is the block of Qwen2", "[moe][golden]", float,
                   double) {
  using namespace goldens::moe::qwen2;
  using L = SharedExpert<SharedExpertConfig{.gated = true}, Mixture<gathered, TestType>,
                         Ffn<3, TestType>>;
  L layer, gradient;
  read(layer.gate, shared_expert_gate);
  check_shared(layer, gradient, {x, y, dy, dx}, {router, gate_up, down},
               {d_router, d_gate_up, d_down}, {shared_gate, shared_up, shared_down},
               {d_shared_gate, d_shared_up, d_shared_down});
  golden::same("shared_expert_gate", gradient.gate.flat(), d_shared_expert_gate,
               tolerance_of<TestType>);
}

TEMPLATE_TEST_CASE("With sigmoid scores, groups and a bias it is the block of DeepSeek-V3",
                   "[moe][golden]", float, double) {
  using namespace goldens::moe::deepseek_v3;
  using L = SharedExpert<SharedExpertConfig{}, Mixture<deepseek, TestType>, Ffn<2 * H, TestType>>;
  L layer, gradient;
  read(layer.routed.router.score_correction, correction);
  check_shared(layer, gradient, {x, y, dy, dx}, {router, gate_up, down},
               {d_router, d_gate_up, d_down}, {shared_gate, shared_up, shared_down},
               {d_shared_gate, d_shared_up, d_shared_down});
}

TEST_CASE("The load balance is the loss of transformers", "[moe][golden]") {
  using namespace goldens::moe::balance;
  const Index rows = static_cast<Index>(std::size(z)) / 4;
  Sequence<double, 4> scores(rows);
  std::copy(std::begin(z), std::end(z), scores.data());
  TopKRouter<TopKRouterConfig{.d_model = 4, .n_experts = 4}, double> as_given;
  for (Index e = 0; e < 4; ++e) as_given.weight(e, e) = 1;
  Assignment<double, 2> chosen;
  REQUIRE(as_given.route(scores, {}, chosen));
  auto slope = Sequence<double, 4>::zeros(rows);
  const double value =
      load_balance_loss(scores.matrix(), chosen.expert.data(), 2, 1, false, slope.matrix());
  // Its shares of the choices are float32.
  REQUIRE(value == Approx(loss[0]).epsilon(2e-7));
  golden::same("dz", slope, dz, 2e-7);
}
