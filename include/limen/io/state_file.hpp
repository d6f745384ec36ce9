#pragma once
/// @file  A stream put to sleep in the middle, and woken somewhere else: its state as bytes.
///
///     save_state("stream.state", "mamba2 2.7b", state).value();
///     load_state("stream.state", "mamba2 2.7b", state).value();
///
/// A file is a header and the bytes of the state. The header says what they are:
///
///   "limenst" 0, version (u32), alignment of the state (u32), its bytes (u64),
///   length of the name (u64), the name            little endian
///
/// The name is the caller's: the model, its revision. States have the layout of their type, which
/// depends on no instruction set, so a file goes from one machine to another of the same
/// endianness. A file that is not exactly what was asked for is an error, and the state stays what
/// it was.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/io/file.hpp>

namespace limen::inline LIMEN_ABI {

namespace detail {

struct StateHeader {
  char magic[8] = {'l', 'i', 'm', 'e', 'n', 's', 't', 0};
  std::uint32_t version = 1;
  std::uint32_t alignment = 0;  ///< of the state: tells float from double where sizes agree
  std::uint64_t state_bytes = 0;
  std::uint64_t name_bytes = 0;
};
static_assert(sizeof(StateHeader) == 32);

template <class State>
StateHeader state_header(std::string_view name) {
  StateHeader header;
  header.alignment = alignof(State);
  header.state_bytes = sizeof(State);
  header.name_bytes = name.size();
  return header;
}

/// The state in `input`, or what is wrong with it.
template <class State>
Status read_state(const InputFile& input, std::string_view name, State& state) {
  static_assert(std::is_trivially_copyable_v<State>, "a state is plain bytes");
  static_assert(std::endian::native == std::endian::little, "state files are little endian");
  const StateHeader wanted = state_header<State>(name);
  const auto wrong = [&](std::string what, std::string found) {
    return Status(Error{"state of " + std::string(name), std::move(what),
                        std::move(found) + " in " + input.name()});
  };
  const auto bytes = [](std::uint64_t n) { return std::to_string(n) + " bytes"; };
  StateHeader found;
  if (!input.read(0, &found, sizeof(found)) ||
      std::memcmp(found.magic, wanted.magic, sizeof(found.magic)) != 0) {
    return wrong("a file of a state", "something else");
  }
  if (found.version != wanted.version) {
    return wrong("version " + std::to_string(wanted.version),
                 "version " + std::to_string(found.version));
  }
  // Lengths come from outside: compared with what is there before anything is read or allocated.
  constexpr std::uint64_t longest_name = 4096;
  if (found.name_bytes > longest_name || found.name_bytes > input.size() - sizeof(found)) {
    return wrong("a name", "a name of " + bytes(found.name_bytes));
  }
  std::string model(static_cast<std::size_t>(found.name_bytes), '\0');
  if (!input.read(sizeof(found), model.data(), found.name_bytes)) return wrong("a name", "none");
  if (model != name) return wrong("this name", "the state of " + model);
  if (found.state_bytes != wanted.state_bytes) {
    return wrong(bytes(wanted.state_bytes), bytes(found.state_bytes));
  }
  if (found.alignment != wanted.alignment) {
    return wrong("alignment " + std::to_string(wanted.alignment),
                 "alignment " + std::to_string(found.alignment));
  }
  const std::uint64_t first = sizeof(found) + found.name_bytes;
  if (input.size() - first != found.state_bytes) {
    return wrong(bytes(found.state_bytes) + " behind the header", bytes(input.size() - first));
  }
  const auto whole = std::make_unique<State>();  // nothing is half loaded
  if (!input.read(first, whole.get(), sizeof(State))) return wrong("all of it", "a part");
  std::memcpy(static_cast<void*>(&state), static_cast<const void*>(whole.get()), sizeof(State));
  return {};
}

}  // namespace detail

/// The bytes that save_state would write: for a message, a database, another process.
template <class State>
std::vector<std::byte> state_bytes(std::string_view name, const State& state) {
  static_assert(std::is_trivially_copyable_v<State>, "a state is plain bytes");
  const auto header = detail::state_header<State>(name);
  std::vector<std::byte> bytes(sizeof(header) + name.size() + sizeof(State));
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (!name.empty()) std::memcpy(bytes.data() + sizeof(header), name.data(), name.size());
  std::memcpy(bytes.data() + sizeof(header) + name.size(), &state, sizeof(State));
  return bytes;
}

/// The state that `state_bytes` gave. `state` changes only on success.
template <class State>
Status state_from_bytes(std::span<const std::byte> bytes, std::string_view name, State& state) {
  return detail::read_state(InputFile::in_memory(bytes, "memory"), name, state);
}

template <class State>
Status save_state(const std::string& path, std::string_view name, const State& state) {
  auto file = OutputFile::open(path);
  if (!file) return file.error();
  const auto bytes = state_bytes(name, state);
  if (auto status = file->write(bytes.data(), bytes.size()); !status) return status;
  return file->commit();
}

/// `state` changes only on success.
template <class State>
Status load_state(const std::string& path, std::string_view name, State& state) {
  auto file = InputFile::open(path);
  if (!file) return file.error();
  return detail::read_state(*file, name, state);
}

}  // namespace limen::inline LIMEN_ABI
