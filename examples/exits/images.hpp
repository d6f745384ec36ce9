#pragma once
// Where the images come from: the digits of this repository, or Fashion-MNIST as Debian packs it.

#include <limen/io/digits.hpp>

#include <array>
#include <string>
#include <vector>

#include "network.hpp"

/// Every fourth image of the training part is for validation.
template <limen::Index pixels>
void split(const limen::Sequence<float, pixels>& images, const std::vector<int>& labels,
           const std::vector<limen::Index>& training, Parts<pixels>& parts) {
  std::vector<limen::Index> some[2];
  for (std::size_t i = 0; i < training.size(); ++i) some[i % 4 == 3].push_back(training[i]);
  parts.training = chosen(images, labels, some[0]);
  parts.validation = chosen(images, labels, some[1]);
}

inline Parts<64> digits_from(const std::string& path) {
  const auto digits = limen::load_digits(path).value();
  Parts<64> parts;
  split(digits.images, digits.labels, digits.training(), parts);
  parts.test = chosen(digits.images, digits.labels, digits.testing());
  return parts;
}

/// All of a file that may be compressed.
inline limen::Result<std::vector<unsigned char>> unpacked(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return limen::Error{path, "a file that can be read", "none"};
  std::vector<unsigned char> all;
  std::array<unsigned char, 65536> piece;
  int n = 0;
  while ((n = gzread(file, piece.data(), piece.size())) > 0) {
    all.insert(all.end(), piece.begin(), piece.begin() + n);
  }
  gzclose(file);
  if (n < 0) return limen::Error{path, "a whole file", "a broken one"};
  return all;
}

/// The first `most` images of 28 x 28 pixels, each the mean of 2 x 2, and what they show.
inline limen::Result<Part<196>> fashion_part(const std::string& images, const std::string& labels,
                                             limen::Index most) {
  auto pixels = unpacked(images), marks = unpacked(labels);
  if (!pixels) return pixels.error();
  if (!marks) return marks.error();
  const auto count = static_cast<std::size_t>(most);
  if (pixels->size() < 16 + 784 * count || marks->size() < 8 + count || (*pixels)[3] != 3 ||
      (*marks)[3] != 1) {
    return limen::Error{images, std::to_string(most) + " images of 28 x 28 and their labels",
                        "others"};
  }
  Part<196> part{limen::Sequence<float, 196>(most), {}};
  for (limen::Index t = 0; t < most; ++t) {
    const unsigned char* from = pixels->data() + 16 + 784 * t;
    for (limen::Index i = 0; i < 196; ++i) {
      const limen::Index at = i / 14 * 56 + i % 14 * 2;
      part.x(t, i) =
          static_cast<float>(from[at] + from[at + 1] + from[at + 28] + from[at + 29]) / 1020;
    }
    part.labels.push_back((*marks)[8 + static_cast<std::size_t>(t)]);
  }
  return part;
}

inline Parts<196> fashion_from(const std::string& folder) {
  const auto file = [&](const char* name) { return folder + '/' + name + "-ubyte.gz"; };
  const auto training =
      fashion_part(file("train-images-idx3"), file("train-labels-idx1"), 20000).value();
  std::vector<limen::Index> rows;
  for (limen::Index i = 0; i < training.size(); ++i) rows.push_back(i);
  Parts<196> parts;
  split(training.x, training.labels, rows, parts);
  parts.test = fashion_part(file("t10k-images-idx3"), file("t10k-labels-idx1"), 5000).value();
  return parts;
}
