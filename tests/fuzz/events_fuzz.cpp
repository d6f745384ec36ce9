// Any bytes as a file of events: what is read must be written and read again as it was, in both
// forms, and fit into rows.

#include <limen/io/event_rows.hpp>

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto stream = limen::events_from(std::as_bytes(std::span(data, size)));
  if (!stream) {
    if (stream.error().message().size() > 1000) std::abort();
    return 0;
  }
  if (!check_events(*stream) || stream->events.size() > size) std::abort();
  auto text = limen::events_from_text(limen::events_as_text(*stream));
  auto bytes = limen::events_from_bytes(limen::events_as_bytes(*stream));
  if (!text || !bytes || !(*text == *stream) || !(*bytes == *stream)) std::abort();
  for (const limen::Event& e : stream->events) {
    if (e.address > 3) return 0;
  }
  stream->addresses = 4;
  auto rows = limen::binned<float, 8>(*stream, {.step_us = 3, .most_steps = 1000});
  if (!rows) return 0;
  float sum = 0;
  for (limen::Index i = 0; i < rows->size(); ++i) sum += rows->data()[i];
  if (sum != static_cast<float>(stream->events.size())) std::abort();
  return 0;
}
