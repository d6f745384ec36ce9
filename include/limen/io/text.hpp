#pragma once
/// @file  Text as tokens: data/kjv.txt.gz, or any other file of ASCII. Needs zlib (link with -lz);
/// the file may be compressed or not.
///
///     const std::string text = load_text("data/kjv.txt.gz").value();
///     const std::vector<int> tokens = Ascii::tokens(text).value();        // 0 to 95

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <zlib.h>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/simd.hpp>

namespace limen::inline LIMEN_ABI {

/// The 95 printable characters and the new line. Fixed, so that a model needs no table beside it.
struct Ascii {
  static constexpr Index size = 96;

  /// -1 if there is none.
  static constexpr int token(char c) {
    return c == '\n' ? 0 : c >= ' ' && c <= '~' ? c - ' ' + 1 : -1;
  }
  /// Of a token from 0 to 95.
  static constexpr char character(int token) {
    return token == 0 ? '\n' : static_cast<char>(token - 1 + ' ');
  }

  static Result<std::vector<int>> tokens(std::string_view text) {
    std::vector<int> result;
    result.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      const int t = token(text[i]);
      if (t < 0) {
        char found[16];
        std::snprintf(found, sizeof found, "byte 0x%02X",
                      static_cast<unsigned>(static_cast<unsigned char>(text[i])));
        return Error{"character " + std::to_string(i) + " of the text",
                     "printable ASCII or a new line", found};
      }
      result.push_back(t);
    }
    return result;
  }
};

/// The whole file. A few compressed bytes can stand for gigabytes: beyond `most` it is an error.
inline Result<std::string> load_text(const std::string& path, std::size_t most = 1U << 30) {
  struct File {
    gzFile handle;
    ~File() {
      if (handle != nullptr) gzclose(handle);
    }
  } file{gzopen(path.c_str(), "rb")};
  if (file.handle == nullptr) return Error{path, "a file that can be read", "none"};

  std::string text;
  constexpr std::size_t piece = 1U << 16;
  std::vector<char> buffer(piece);
  int count = 0;
  while ((count = gzread(file.handle, buffer.data(), static_cast<unsigned>(piece))) > 0) {
    if (static_cast<std::size_t>(count) > most - text.size()) {
      return Error{path, "at most " + std::to_string(most) + " bytes", "more"};
    }
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  int code = Z_OK;
  const char* why = gzerror(file.handle, &code);
  if (count < 0 || (code != Z_OK && code != Z_STREAM_END)) return Error{path, "a whole file", why};
  return text;
}

}  // namespace limen::inline LIMEN_ABI
