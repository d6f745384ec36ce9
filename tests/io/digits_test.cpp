#include <limen/io/digits.hpp>

#include <array>

#include "../catch.hpp"
#include "temporary.hpp"

using namespace limen;

TEST_CASE("The digits are all there", "[io][digits]") {
  auto digits = load_digits(LIMEN_TEST_DIR "/../data/digits.csv.gz");
  REQUIRE(digits);
  REQUIRE(digits->size() == 1797);
  REQUIRE(digits->labels.size() == 1797);
  std::array<int, 10> count{};
  for (const int label : digits->labels) ++count[static_cast<std::size_t>(label)];
  REQUIRE(count == std::array<int, 10>{178, 182, 177, 183, 181, 182, 181, 179, 174, 180});
  REQUIRE(digits->labels[1] == 1);
  REQUIRE(digits->images(0, 2) == 5.0F / 16);
  REQUIRE(digits->images(0, 3) == 13.0F / 16);
  float least = 1, most = 0;
  for (Index i = 0; i < digits->images.size(); ++i) {
    least = std::min(least, digits->images.data()[i]);
    most = std::max(most, digits->images.data()[i]);
  }
  REQUIRE(least == 0);
  REQUIRE(most == 1);
  REQUIRE(digits->training().size() == 1438);
  REQUIRE(digits->testing().size() == 359);
  REQUIRE(digits->testing()[1] == 9);
}

TEST_CASE("Digits come from plain text too, and bad lines are named", "[io][digits]") {
  const Temporary folder;
  const std::string path = folder.path("digits.csv");
  std::string line;
  for (int i = 0; i < 64; ++i) line += "16,";
  write_content(path, line + "9\n" + line + "3");
  auto digits = load_digits(path);
  REQUIRE(digits);
  REQUIRE(digits->labels == std::vector<int>{9, 3});

  for (const std::string& bad : {line, line + "10", line + "3,", line + "x", "17," + line + "1",
                                 std::string(), std::string(5000, '1')}) {
    write_content(path, line + "9\n" + bad + '\n');
    const auto result = load_digits(path);
    REQUIRE_FALSE(result);
    REQUIRE(result.error().message() ==
            path + ":2: wanted 64 pixels in 0..16 and a digit in 0..9, found another line");
  }
  REQUIRE_FALSE(load_digits(folder.path("none")));
}

TEST_CASE("A compressed file that breaks off is refused", "[io][digits]") {
  const Temporary folder;
  const std::string whole = content(LIMEN_TEST_DIR "/../data/digits.csv.gz");
  write_content(folder.path("cut.gz"), whole.substr(0, whole.size() / 2));
  REQUIRE_FALSE(load_digits(folder.path("cut.gz")));
}
