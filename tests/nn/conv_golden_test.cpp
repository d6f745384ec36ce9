// The numbers: tests/goldens/nn.py, convs().
#include <limen/nn/causal_conv.hpp>
#include <limen/nn/conv.hpp>
#include <limen/nn/depthwise_conv.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/nn_convs.hpp"

using namespace limen;
using golden::check_in_double_and_float;

TEST_CASE("DepthwiseConv computes what PyTorch does", "[nn][depthwise_conv][golden]") {
  {
    namespace g = goldens::nn::depthwise_1;
    check_in_double_and_float<DepthwiseConv<DepthwiseConvConfig{.d = 1}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::depthwise_5;
    constexpr DepthwiseConvConfig c{.d = 5, .width = 3, .activation = Activation::silu};
    check_in_double_and_float<DepthwiseConv<c>>({g::x, g::y, g::dy, g::dx},
                                                {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::depthwise_3;
    constexpr DepthwiseConvConfig c{.d = 3, .activation = Activation::silu};
    check_in_double_and_float<DepthwiseConv<c>>({g::x, g::y, g::dy, g::dx},
                                                {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
}

TEST_CASE("CausalConv1d computes what PyTorch does", "[nn][causal_conv][golden]") {
  {
    namespace g = goldens::nn::causal_1;
    check_in_double_and_float<CausalConv1d<CausalConv1dConfig{.d_in = 1, .d_out = 2}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::causal_3;
    constexpr CausalConv1dConfig c{.d_in = 3, .d_out = 2, .width = 3, .dilation = 2};
    check_in_double_and_float<CausalConv1d<c>>({g::x, g::y, g::dy, g::dx},
                                               {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::causal_2;
    constexpr CausalConv1dConfig c{.d_in = 2, .d_out = 17, .width = 3};
    check_in_double_and_float<CausalConv1d<c>>({g::x, g::y, g::dy, g::dx},
                                               {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
}

TEST_CASE("Conv2d and Conv1d compute what PyTorch does", "[nn][conv][golden]") {
  {
    namespace g = goldens::nn::conv2d_0;
    constexpr Conv2dConfig c{.image = {3, 4}, .d_in = 1, .d_out = 1, .kernel = {2, 3}};
    check_in_double_and_float<Conv2d<c>>({g::x, g::y, g::dy, g::dx},
                                         {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::conv2d_1;
    constexpr Conv2dConfig c{.image = {5, 4},
                             .d_in = 3,
                             .d_out = 4,
                             .kernel = {3, 2},
                             .stride = {2, 1},
                             .padding = {1, 0}};
    check_in_double_and_float<Conv2d<c>>({g::x, g::y, g::dy, g::dx},
                                         {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::conv2d_2;
    constexpr Conv2dConfig c{.image = {6, 5},
                             .d_in = 2,
                             .d_out = 3,
                             .kernel = {3, 3},
                             .stride = {1, 2},
                             .padding = {2, 1},
                             .dilation = {2, 1}};
    check_in_double_and_float<Conv2d<c>>({g::x, g::y, g::dy, g::dx},
                                         {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::conv1d;
    constexpr Conv1dConfig c{.length = 9, .d_in = 3, .d_out = 2, .stride = 2, .padding = 1};
    check_in_double_and_float<Conv1d<c>>({g::x, g::y, g::dy, g::dx},
                                         {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
}
