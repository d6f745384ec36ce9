#include <limen/attention/multi_head_attention.hpp>

#include "../laws.hpp"

using namespace limen;

namespace {

constexpr AttentionConfig one{.d_model = 1, .n_heads = 1, .capacity = 64};
constexpr AttentionConfig llama{.d_model = 20,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .d_head = 6,
                                .capacity = 64,
                                .rope = {.base = 100}};
constexpr AttentionConfig qwen{.d_model = 17,
                               .n_heads = 3,
                               .n_kv_heads = 1,
                               .d_head = 16,
                               .capacity = 64,
                               .bias = true,
                               .out_bias = true,
                               .rope = {.base = 1e4, .width = 4, .neighbours = true},
                               .qk_norm = QkNorm::rms_offset,
                               .gate = {.position = GatePosition::G1},
                               .sink = true};

}  // namespace

TEMPLATE_TEST_CASE_SIG("Attention keeps the laws of layers", "[attention][laws]",
                       ((AttentionConfig C), C), (one), (llama), (qwen)) {
  laws::hold_in_double_and_float<Attention<C>>({.state_has_slope = false});
}
