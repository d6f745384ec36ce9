// An adapter of rank 0 can change nothing.
// expect: Lora: .rank must be positive
#include <limen/moe/lora.hpp>

using namespace limen;

int main() {
  using L = Lora<LoraConfig{.rank = 0}, Linear<LinearConfig{.d_in = 4, .d_out = 4}>>;
  return static_cast<int>(L::in);
}
