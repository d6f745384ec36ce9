// A window of less than nothing is no way to say that there is none.
// expect: Attention: a number of heads, channels or tokens is not negative
#include <limen/attention/multi_head_attention.hpp>

constexpr limen::AttentionConfig c{.d_model = 4, .n_heads = 2, .capacity = 8, .window = -1};

int main() { return limen::Attention<c>().q_proj[0] > 0; }
