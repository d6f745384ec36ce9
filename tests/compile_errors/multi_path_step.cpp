// What comes last changes the first row: there is nothing to give before it is known.
// expect: MultiPath: not causal, so it has no step; use forward
#include <limen/ssm/mamba.hpp>
#include <limen/ssm/multi_path.hpp>

constexpr limen::MambaConfig mixer{.d_model = 4};

int main() {
  const limen::MultiPath<limen::MultiPathConfig{}, limen::Mamba<mixer>> layer;
  limen::NoState state;
  layer.step(limen::Vector<float, 4>{1, 2, 3, 4}, state);
}
