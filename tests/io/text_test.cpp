#include <limen/io/text.hpp>

#include <algorithm>

#include "../catch.hpp"
#include "temporary.hpp"

using namespace limen;

static_assert(Ascii::token('\n') == 0 && Ascii::token(' ') == 1 && Ascii::token('~') == 95);
static_assert(Ascii::token('\t') == -1 && Ascii::token('\x7F') == -1 && Ascii::token('\xC3') == -1);

TEST_CASE("Every token is a character, and that is the token", "[io][text]") {
  for (int t = 0; t < static_cast<int>(Ascii::size); ++t) {
    REQUIRE(Ascii::token(Ascii::character(t)) == t);
  }
  REQUIRE(Ascii::tokens("A b\n").value() == std::vector<int>{34, 1, 67, 0});
  REQUIRE(Ascii::tokens("").value().empty());
}

TEST_CASE("What is no ASCII is named", "[io][text]") {
  REQUIRE(Ascii::tokens("ab\xC3\xA4").error().message() ==
          "character 2 of the text: wanted printable ASCII or a new line, found byte 0xC3");
  REQUIRE(Ascii::tokens(std::string_view("a\0", 2)).error().found == "byte 0x00");
}

TEST_CASE("The text is all there", "[io][text]") {
  const std::string text = load_text(LIMEN_TEST_DIR "/../data/kjv.txt.gz").value();
  REQUIRE(text.size() == 1'048'536);
  REQUIRE(text.starts_with("In the beginning God created the heaven and the earth.\n"));
  REQUIRE(std::count(text.begin(), text.end(), '\n') == 7350);
  std::string characters = text;
  std::sort(characters.begin(), characters.end());
  characters.erase(std::unique(characters.begin(), characters.end()), characters.end());
  REQUIRE(characters.size() == 62);
  REQUIRE(Ascii::tokens(text)->size() == text.size());
}

TEST_CASE("Text is read as it is, up to a limit", "[io][text]") {
  const Temporary folder;
  const std::string path = folder.path("text");
  std::string whole(200'000, 'x');  // more than a buffer
  whole[70'000] = '\0';
  for (const std::string& text : {std::string(), std::string("a\r\n\n"), whole}) {
    write_content(path, text);
    REQUIRE(load_text(path).value() == text);
    REQUIRE(load_text(path, text.size()).value() == text);
  }
  REQUIRE(load_text(path, whole.size() - 1).error().message() ==
          path + ": wanted at most 199999 bytes, found more");
  REQUIRE(load_text(path, 0).error().found == "more");
  REQUIRE_FALSE(load_text(folder.path("none")));
}

TEST_CASE("A compressed text that breaks off is refused", "[io][text]") {
  const Temporary folder;
  std::string whole = content(LIMEN_TEST_DIR "/../data/kjv.txt.gz");
  write_content(folder.path("cut.gz"), whole.substr(0, whole.size() / 2));
  REQUIRE_FALSE(load_text(folder.path("cut.gz")));
  whole[whole.size() / 2] = static_cast<char>(whole[whole.size() / 2] ^ 1);
  write_content(folder.path("bent.gz"), whole);
  REQUIRE_FALSE(load_text(folder.path("bent.gz")));
}
