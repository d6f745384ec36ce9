#include <limen/io/safetensors.hpp>

#include <array>
#include <cmath>

#include "../catch.hpp"
#include "temporary.hpp"

using namespace limen;

namespace {

/// A file with this header, whatever it says, and so many bytes of data.
std::string file_of(const std::string& header, std::size_t data) {
  const std::uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data, '\0');
}

Result<Safetensors> parse(const std::string& bytes) {
  return Safetensors::in_memory(std::as_bytes(std::span(bytes)), "m.safetensors");
}

std::string message(const std::string& bytes) {
  const auto file = parse(bytes);
  return file ? "fine" : file.error().message();
}

}  // namespace

TEST_CASE("A file with two tensors is read", "[io][safetensors]") {
  std::string bytes = file_of(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},)"
      R"( "a":{"data_offsets":[0,8],"shape":[],"dtype":"I64"}}   )",
      0);
  const std::int64_t a = -5;
  const float b[] = {1.5F, -2};
  bytes.append(reinterpret_cast<const char*>(&a), 8).append(reinterpret_cast<const char*>(b), 8);
  auto file = parse(bytes);
  REQUIRE(file);
  REQUIRE(file->tensors().size() == 2);
  REQUIRE(file->find("c") == nullptr);
  REQUIRE(file->find("b")->text() == "[2 x 1] float32");
  REQUIRE(file->find("a")->text() == "[] int64");
  REQUIRE(file->metadata("format") == "pt");
  REQUIRE(file->metadata("other").empty());

  std::int64_t one = 0;
  REQUIRE(file->read(*file->find("a"), std::span(&one, 1)));
  REQUIRE(one == -5);
  std::array<double, 2> two{};
  REQUIRE(file->read_converted(*file->find("b"), std::span<double>(two)));
  REQUIRE(two[0] == 1.5);
  REQUIRE(two[1] == -2);
  REQUIRE(file->read(*file->find("b"), std::span<double>(two)).error().message() ==
          "b: wanted 2 float64, found [2 x 1] float32 in m.safetensors");
}

TEST_CASE("What a file claims is held against the file", "[io][safetensors]") {
  const auto tensor = [](const std::string& fields, std::size_t data) {
    return message(file_of(R"({"w":{)" + fields + "}}", data));
  };
  REQUIRE(message("") == "m.safetensors: wanted 8 bytes or more, found 0 bytes");
  REQUIRE(message("1234567") == "m.safetensors: wanted 8 bytes or more, found 7 bytes");
  REQUIRE(message(std::string(8, '\xFF')) ==
          "m.safetensors: wanted a header that fits in the file of 8 bytes, found one of "
          "18446744073709551615");
  REQUIRE(message(file_of("", 0)).starts_with("m.safetensors: wanted a JSON header"));
  REQUIRE(message(file_of("{}", 0)) == "fine");
  REQUIRE(message(file_of("{} x", 0)).starts_with("m.safetensors: wanted a JSON header"));
  REQUIRE(message(file_of(std::string("{}\0\0", 4), 0)).ends_with("found zeros behind it"));
  REQUIRE(message(file_of("{}", 4)) ==
          "m.safetensors: wanted 0 bytes of data, found 4 in m.safetensors");
  REQUIRE(message(file_of("[]", 0)) ==
          "the header: wanted an object, found a list in m.safetensors");
  REQUIRE(message(file_of(R"({"w":[1]})", 0)) ==
          "w: wanted an object, found a list in m.safetensors");
  REQUIRE(message(file_of("{\"\xFF\":{}}", 0)).find("encoding") != std::string::npos);

  const std::string good = R"("dtype":"F32","shape":[2,3],"data_offsets":[0,24])";
  REQUIRE(tensor(good, 24) == "fine");
  REQUIRE(tensor(good, 23) == "w: wanted 24 bytes of data, found 23 in m.safetensors");
  REQUIRE(tensor(good, 25) == "m.safetensors: wanted 24 bytes of data, found 25 in m.safetensors");
  REQUIRE(tensor(R"("dtype":"F33","shape":[],"data_offsets":[0,4])", 4) ==
          "w: wanted a known dtype, found \"F33\" in m.safetensors");
  REQUIRE(tensor(R"("dtype":"F32","shape":[2,3],"data_offsets":[0,20])", 20) ==
          "w: wanted 24 bytes for [2 x 3] float32, found data_offsets 0 to 20 in m.safetensors");
  REQUIRE(tensor(R"("dtype":"F32","shape":[2,3],"data_offsets":[24,0])", 24) ==
          "w: wanted 24 bytes for [2 x 3] float32, found data_offsets 24 to 0 in m.safetensors");
  REQUIRE(tensor(R"("dtype":"F32","shape":[2,3],"data_offsets":[4,28])", 28) ==
          "w: wanted data from byte 0, found from byte 4 in m.safetensors");
  REQUIRE(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0) ==
          "w: wanted a size below 2^64 bytes, found [4294967296 x 4294967296] float32 in "
          "m.safetensors");
  REQUIRE(tensor(R"("dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,0])", 0)
              .starts_with("w: wanted a size below"));
  REQUIRE(tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0])", 0)
              .starts_with("w: wanted a dimension below 2^62"));
  REQUIRE(tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,0])", 0)
              .starts_with("w: wanted a number from 0 up, found -1"));
  REQUIRE(tensor(R"("dtype":"F32","shape":[1.5],"data_offsets":[0,0])", 0)
              .starts_with("w: wanted numbers in shape and data_offsets, found a fraction"));
  REQUIRE(tensor(R"("dtype":"F32","shape":[0],"data_offsets":[0,0])", 0) == "fine");
  REQUIRE(tensor(R"("dtype":"F32","shape":[0],"data_offsets":[0])", 0)
              .starts_with("w: wanted two data_offsets, found 1"));
  REQUIRE(tensor(R"("dtype":"F32","shape":[0],"data_offsets":[0,0,0])", 0)
              .starts_with("w: wanted two data_offsets, found more"));
  REQUIRE(tensor(R"("dtype":"F32","shape":[0])", 0)
              .starts_with("w: wanted dtype, shape and data_offsets, found not all of them"));
  REQUIRE(tensor(R"("dtype":"F32","dtype":"F32")", 0).starts_with("w: wanted each field once"));
  REQUIRE(tensor(good + R"(,"color":1)", 24)
              .starts_with("w: wanted dtype, shape and data_offsets, found \"color\""));

  const std::string first = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)";
  REQUIRE(message(file_of('{' + first + R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                          6)) == "b: wanted data from byte 4, found from byte 2 in m.safetensors");
  REQUIRE(message(file_of('{' + first + R"("b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
                          10)) == "b: wanted data from byte 4, found from byte 6 in m.safetensors");
  REQUIRE(message(file_of('{' + first + R"("a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                          8)) == "a: wanted one of this name, found two in m.safetensors");
  REQUIRE(message(file_of(R"({"__metadata__":{"a":1}})", 0)) ==
          "__metadata__: wanted text only, found a number in m.safetensors");
  REQUIRE(message(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0))
              .starts_with("__metadata__: wanted once"));
}

