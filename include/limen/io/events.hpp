#pragma once
/// @file  Event streams: who changed, which way, and when. As a camera of events, or a cochlea, or
/// a train of spikes gives them.
///
///     const EventStream stream = load_events("bar.events").value();      // text or binary
///
/// An event is (address, polarity, time in microseconds). Two forms of a file, told apart by their
/// first bytes:
///
///   text     limen-events 1 ADDRESSES
///            TIME ADDRESS POLARITY                 a line each; polarity 0 or 1
///                                                  empty lines and lines from # on are skipped
///   binary   "limenev" 0, version 1 (u32), addresses (u32), events (u64), and for each event its
///            time (i64) and address · 2 + polarity (u32)      12 bytes, little endian
///
/// Times start at 0 or later and never go backwards, addresses are below `addresses`, itself at
/// most 2^31. A file that is not so is an error with the line, or the byte, and nothing is given.

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/io/file.hpp>

namespace limen::inline LIMEN_ABI {

struct Event {
  std::int64_t time_us = 0;
  std::uint32_t address = 0;
  bool up = true;  ///< polarity 1

  friend bool operator==(const Event&, const Event&) = default;
};

struct EventStream {
  static constexpr std::uint32_t most_addresses = std::uint32_t{1} << 31;

  std::uint32_t addresses = 0;  ///< how many there are: width times height of a camera
  std::vector<Event> events;    ///< times do not descend

