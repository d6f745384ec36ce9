#include <limen/io/event_rows.hpp>

#include <limen/core/random.hpp>

#include <string>
#include <vector>

#include "../catch.hpp"
#include "temporary.hpp"

using namespace limen;

namespace {

EventStream some() {
  Random random(4);
  EventStream stream{.addresses = 16, .events = {}};
  std::int64_t t = 0;
  for (int i = 0; i < 300; ++i) {
    t += static_cast<std::int64_t>(random.below(40));
    stream.events.push_back(
        {t, static_cast<std::uint32_t>(random.below(16)), random.below(2) == 1});
  }
  return stream;
}

std::string error_of_text(std::string_view text) {
  auto r = events_from_text(text, "f");
  return r ? "" : r.error().message();
}

std::string error_of_bytes(const std::vector<std::byte>& bytes) {
  auto r = events_from_bytes(bytes, "f");
  return r ? "" : r.error().message();
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("Events come back from a file as they were, in both forms", "[io][events]") {
  const Temporary folder;
  const EventStream stream = some();
  for (const EventForm form : {EventForm::text, EventForm::binary}) {
    const std::string path = folder.path("a.events");
    REQUIRE(save_events(path, stream, form));
    auto back = load_events(path);
    REQUIRE(back);
    REQUIRE(*back == stream);
    const auto small = load_events(path, 100);
    REQUIRE(has(small.error().message(), "at most 100 bytes"));
  }
  REQUIRE_FALSE(load_events(folder.path("none")));
}

TEST_CASE("The forms are what the page says", "[io][events]") {
  const EventStream stream{.addresses = 4, .events = {{5, 1, true}, {7, 2, false}}};
  REQUIRE(events_as_text(stream) == "limen-events 1 4\n5 1 1\n7 2 0\n");
  const auto bytes = events_as_bytes(stream);
  REQUIRE(bytes.size() == 24 + 2 * 12);
  REQUIRE(bytes[12] == std::byte{4});
  REQUIRE(bytes[16] == std::byte{2});
  REQUIRE(bytes[24] == std::byte{5});
  REQUIRE(bytes[32] == std::byte{3});  // 1 * 2 + 1
  REQUIRE(bytes[44] == std::byte{4});
  auto loose = events_from_text("limen-events 1 4\r\n\n# a comment\n 5\t1 1 \r\n7 2 0");
  REQUIRE(loose);
  REQUIRE(*loose == stream);
}

TEST_CASE("A line that is wrong is named", "[io][events]") {
  const std::string head = "limen-events 1 4\n0 0 1\n";
  REQUIRE(has(error_of_text(""), "f:1: wanted limen-events 1"));
  REQUIRE(has(error_of_text("limen-events 2 4\n"), "f:1"));
  REQUIRE(has(error_of_text("limen-events 1 0\n"), "1 to 2^31"));
  REQUIRE(has(error_of_text("limen-events 1 2147483649\n"), "2147483649"));
  REQUIRE(has(error_of_text(head + "5 1 1\n4 1 1\n"), "f:4: wanted a time of at least 5, found 4"));
  REQUIRE(has(error_of_text(head + "-1 1 1\n"), "f:3: wanted a time of at least 0"));
  REQUIRE(has(error_of_text(head + "5 4 1\n"), "f:3: wanted an address below 4, found 4"));
  for (const char* line : {"5 1", "5 1 2", "5 1 1 1", "5 1 -1", "x 1 1", "5 -1 1", "5.5 1 1",
                           "5 99999999999 1", "99999999999999999999 1 1", "5 1 1x", "51 1"}) {
    INFO(line);
    REQUIRE(has(error_of_text(head + line + "\n6 1 1\n"), "f:3: wanted a time, an address"));
  }
}

TEST_CASE("A byte that is wrong is named", "[io][events]") {
  const EventStream stream{.addresses = 4, .events = {{5, 1, true}, {7, 2, false}}};
  const auto good = events_as_bytes(stream);
  REQUIRE(error_of_bytes(good).empty());
  const auto with = [&](std::size_t at, int value) {
    auto bytes = good;
    bytes[at] = static_cast<std::byte>(value);
    return error_of_bytes(bytes);
  };
  REQUIRE(has(with(0, 'L'), "byte 0: wanted a file of events"));
  REQUIRE(has(with(8, 2), "byte 8: wanted version 1"));
  REQUIRE(has(with(12, 0), "byte 12: wanted 1 to 2^31"));
  REQUIRE(has(with(16, 3), "byte 16: wanted 3 events"));
  REQUIRE(has(with(23, 0x80), "byte 16"));                               // 2^63 events
  REQUIRE(has(with(36, 4), "byte 36: wanted a time of at least 5"));     // backwards
  REQUIRE(has(with(31, 0x80), "byte 24: wanted a time of at least 0"));  // before the start
  REQUIRE(has(with(44, 8), "byte 36: wanted an address below 4"));
  for (std::size_t n = 0; n < good.size(); ++n) {  // cut anywhere
    REQUIRE_FALSE(
        error_of_bytes({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(n)}).empty());
  }
}

TEST_CASE("What could not be read again is not written", "[io][events]") {
  const Temporary folder;
  const std::string path = folder.path("a.events");
  write_content(path, "before");
  const EventStream back{.addresses = 4, .events = {{5, 1, true}, {4, 1, true}}};
  const EventStream far{.addresses = 4, .events = {{5, 4, true}}};
  REQUIRE(has(save_events(path, back).error().message(), "event 1"));
  REQUIRE(has(save_events(path, far).error().message(), "event 0"));
  REQUIRE(content(path) == "before");
}

TEST_CASE("Events fall into the rows of their steps", "[io][events]") {
  const EventStream stream{
      .addresses = 2,
      .events = {{0, 0, true}, {9, 0, false}, {10, 1, true}, {11, 1, true}, {35, 0, false}}};
  auto together = binned<double, 2>(stream, {.step_us = 10});
  REQUIRE(together);
  REQUIRE(together->rows() == 4);
  REQUIRE((*together)(0, 0) == 2);
  REQUIRE((*together)(1, 1) == 2);
  REQUIRE((*together)(2, 0) == 0);
  REQUIRE((*together)(3, 0) == 1);
  auto apart = binned<double, 4>(stream, {.step_us = 10, .steps = 2, .binning = Binning::binary});
  REQUIRE(apart->rows() == 2);
  REQUIRE((*apart)(0, 0) == 1);
  REQUIRE((*apart)(0, 2) == 1);
  REQUIRE((*apart)(1, 1) == 1);
  auto net = binned<double, 2>(
      stream, {.step_us = 10, .start_us = 5, .steps = 5, .binning = Binning::signed_});
  REQUIRE(net->rows() == 5);
  REQUIRE((*net)(0, 0) == -1);  // that at 0 is left out
  REQUIRE((*net)(0, 1) == 2);
  REQUIRE((*net)(3, 0) == -1);
}

TEST_CASE("Rows that cannot be are refused", "[io][events]") {
  const EventStream late{.addresses = 2, .events = {{std::int64_t{1} << 62, 0, true}}};
  const auto error = [](const auto& r) { return r ? std::string() : r.error().message(); };
  REQUIRE(has(error(binned<float, 2>(late)), "binned: steps"));
  REQUIRE(has(error(binned<float, 3>(late)), "binned: addresses"));
  REQUIRE(has(error(binned<float, 2>(late, {.step_us = 0})), "step_us"));
  REQUIRE(has(error(binned<float, 2>(late, {.start_us = -1})), "start_us"));
  REQUIRE(has(error(binned<float, 2>(late, {.steps = -1})), "steps"));
  const EventStream back{.addresses = 2, .events = {{5, 1, true}, {4, 1, true}}};
  REQUIRE(has(error(binned<float, 2>(back)), "event 1"));
}

TEST_CASE("Rows become events and rows again", "[io][events]") {
  const Sequence<float, 3> rows{{0, 2, 0}, {0, 0, 0}, {-1, 0, 1}};
  auto stream = events_of(rows, 100);
  REQUIRE(stream);
  REQUIRE(stream->events.size() == 4);
  REQUIRE(stream->events[2] == Event{200, 0, false});
  auto again = binned<float, 3>(*stream, {.step_us = 100, .binning = Binning::signed_});
  REQUIRE(again->rows() == 3);
  REQUIRE(std::memcmp(again->data(), rows.data(), sizeof(float) * 9) == 0);
  REQUIRE_FALSE(events_of(Sequence<float, 1>{{0.5F}}, 100));
  REQUIRE_FALSE(events_of(Sequence<float, 1>{{1e9F}}, 100));
  REQUIRE_FALSE(events_of(rows, 0));
}
