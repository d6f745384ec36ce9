#pragma once
/// @file  Handwritten digits of 8 x 8 pixels: data/digits.csv.gz, 1797 rows of 64 pixels in 0..16
/// and the digit. Needs zlib (link with -lz); the file may be compressed or not.

#include <string>
#include <vector>

#include <zlib.h>

#include <limen/core/config.hpp>
#include <limen/core/error.hpp>
#include <limen/core/sequence.hpp>

namespace limen::inline LIMEN_ABI {

struct Digits {
  Sequence<float, 64> images;  ///< [n x 64], row by row from the top left, 0 white to 1 black
  std::vector<int> labels;     ///< [n], 0 to 9

  Index size() const { return images.rows(); }

  /// The fixed split: every fifth image (4, 9, 14, ...) is for testing, the others for training.
  static bool is_test(Index i) { return i % 5 == 4; }

  std::vector<Index> indices(bool test) const {
    std::vector<Index> result;
    for (Index i = 0; i < size(); ++i) {
      if (is_test(i) == test) result.push_back(i);
    }
    return result;
  }
  std::vector<Index> training() const { return indices(false); }
  std::vector<Index> testing() const { return indices(true); }
};

namespace detail {

/// "0,5,13,...,7": 65 numbers, 64 of them up to 16, the last up to 9. Says no to anything else.
inline bool parse_digit(const char* line, int (&numbers)[65]) {
  for (int i = 0; i < 65; ++i) {
    if (*line < '0' || *line > '9') return false;
    int value = 0;
    while (*line >= '0' && *line <= '9' && value <= 16) value = 10 * value + (*line++ - '0');
    if (value > (i < 64 ? 16 : 9)) return false;
    numbers[i] = value;
    if (i < 64 && *line++ != ',') return false;
  }
  return *line == '\0' || *line == '\n' || *line == '\r';
}

}  // namespace detail

inline Result<Digits> load_digits(const std::string& path) {
  struct File {
    gzFile handle;
    ~File() {
      if (handle != nullptr) gzclose(handle);
    }
  } file{gzopen(path.c_str(), "rb")};
  if (file.handle == nullptr) return Error{path, "a file that can be read", "none"};

  std::vector<float> pixels;
  Digits digits;
  char line[512];
  while (gzgets(file.handle, line, sizeof line) != nullptr) {
    int numbers[65];
    if (!detail::parse_digit(line, numbers)) {
      return Error{path + ':' + std::to_string(digits.labels.size() + 1),
                   "64 pixels in 0..16 and a digit in 0..9", "another line"};
    }
    for (int i = 0; i < 64; ++i) pixels.push_back(static_cast<float>(numbers[i]) / 16);
    digits.labels.push_back(numbers[64]);
  }
  int code = Z_OK;
  const char* why = gzerror(file.handle, &code);
  if (code != Z_OK && code != Z_STREAM_END) return Error{path, "a whole file", why};
  digits.images =
      SequenceView<float, 64>(pixels.data(), static_cast<Index>(digits.labels.size())).copy();
  return digits;
}

}  // namespace limen::inline LIMEN_ABI
