// A row that sees what comes later cannot be computed before it is there.
// expect: step: attention that is not .causal needs the whole sequence
#include <limen/attention/multi_head_attention.hpp>

constexpr limen::AttentionConfig c{.d_model = 4, .n_heads = 2, .causal = false};

int main() {
  const limen::Attention<c> layer;
  limen::NoState state;
  return layer.step(limen::Vector<float, 4>{1, 2, 3, 4}, state)[0] > 0;
}
