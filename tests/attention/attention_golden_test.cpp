// The numbers: tests/goldens/attention.py.
#include <limen/attention/gate_layouts.hpp>
#include <limen/attention/multi_head_attention.hpp>

#include "../goldens/attention_layers.hpp"
#include "../goldens/golden.hpp"

using namespace limen;
using golden::check_in_double_and_float;

TEST_CASE("Attention computes what Llama does", "[attention][golden]") {
  constexpr auto rows = [](Index d_model, Index H, Index K, Index d, bool bias = false) {
    return AttentionConfig{.d_model = d_model,
                           .n_heads = H,
                           .n_kv_heads = K,
                           .d_head = d,
                           .capacity = 1,
                           .bias = bias,
                           .out_bias = bias,
                           .rope = {.base = 1e4}};
  };
  {
    namespace g = goldens::attention::llama_1;
    check_in_double_and_float<Attention<rows(4, 1, 1, 4)>>({g::x, g::y, g::dy, g::dx},
                                                           {{g::q_weight, g::d_q_weight},
                                                            {g::k_weight, g::d_k_weight},
                                                            {g::v_weight, g::d_v_weight},
                                                            {g::o_weight, g::d_o_weight}});
  }
  {
    namespace g = goldens::attention::llama_7;
    check_in_double_and_float<Attention<rows(12, 4, 2, 6)>>({g::x, g::y, g::dy, g::dx},
                                                            {{g::q_weight, g::d_q_weight},
                                                             {g::k_weight, g::d_k_weight},
                                                             {g::v_weight, g::d_v_weight},
                                                             {g::o_weight, g::d_o_weight}});
  }
  {
    namespace g = goldens::attention::llama_9;
    check_in_double_and_float<Attention<rows(4, 2, 1, 16, true)>>({g::x, g::y, g::dy, g::dx},
                                                                  {{g::q_weight, g::d_q_weight},
                                                                   {g::q_bias, g::d_q_bias},
                                                                   {g::k_weight, g::d_k_weight},
                                                                   {g::k_bias, g::d_k_bias},
                                                                   {g::v_weight, g::d_v_weight},
                                                                   {g::v_bias, g::d_v_bias},
                                                                   {g::o_weight, g::d_o_weight},
                                                                   {g::o_bias, g::d_o_bias}});
  }
}

TEST_CASE("Attention computes what Qwen3 does, with and without a window", "[attention][golden]") {
  {
    namespace g = goldens::attention::qwen3_6;
    constexpr AttentionConfig C{.d_model = 6,
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .d_head = 8,
                                .capacity = 1,
                                .rope = {.base = 1e4},
                                .qk_norm = QkNorm::rms};
    check_in_double_and_float<Attention<C>>({g::x, g::y, g::dy, g::dx},
                                            {{g::q_weight, g::d_q_weight},
                                             {g::k_weight, g::d_k_weight},
                                             {g::v_weight, g::d_v_weight},
                                             {g::o_weight, g::d_o_weight},
                                             {g::q_norm_weight, g::d_q_norm_weight},
                                             {g::k_norm_weight, g::d_k_norm_weight}});
  }
  {
    namespace g = goldens::attention::qwen3_8;
    constexpr AttentionConfig C{.d_model = 5,
                                .n_heads = 4,
                                .d_head = 2,
                                .window = 3,
                                .rope = {.base = 1e4},
                                .qk_norm = QkNorm::rms};
    check_in_double_and_float<Attention<C>>({g::x, g::y, g::dy, g::dx},
                                            {{g::q_weight, g::d_q_weight},
                                             {g::k_weight, g::d_k_weight},
                                             {g::v_weight, g::d_v_weight},
                                             {g::o_weight, g::d_o_weight},
                                             {g::q_norm_weight, g::d_q_norm_weight},
                                             {g::k_norm_weight, g::d_k_norm_weight}});
  }
}

namespace {

template <AttentionConfig C>
void check_qwen3_next(const golden::Run& run, golden::Parameter fused,
                      std::initializer_list<golden::Parameter> others) {
  using Layer = Attention<C>;
  constexpr std::size_t size = static_cast<std::size_t>(Layer::H * Layer::d * Layer::D);
  std::vector<double> q(size), gate(size), dq(size), d_gate(size);
  const auto split = [](golden::Numbers from, std::vector<double>& a, std::vector<double>& b) {
    REQUIRE(split_gated_queries(GateLayout::by_head, Layer::H, Layer::K, Layer::d, Layer::D, from,
                                a.data(), b.data()));
  };
  split(fused.value, q, gate);
  split(fused.gradient, dq, d_gate);
  const auto* o = others.begin();
  check_in_double_and_float<Layer>(run, {{q, dq}, o[0], o[1], o[2], o[3], o[4], {gate, d_gate}},
                                   3e-5);
}

constexpr AttentionConfig next(Index d_model, Index H, Index K, Index d) {
  return {.d_model = d_model,
          .n_heads = H,
          .n_kv_heads = K,
          .d_head = d,
          .capacity = 1,
          .rope = {.base = 1e7, .width = d / 2},
          .qk_norm = QkNorm::rms_offset,
          .gate = {.position = GatePosition::G1}};
}

}  // namespace

TEST_CASE("Attention computes what Qwen3-Next does", "[attention][gate][golden]") {
  {
    namespace g = goldens::attention::qwen3_next_5;
    check_qwen3_next<next(6, 2, 2, 4)>({g::x, g::y, g::dy, g::dx}, {g::q_weight, g::d_q_weight},
                                       {{g::k_weight, g::d_k_weight},
                                        {g::v_weight, g::d_v_weight},
                                        {g::o_weight, g::d_o_weight},
                                        {g::q_norm_weight, g::d_q_norm_weight},
                                        {g::k_norm_weight, g::d_k_norm_weight}});
  }
  {
    namespace g = goldens::attention::qwen3_next_7;
    check_qwen3_next<next(4, 4, 2, 8)>({g::x, g::y, g::dy, g::dx}, {g::q_weight, g::d_q_weight},
                                       {{g::k_weight, g::d_k_weight},
                                        {g::v_weight, g::d_v_weight},
                                        {g::o_weight, g::d_o_weight},
                                        {g::q_norm_weight, g::d_q_norm_weight},
                                        {g::k_norm_weight, g::d_k_norm_weight}});
  }
  {
    namespace g = goldens::attention::qwen3_next_3;
    check_qwen3_next<next(3, 3, 1, 20)>({g::x, g::y, g::dy, g::dx}, {g::q_weight, g::d_q_weight},
                                        {{g::k_weight, g::d_k_weight},
                                         {g::v_weight, g::d_v_weight},
                                         {g::o_weight, g::d_o_weight},
                                         {g::q_norm_weight, g::d_q_norm_weight},
                                         {g::k_norm_weight, g::d_k_norm_weight}});
  }
}
