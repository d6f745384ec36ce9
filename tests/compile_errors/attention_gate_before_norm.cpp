// What multiplies a whole head is undone by the norm behind it.
// expect: Attention: a headwise gate in front of the norm does nothing: it cancels
#include <limen/attention/multi_head_attention.hpp>

constexpr limen::AttentionConfig c{.d_model = 12,
                                   .n_heads = 4,
                                   .capacity = 8,
                                   .qk_norm = limen::QkNorm::rms,
                                   .gate = {.position = limen::GatePosition::G4, .headwise = true}};

int main() { return static_cast<int>(limen::Attention<c>::in); }
