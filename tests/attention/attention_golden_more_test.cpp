// The numbers: tests/goldens/attention.py, plain().
#include <limen/attention/multi_head_attention.hpp>

#include "../goldens/attention_layers.hpp"
#include "../goldens/golden.hpp"

using namespace limen;
using golden::check_in_double_and_float;

namespace {

constexpr AttentionConfig whole(Index d_model, Index H, Index d) {
  return {.d_model = d_model, .n_heads = H, .d_head = d, .causal = false};
}
constexpr AttentionConfig bent(Index d_model, Index H, Index d) {
  return {.d_model = d_model,
          .n_heads = H,
          .d_head = d,
          .capacity = 1,
          .soft_cap = 1.5,
          .alibi = true,
          .sink = true};
}

}  // namespace

TEST_CASE("Attention that is not causal computes what PyTorch does", "[attention][golden]") {
  {
    namespace g = goldens::attention::whole_4;
    check_in_double_and_float<Attention<whole(3, 1, 3)>>({g::x, g::y, g::dy, g::dx},
                                                         {{g::q_weight, g::d_q_weight},
                                                          {g::k_weight, g::d_k_weight},
                                                          {g::v_weight, g::d_v_weight},
                                                          {g::o_weight, g::d_o_weight}});
  }
  {
    namespace g = goldens::attention::whole_6;
    check_in_double_and_float<Attention<whole(8, 2, 4)>>({g::x, g::y, g::dy, g::dx},
                                                         {{g::q_weight, g::d_q_weight},
                                                          {g::k_weight, g::d_k_weight},
                                                          {g::v_weight, g::d_v_weight},
                                                          {g::o_weight, g::d_o_weight}});
  }
  {
    namespace g = goldens::attention::whole_5;
    check_in_double_and_float<Attention<whole(3, 3, 17)>>({g::x, g::y, g::dy, g::dx},
                                                          {{g::q_weight, g::d_q_weight},
                                                           {g::k_weight, g::d_k_weight},
                                                           {g::v_weight, g::d_v_weight},
                                                           {g::o_weight, g::d_o_weight}});
  }
}

TEST_CASE("Soft-cap, ALiBi and sinks are PyTorch's in the order of the equations",
          "[attention][golden]") {
  {
    namespace g = goldens::attention::bent_4;
    check_in_double_and_float<Attention<bent(3, 1, 3)>>({g::x, g::y, g::dy, g::dx},
                                                        {{g::q_weight, g::d_q_weight},
                                                         {g::k_weight, g::d_k_weight},
                                                         {g::v_weight, g::d_v_weight},
                                                         {g::o_weight, g::d_o_weight},
                                                         {g::sinks, g::d_sinks}});
  }
  {
    namespace g = goldens::attention::bent_6;
    check_in_double_and_float<Attention<bent(8, 2, 4)>>({g::x, g::y, g::dy, g::dx},
                                                        {{g::q_weight, g::d_q_weight},
                                                         {g::k_weight, g::d_k_weight},
                                                         {g::v_weight, g::d_v_weight},
                                                         {g::o_weight, g::d_o_weight},
                                                         {g::sinks, g::d_sinks}});
  }
  {
    namespace g = goldens::attention::bent_5;
    check_in_double_and_float<Attention<bent(3, 3, 17)>>({g::x, g::y, g::dy, g::dx},
                                                         {{g::q_weight, g::d_q_weight},
                                                          {g::k_weight, g::d_k_weight},
                                                          {g::v_weight, g::d_v_weight},
                                                          {g::o_weight, g::d_o_weight},
                                                          {g::sinks, g::d_sinks}});
  }
}