TEST_CASE("Nesting does not use up the stack", "[io][safetensors]") {
  REQUIRE(message(file_of(std::string(1 << 20, '['), 0)) ==
          "the header: wanted an object, found a list in m.safetensors");
  REQUIRE(message(file_of(R"({"w":{"shape":)" + std::string(1 << 20, '['), 0)) ==
          "w: wanted numbers in shape and data_offsets, found a list in m.safetensors");
}

TEST_CASE("An error shows names from a file on one short line", "[io][safetensors]") {
  const auto text =
      message(file_of("{\"" + std::string(1000, 'n') + R"(\u0007\n":{"dtype":"?"}})", 0));
  REQUIRE(text ==
          std::string(100, 'n') + "...: wanted a known dtype, found \"?\" in m.safetensors");
  REQUIRE(message(file_of(R"({"a\nb":[]})", 0)).starts_with("a?b: "));
}

TEST_CASE("A file that is cut or changed anywhere is refused or harmless", "[io][safetensors]") {
  const std::string bytes = file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                    R"("b":{"dtype":"F16","shape":[1,3],"data_offsets":[8,14]}})",
                                    14);
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const std::string cut = bytes.substr(0, n);
    REQUIRE_FALSE(parse(cut));
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const int change : {1, 2, 4, 8, 16, 32, 64, 128}) {
      std::string other = bytes;
      other[i] = static_cast<char>(other[i] ^ change);
      auto file = parse(other);
      if (!file) continue;
      for (const StoredTensor& t : file->tensors()) {
        std::vector<float> numbers(static_cast<std::size_t>(t.size()));
        static_cast<void>(static_cast<bool>(file->read_converted(t, std::span<float>(numbers))));
      }
    }
  }
}

TEST_CASE("Halves of both kinds become the floats they stand for", "[io][safetensors]") {
  REQUIRE(from_float16(0x3C00) == 1);
  REQUIRE(from_float16(0xC000) == -2);
  REQUIRE(from_float16(0x7BFF) == 65504);
  REQUIRE(from_float16(0x0001) == 0x1p-24F);
  REQUIRE(from_float16(0x03FF) == 1023 * 0x1p-24F);
  REQUIRE(from_float16(0x0400) == 0x1p-14F);
  REQUIRE(from_float16(0x0000) == 0);
  REQUIRE(std::signbit(from_float16(0x8000)));
  REQUIRE(std::isinf(from_float16(0xFC00)));
  REQUIRE(std::isnan(from_float16(0x7E00)));
  REQUIRE(from_bfloat16(0x3F80) == 1);
  REQUIRE(from_bfloat16(0xC040) == -3);
}

TEST_CASE("What is written is read back", "[io][safetensors]") {
  const Temporary folder;
  const std::string path = folder.path("a.safetensors");
  std::vector<std::uint8_t> bytes{1, 2, 3};
  std::vector<double> wide{0.1, -7, 1e300};
  float one = 4;
  std::vector<NamedTensor> tensors(3);
  tensors[0] = {{"bytes \"quoted\"\n\xC3\xA9", Dtype::uint8, {3}}, bytes.data()};
  tensors[1] = {{"wide", Dtype::float64, {1, 3}}, wide.data()};
  tensors[2] = {{"one", Dtype::float32, {}}, &one};
  REQUIRE(write_safetensors(path, tensors, {{"who", "a\\b"}}));
  auto file = Safetensors::open(path);
  REQUIRE(file);
  REQUIRE(file->metadata("who") == "a\\b");
  REQUIRE(file->find("wide")->begin == 0);  // wide numbers first
  std::vector<std::uint8_t> bytes_back(3);
  std::vector<double> wide_back(3);
  REQUIRE(file->read(*file->find(tensors[0].name), std::span(bytes_back)));
  REQUIRE(file->read(*file->find("wide"), std::span(wide_back)));
  REQUIRE(bytes_back == bytes);
  REQUIRE(wide_back == wide);
  REQUIRE(content(path).size() % 8 == 7);  // 8 + a padded header + 24 + 4 + 3
}
