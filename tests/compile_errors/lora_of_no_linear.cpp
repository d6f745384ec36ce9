// What has no weight W can not be adapted by A and B.
// expect: Lora: adapts a Linear
#include <limen/moe/lora.hpp>
#include <limen/nn/gated_linear.hpp>

using namespace limen;

int main() {
  using L = Lora<LoraConfig{}, GatedLinear<GatedLinearConfig{.d_model = 4, .d_hidden = 4}>>;
  return static_cast<int>(L::in);
}
