// Six channels make no whole heads of four.
// expect: Mamba2: .head_dim must divide expand * d_model
#include <limen/ssm/mamba2.hpp>

constexpr limen::Mamba2Config c{.d_model = 3, .head_dim = 4};

int main() { return limen::Mamba2<c>::out; }
