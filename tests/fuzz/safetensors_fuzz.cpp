// Any bytes as a safetensors file: the reader, and the loader into a small model. A model that was
// not loaded must be as it was; one that was, must be what the file says.

#include <limen/io/checkpoint.hpp>
#include <limen/nn/linear.hpp>

#include <cstdlib>

using Net = limen::Linear<limen::LinearConfig{.d_in = 3, .d_out = 2}>;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto file = limen::Safetensors::in_memory(std::as_bytes(std::span(data, size)));
  if (!file) {
    if (file.error().message().size() > 1000) std::abort();
    return 0;
  }
  std::uint64_t total = 0;
  for (const limen::StoredTensor& t : file->tensors()) {
    total += t.bytes();
    std::vector<double> numbers(t.size() <= size ? static_cast<std::size_t>(t.size()) : 0);
    static_cast<void>(static_cast<bool>(file->read_converted(t, std::span<double>(numbers))));
    if (file->find(t.name) == nullptr) std::abort();
  }
  if (total > size) std::abort();
  for (const bool loose : {false, true}) {
    Net net;
    net.weight[0] = 7;
    const limen::Status s =
        load(net, *file, {.convert = loose, .ignore_extra = loose, .prefix = ""});
    if (!s && (net.weight[0] != 7 || net.weight[1] != 0 || net.bias[0] != 0)) std::abort();
  }
  return 0;
}
