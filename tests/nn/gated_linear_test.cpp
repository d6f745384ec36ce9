#include <limen/nn/gated_linear.hpp>

#include <cmath>

#include "../goldens/golden.hpp"
#include "../goldens/nn_gates.hpp"
#include "../laws.hpp"

using namespace limen;

TEMPLATE_TEST_CASE_SIG(
    "GatedLinear keeps the laws of layers", "[nn][gated_linear][laws]", ((GatedLinearConfig C), C),
    (GatedLinearConfig{.d_model = 1, .d_hidden = 1}),
    (GatedLinearConfig{.d_model = 3, .d_hidden = 5, .activation = Activation::sigmoid}),
    (GatedLinearConfig{.d_model = 20, .d_hidden = 17}),
    (GatedLinearConfig{.d_model = 4, .d_hidden = 15, .activation = Activation::gelu}),
    (GatedLinearConfig{.d_model = 5, .d_hidden = 6, .activation = Activation::identity})) {
  laws::hold_in_double_and_float<GatedLinear<C>>();
}

TEMPLATE_TEST_CASE_SIG("A gate of 1 and a value of 2 give the numbers of the family",
                       "[nn][gated_linear]", ((Activation A, int expected), A, expected),
                       (Activation::sigmoid, 1462117), (Activation::silu, 1462117),
                       (Activation::gelu, 1682689), (Activation::gelu_tanh, 1682384),
                       (Activation::relu, 2000000), (Activation::identity, 2000000)) {
  constexpr GatedLinearConfig c{.d_model = 1, .d_hidden = 1, .activation = A};
  GatedLinear<c, double> layer;
  layer.gate[0] = 1;
  layer.up[0] = 2;
  layer.down[0] = 1;
  REQUIRE(forward(layer, Sequence<double, 1>{{1}})(0, 0) == Approx(expected * 1e-6).epsilon(1e-6));
}

TEST_CASE("GatedLinear names its parameters", "[nn][gated_linear]") {
  GatedLinear<GatedLinearConfig{.d_model = 3, .d_hidden = 5}> layer;
  std::string names;
  for_each_parameter([&](const std::string& name, auto&) { names += name + ' '; }, layer);
  REQUIRE(names == "gate up down ");
  REQUIRE(parameter_count(layer) == 3 * 3 * 5);
}

namespace {

template <Activation A, Index D, Index H>
void check_form(const golden::Run& run, std::initializer_list<golden::Parameter> parameters) {
  constexpr GatedLinearConfig c{.d_model = D, .d_hidden = H, .activation = A};
  golden::check_in_double_and_float<GatedLinear<c>>(run, parameters);
}

}  // namespace

// The numbers: tests/goldens/nn.py, gates().
TEST_CASE("GatedLinear computes what PyTorch does", "[nn][gated_linear][golden]") {
#define LIMEN_CASE(D, H, name)                                           \
  {                                                                      \
    namespace s = goldens::nn::glu_##D;                                  \
    namespace g = goldens::nn::glu_##D::name;                            \
    check_form<Activation::name, D, H>(                                  \
        {s::x, g::y, g::dy, g::dx},                                      \
        {{s::gate, g::d_gate}, {s::up, g::d_up}, {s::down, g::d_down}}); \
  }
#define LIMEN_FAMILY(D, H)    \
  LIMEN_CASE(D, H, sigmoid)   \
  LIMEN_CASE(D, H, silu)      \
  LIMEN_CASE(D, H, gelu)      \
  LIMEN_CASE(D, H, gelu_tanh) \
  LIMEN_CASE(D, H, relu)      \
  LIMEN_CASE(D, H, identity)
  LIMEN_FAMILY(1, 2)
  LIMEN_FAMILY(5, 4)
  LIMEN_FAMILY(4, 17)
#undef LIMEN_FAMILY
#undef LIMEN_CASE
}
