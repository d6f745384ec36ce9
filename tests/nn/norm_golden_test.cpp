// The numbers: tests/goldens/nn.py, norms().
#include <limen/nn/batch_norm.hpp>
#include <limen/nn/layer_norm.hpp>
#include <limen/nn/rms_norm.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/nn_norms.hpp"

using namespace limen;
using golden::check_in_double_and_float;

TEST_CASE("RmsNorm computes what PyTorch does", "[nn][rms_norm][golden]") {
  {
    namespace g = goldens::nn::rms_norm_1;
    check_in_double_and_float<RmsNorm<RmsNormConfig{.d = 1}>>({g::x, g::y, g::dy, g::dx},
                                                              {{g::weight, g::d_weight}});
  }
  {
    namespace g = goldens::nn::rms_norm_5;
    check_in_double_and_float<RmsNorm<RmsNormConfig{.d = 5}>>({g::x, g::y, g::dy, g::dx},
                                                              {{g::weight, g::d_weight}});
  }
  {
    namespace g = goldens::nn::rms_norm_19;
    check_in_double_and_float<RmsNorm<RmsNormConfig{.d = 19}>>({g::x, g::y, g::dy, g::dx},
                                                               {{g::weight, g::d_weight}});
  }
}

TEST_CASE("LayerNorm computes what PyTorch does", "[nn][layer_norm][golden]") {
  {
    namespace g = goldens::nn::layer_norm_2;
    check_in_double_and_float<LayerNorm<LayerNormConfig{.d = 2}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::layer_norm_5;
    check_in_double_and_float<LayerNorm<LayerNormConfig{.d = 5}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::layer_norm_19;
    check_in_double_and_float<LayerNorm<LayerNormConfig{.d = 19}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
}

TEST_CASE("GroupNorm computes what PyTorch does", "[nn][group_norm][golden]") {
  {
    namespace g = goldens::nn::group_norm_4;
    check_in_double_and_float<GroupNorm<GroupNormConfig{.d = 4, .groups = 2, .eps = 1e-3}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::group_norm_15;
    check_in_double_and_float<GroupNorm<GroupNormConfig{.d = 15, .groups = 3, .eps = 1e-3}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
  {
    namespace g = goldens::nn::group_norm_18;
    check_in_double_and_float<GroupNorm<GroupNormConfig{.d = 18, .groups = 1, .eps = 1e-3}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}, {g::bias, g::d_bias}});
  }
}

namespace {

/// PyTorch's running statistics after one batch with momentum 0.1, from mean 0 and variance 1.
template <BatchNormConfig C>
void check_batch_norm(const golden::Run& run, golden::Parameter weight, golden::Parameter bias,
                      golden::Numbers mean, golden::Numbers var) {
  check_in_double_and_float<BatchNorm<C>>(run, {weight, bias});
  Random random(1);
  auto layer = BatchNorm<C, double>::initialized(random);
  BatchNorm<C, double> gradient;
  typename BatchNorm<C, double>::Cache cache;
  Sequence<double, C.d * C.positions> x(static_cast<Index>(run.x.size()) / (C.d * C.positions));
  std::memcpy(x.data(), run.x.data(), run.x.size_bytes());
  forward(layer, Sequence(x), cache);
  backward(layer, x, cache, gradient);
  settle(layer, gradient, 0.1);
  golden::same("running_mean", layer.running_mean.flat(), mean, 1e-10);
  golden::same("running_var", layer.running_var.flat(), var, 1e-10);
}

}  // namespace

TEST_CASE("BatchNorm computes what PyTorch does", "[nn][batch_norm][golden]") {
  {
    namespace g = goldens::nn::batch_norm_1;
    check_batch_norm<BatchNormConfig{.d = 1}>({g::x, g::y, g::dy, g::dx}, {g::weight, g::d_weight},
                                              {g::bias, g::d_bias}, goldens::nn::batch_norm_1_mean,
                                              goldens::nn::batch_norm_1_var);
  }
  {
    namespace g = goldens::nn::batch_norm_7;
    check_batch_norm<BatchNormConfig{.d = 7}>({g::x, g::y, g::dy, g::dx}, {g::weight, g::d_weight},
                                              {g::bias, g::d_bias}, goldens::nn::batch_norm_7_mean,
                                              goldens::nn::batch_norm_7_var);
  }
  {
    namespace g = goldens::nn::batch_norm_3;
    check_batch_norm<BatchNormConfig{.d = 3, .positions = 4}>(
        {g::x, g::y, g::dy, g::dx}, {g::weight, g::d_weight}, {g::bias, g::d_bias},
        goldens::nn::batch_norm_3_mean, goldens::nn::batch_norm_3_var);
  }
}
