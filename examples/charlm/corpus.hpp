#pragma once
// A long text as several streams that are read side by side, and what is held out.

#include <limen/io/text.hpp>
#include <limen/train/sequences.hpp>

/// Tokens, and for each the one that follows.
struct Corpus {
  limen::Sequences<float, 1> tokens;
  std::vector<int> next;  // of all rows

  /// `text` in so many streams of equal length.
  Corpus(std::span<const int> text, limen::Index streams) {
    const limen::Index length = (static_cast<limen::Index>(text.size()) - 1) / streams;
    for (limen::Index s = 0; s < streams; ++s) {
      limen::Sequence<float, 1> x(length);
      for (limen::Index t = 0; t < length; ++t) {
        const auto at = static_cast<std::size_t>(s * length + t);
        x(t, 0) = static_cast<float>(text[at]);
        next.push_back(text[at + 1]);
      }
      tokens.add(x);
    }
  }

  limen::Index length() const { return tokens[0].rows(); }

  /// What the rows of a shard should have said.
  limen::Buffer<int> answers(const limen::Shard& shard) const {
    return shard.of_rows(next, tokens.offsets());
  }
};
