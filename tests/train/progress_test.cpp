#include <limen/train/progress.hpp>

#include <string>

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "../catch.hpp"

using namespace limen;

namespace {

void run(std::FILE* out, bool wanted, bool cleared = false) {
  Progress progress(wanted, out);
  progress.begin(3, 10, 4);
  for (Index step = 1; step <= 4; ++step) progress.show(step, 0.25);
  if (cleared) progress.clear();
}

std::string everything(std::FILE* file) {
  std::string text(4096, '\0');
  std::rewind(file);
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

}  // namespace

TEST_CASE("Where there is no terminal, progress is silent", "[train][progress]") {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  run(file, true);
  REQUIRE(everything(file).empty());
  std::fclose(file);
}

/// What a terminal receives from f(terminal).
template <class F>
std::string on_a_terminal(F f) {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(master >= 0);
  REQUIRE(::grantpt(master) == 0);
  REQUIRE(::unlockpt(master) == 0);
  std::FILE* terminal = std::fopen(::ptsname(master), "w");  // NOLINT: one thread
  REQUIRE(terminal != nullptr);
  f(terminal);
  std::fclose(terminal);
  std::string text;
  char piece[512];
  for (::ssize_t n; (n = ::read(master, piece, sizeof piece)) > 0;) {
    text.append(piece, static_cast<std::size_t>(n));
  }
  ::close(master);
  return text;
}

TEST_CASE("On a terminal, progress is one line", "[train][progress]") {
  const std::string text = on_a_terminal([](std::FILE* terminal) {
    run(terminal, false);
    run(terminal, true);
  });
  REQUIRE(text.starts_with("\repoch 3/10  ["));  // what was not wanted said nothing
  INFO(text);
  REQUIRE(text.find("[####################] 100%  loss 0.2500  0 s left") != std::string::npos);
  REQUIRE(text.find('\n') == text.size() - 1);
}

TEST_CASE("A line that was taken away leaves an empty one", "[train][progress]") {
  const std::string text = on_a_terminal([](std::FILE* terminal) {
    run(terminal, false, true);
    run(terminal, true, true);
  });
  REQUIRE(text.starts_with("\repoch"));
  REQUIRE(text.ends_with("\r\033[K"));
}
