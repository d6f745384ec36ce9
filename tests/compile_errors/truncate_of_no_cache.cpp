// A state that is a sum of all it has seen cannot forget the last of it.
// expect: truncate: a layer's state is no KvCache and cannot be taken back; keep a StateRing
#include <limen/attention/caches.hpp>
#include <limen/attention/linear_attention.hpp>

int main() {
  limen::LinearAttention<limen::LinearAttentionConfig{.d_model = 4, .n_heads = 1}>::State state{};
  return limen::truncate(state, 1) ? 0 : 1;
}
