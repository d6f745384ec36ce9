// The numbers: tests/goldens/nn.py, pools().
#include <limen/nn/embedding.hpp>
#include <limen/nn/pooling.hpp>

#include "../goldens/golden.hpp"
#include "../goldens/nn_pools.hpp"

using namespace limen;
using golden::check_in_double_and_float;

namespace {
constexpr PoolConfig without_padding(PoolConfig c) {
  c.count_padding = false;
  return c;
}
}  // namespace

TEST_CASE("Pools compute what PyTorch does", "[nn][pooling][golden]") {
  {
    constexpr PoolConfig c{.image = {4, 4}, .d = 1};
    namespace m = goldens::nn::max_pool_0;
    namespace a = goldens::nn::average_pool_0;
    namespace i = goldens::nn::inside_pool_0;
    check_in_double_and_float<MaxPool<c>>({m::x, m::y, m::dy, m::dx}, {});
    check_in_double_and_float<AveragePool<c>>({a::x, a::y, a::dy, a::dx}, {});
    check_in_double_and_float<AveragePool<without_padding(c)>>({i::x, i::y, i::dy, i::dx}, {});
  }
  {
    constexpr PoolConfig c{
        .image = {5, 4}, .d = 3, .kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 1}};
    namespace m = goldens::nn::max_pool_1;
    namespace a = goldens::nn::average_pool_1;
    namespace i = goldens::nn::inside_pool_1;
    check_in_double_and_float<MaxPool<c>>({m::x, m::y, m::dy, m::dx}, {});
    check_in_double_and_float<AveragePool<c>>({a::x, a::y, a::dy, a::dx}, {});
    check_in_double_and_float<AveragePool<without_padding(c)>>({i::x, i::y, i::dy, i::dx}, {});
  }
  {
    constexpr PoolConfig c{
        .image = {4, 5}, .d = 5, .kernel = {3, 3}, .stride = {1, 2}, .padding = {1, 0}};
    namespace m = goldens::nn::max_pool_2;
    namespace a = goldens::nn::average_pool_2;
    namespace i = goldens::nn::inside_pool_2;
    check_in_double_and_float<MaxPool<c>>({m::x, m::y, m::dy, m::dx}, {});
    check_in_double_and_float<AveragePool<c>>({a::x, a::y, a::dy, a::dx}, {});
    check_in_double_and_float<AveragePool<without_padding(c)>>({i::x, i::y, i::dy, i::dx}, {});
  }
}

TEST_CASE("Embedding computes what PyTorch does", "[nn][embedding][golden]") {
  {
    namespace g = goldens::nn::embedding_0;
    check_in_double_and_float<Embedding<EmbeddingConfig{.vocabulary = 2, .d = 1}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}});
  }
  {
    namespace g = goldens::nn::embedding_1;
    check_in_double_and_float<Embedding<EmbeddingConfig{.vocabulary = 5, .d = 3}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}});
  }
  {
    namespace g = goldens::nn::embedding_2;
    check_in_double_and_float<Embedding<EmbeddingConfig{.vocabulary = 4, .d = 17}>>(
        {g::x, g::y, g::dy, g::dx}, {{g::weight, g::d_weight}});
  }
}