  friend bool operator==(const EventStream&, const EventStream&) = default;
};

namespace detail {

inline constexpr std::string_view events_word = "limen-events";
inline constexpr char events_magic[8] = {'l', 'i', 'm', 'e', 'n', 'e', 'v', 0};
inline constexpr std::size_t events_header = 24, event_bytes = 12;

/// What is wrong with an event behind those before it; `where` is its line or byte.
template <class Where>
Status check_event(const Event& e, std::int64_t before, std::uint32_t addresses, Where where) {
  if (e.time_us < 0 || e.time_us < before) {
    return Error{where(), "a time of at least " + std::to_string(before),
                 std::to_string(e.time_us)};
  }
  if (e.address >= addresses) {
    return Error{where(), "an address below " + std::to_string(addresses),
                 std::to_string(e.address)};
  }
  return {};
}

inline Status check_addresses(std::uint64_t addresses, std::string where) {
  if (addresses >= 1 && addresses <= EventStream::most_addresses) return {};
  return Error{std::move(where), "1 to 2^31 addresses", std::to_string(addresses)};
}

/// Takes a whole number and the blanks around it off the front of `line`.
template <class N>
bool take_number(std::string_view& line, N& number) {
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error != std::errc()) return false;
  line.remove_prefix(static_cast<std::size_t>(end - line.data()));
  if (!line.empty() && line.front() != ' ' && line.front() != '\t') return false;
  while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
  return true;
}

/// What a message shows of a line that was not understood.
inline std::string line_shown(std::string_view line) {
  std::string text;
  for (const char c : line.substr(0, 40)) text += c >= ' ' && c <= '~' ? c : '?';
  return '"' + text + (line.size() > 40 ? "...\"" : "\"");
}

template <class T>
void put_bytes(std::vector<std::byte>& to, T value) {
  const auto bytes = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

template <class T>
T bytes_at(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

}  // namespace detail

/// Empty if `stream` may be written.
inline Status check_events(const EventStream& stream) {
  if (auto s = detail::check_addresses(stream.addresses, "EventStream.addresses"); !s) return s;
  std::int64_t before = 0;
  for (std::size_t i = 0; i < stream.events.size(); ++i) {
    const auto where = [i] { return "event " + std::to_string(i); };
    if (auto s = detail::check_event(stream.events[i], before, stream.addresses, where); !s)
      return s;
    before = stream.events[i].time_us;
  }
  return {};
}

// ── Text ─────────────────────────────────────────────────────────────────────────────────────────

inline Result<EventStream> events_from_text(std::string_view text,
                                            const std::string& name = "memory") {
  EventStream stream;
  std::int64_t before = 0;
  bool has_header = false;
  for (std::size_t at = 0, number = 1; at < text.size(); ++number) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    const std::string_view whole = line;
    const auto where = [&] { return name + ':' + std::to_string(number); };
    if (!has_header) {
      std::uint64_t edition = 0, addresses = 0;
      const bool word = line.substr(0, detail::events_word.size()) == detail::events_word;
      if (word) line.remove_prefix(detail::events_word.size());
      if (!word || line.empty() || line.front() != ' ' || !detail::take_number(line, edition) ||
          edition != 1 || !detail::take_number(line, addresses) || !line.empty()) {
        return Error{where(), "limen-events 1 and the number of addresses",
                     detail::line_shown(whole)};
      }
      if (auto s = detail::check_addresses(addresses, where()); !s) return s.error();
      stream.addresses = static_cast<std::uint32_t>(addresses);
      has_header = true;
      continue;
    }
    if (line.empty() || line.front() == '#') continue;
    Event e;
    int polarity = -1;
    if (!detail::take_number(line, e.time_us) || !detail::take_number(line, e.address) ||
        !detail::take_number(line, polarity) || !line.empty() || polarity < 0 || polarity > 1) {
      return Error{where(), "a time, an address, and 0 or 1", detail::line_shown(whole)};
    }
    e.up = polarity == 1;
    if (auto s = detail::check_event(e, before, stream.addresses, where); !s) return s.error();
    before = e.time_us;
    stream.events.push_back(e);
  }
  if (!has_header) return Error{name + ":1", "limen-events 1 and the number of addresses", "none"};
  return stream;
}

inline std::string events_as_text(const EventStream& stream) {
  std::string text = std::string(detail::events_word) + " 1 " + std::to_string(stream.addresses);
  text += '\n';
  for (const Event& e : stream.events) {
    text += std::to_string(e.time_us) + ' ' + std::to_string(e.address) + (e.up ? " 1\n" : " 0\n");
  }
  return text;
}

// ── Binary ───────────────────────────────────────────────────────────────────────────────────────

inline Result<EventStream> events_from_bytes(std::span<const std::byte> bytes,
                                             const std::string& name = "memory") {
  static_assert(std::endian::native == std::endian::little, "event files are little endian");
  const auto at_byte = [&](std::size_t at) { return name + ", byte " + std::to_string(at); };
  if (bytes.size() < detail::events_header ||
      std::memcmp(bytes.data(), detail::events_magic, sizeof(detail::events_magic)) != 0) {
    return Error{at_byte(0), "a file of events", "something else"};
  }
  const auto number = detail::bytes_at<std::uint32_t>(bytes, 8);
  if (number != 1) return Error{at_byte(8), "version 1", std::to_string(number)};
  EventStream stream;
  stream.addresses = detail::bytes_at<std::uint32_t>(bytes, 12);
  if (auto s = detail::check_addresses(stream.addresses, at_byte(12)); !s) return s.error();
  // The count comes from outside: compared with what is there before anything is reserved.
  const auto count = detail::bytes_at<std::uint64_t>(bytes, 16);
  const std::size_t left = bytes.size() - detail::events_header;
  if (left % detail::event_bytes != 0 || count != left / detail::event_bytes) {
    return Error{at_byte(16), std::to_string(count) + " events of 12 bytes",
                 std::to_string(left) + " bytes"};
  }
  stream.events.reserve(static_cast<std::size_t>(count));
  std::int64_t before = 0;
  for (std::size_t at = detail::events_header; at < bytes.size(); at += detail::event_bytes) {
    const auto place = detail::bytes_at<std::uint32_t>(bytes, at + 8);
    const Event e{detail::bytes_at<std::int64_t>(bytes, at), place >> 1, (place & 1) != 0};
    const auto where = [&] { return at_byte(at); };
    if (auto s = detail::check_event(e, before, stream.addresses, where); !s) return s.error();
    before = e.time_us;
    stream.events.push_back(e);
  }
  return stream;
}

inline std::vector<std::byte> events_as_bytes(const EventStream& stream) {
  std::vector<std::byte> bytes;
  bytes.reserve(detail::events_header + detail::event_bytes * stream.events.size());
  for (const char c : detail::events_magic) bytes.push_back(static_cast<std::byte>(c));
  detail::put_bytes(bytes, std::uint32_t{1});
  detail::put_bytes(bytes, stream.addresses);
  detail::put_bytes(bytes, std::uint64_t{stream.events.size()});
  for (const Event& e : stream.events) {
    detail::put_bytes(bytes, e.time_us);
    detail::put_bytes(bytes, e.address << 1 | std::uint32_t{e.up});
  }
  return bytes;
}

// ── Files ────────────────────────────────────────────────────────────────────────────────────────

/// Either form.
inline Result<EventStream> events_from(std::span<const std::byte> bytes,
                                       const std::string& name = "memory") {
  if (!bytes.empty() && bytes.size() >= sizeof(detail::events_magic) &&
      std::memcmp(bytes.data(), detail::events_magic, sizeof(detail::events_magic)) == 0) {
    return events_from_bytes(bytes, name);
  }
  return events_from_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, name);
}

/// At most `most` bytes.
inline Result<EventStream> load_events(const std::string& path, std::uint64_t most = 1U << 30) {
  auto file = InputFile::open(path);
  if (!file) return file.error();
  if (file->size() > most) {
    return Error{path, "at most " + std::to_string(most) + " bytes", std::to_string(file->size())};
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(file->size()));
  if (!file->read(0, bytes.data(), bytes.size())) return Error{path, "a whole file", "a part"};
  return events_from(bytes, path);
}

enum class EventForm { text, binary };

/// A stream that could not be read again is not written.
inline Status save_events(const std::string& path, const EventStream& stream,
                          EventForm form = EventForm::binary) {
  if (auto s = check_events(stream); !s) return s;
  auto file = OutputFile::open(path);
  if (!file) return file.error();
  if (form == EventForm::text) {
    const std::string text = events_as_text(stream);
    if (auto s = file->write(text.data(), text.size()); !s) return s;
  } else {
    const auto bytes = events_as_bytes(stream);
    if (auto s = file->write(bytes.data(), bytes.size()); !s) return s;
  }
  return file->commit();
}

}  // namespace limen::inline LIMEN_ABI
