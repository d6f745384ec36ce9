// Each key head serves as many query heads as every other.
// expect: Attention: .n_kv_heads must divide .n_heads
#include <limen/attention/multi_head_attention.hpp>

constexpr limen::AttentionConfig c{.d_model = 12, .n_heads = 4, .n_kv_heads = 3, .capacity = 8};

int main() { return static_cast<int>(limen::Attention<c>::in); }
