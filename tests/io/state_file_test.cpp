#include <limen/io/state_file.hpp>

#include <limen/core/random.hpp>
#include <limen/ssm/gated_delta_net.hpp>

#include <memory>

#include "../catch.hpp"
#include "temporary.hpp"

using namespace limen;

namespace {

using Model = GatedDeltaNet<GatedDeltaNetConfig{
    .d_model = 8, .n_key_heads = 1, .n_value_heads = 2, .key_dim = 4, .value_dim = 4}>;
using Other = GatedDeltaNet<GatedDeltaNetConfig{
    .d_model = 8, .n_key_heads = 1, .n_value_heads = 2, .key_dim = 4, .value_dim = 5}>;

template <class State>
std::string message(std::span<const std::byte> bytes, std::string_view name) {
  const auto state = std::make_unique<State>();
  const auto untouched = std::make_unique<State>();
  const Status status = state_from_bytes(bytes, name, *state);
  REQUIRE(std::memcmp(state.get(), untouched.get(), sizeof(State)) == 0);
  return status ? "" : status.error().message();
}

}  // namespace

TEST_CASE("A stream sleeps in a file and wakes where it was", "[io][state_file]") {
  Random random(1);
  const auto model = Model::initialized(random);
  Sequence<float, 8> x(20);
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
  const auto state = std::make_unique<Model::State>();
  model.forward(middle_rows(x, 0, 11), *state);
  const Temporary folder;
  const std::string path = folder.path("stream.state");
  REQUIRE(save_state(path, "delta, first try", *state));
  const auto woken = std::make_unique<Model::State>();
  REQUIRE(load_state(path, "delta, first try", *woken));
  const auto y = model.forward(middle_rows(x, 11, 9), *state);
  const auto again = model.forward(middle_rows(x, 11, 9), *woken);
  REQUIRE(std::memcmp(y.data(), again.data(), sizeof(float) * 9 * 8) == 0);
}

TEST_CASE("A file that is not this state says what it is, and nothing is loaded",
          "[io][state_file]") {
  auto state = std::make_unique<Model::State>();
  state->s[0] = 3;
  const auto bytes = state_bytes("delta", *state);
  using State = Model::State;
  REQUIRE(message<State>(bytes, "mamba").find("found the state of delta in memory") !=
          std::string::npos);
  REQUIRE(message<Other::State>(bytes, "delta").find(std::to_string(sizeof(State)) + " bytes") !=
          std::string::npos);
  REQUIRE(message<State>({}, "delta").find("wanted a file of a state") != std::string::npos);
  for (const std::size_t size : {1u, 31u, 33u, 40u}) {  // cut anywhere
    REQUIRE_FALSE(message<State>(std::span(bytes).first(size), "delta").empty());
  }
  REQUIRE_FALSE(message<State>(std::span(bytes).first(bytes.size() - 1), "delta").empty());
  auto longer = bytes;
  longer.push_back(std::byte{0});
  REQUIRE(message<State>(longer, "delta").find("behind the header") != std::string::npos);
  auto magic = bytes;
  magic[0] = std::byte{'L'};
  REQUIRE(message<State>(magic, "delta").find("something else") != std::string::npos);
  auto newer = bytes;
  newer[8] = std::byte{2};
  REQUIRE(message<State>(newer, "delta").find("wanted version 1, found version 2") !=
          std::string::npos);
  auto name = bytes;  // a name longer than the memory of the world
  for (std::size_t i = 24; i < 32; ++i) name[i] = std::byte{0xff};
  REQUIRE(message<State>(name, "delta").find("a name of") != std::string::npos);
  const auto missing = std::make_unique<State>();
  REQUIRE_FALSE(load_state("/nonexistent/stream.state", "delta", *missing));
}
