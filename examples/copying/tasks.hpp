#pragma once
// Two tasks that need a memory which looks at what it keeps, as endless random examples.

#include <cstdint>
#include <cstdio>
#include <vector>

#include <limen/core/random.hpp>
#include <limen/train/sequences.hpp>

constexpr limen::Index vocabulary = 16;

/// Sequences of tokens, and what is to be said at which row (-1: nothing).
struct Examples {
  limen::Sequences<float, 1> tokens;
  std::vector<int> answers;  // of all rows

  template <class Task>
  static Examples of(limen::Index count, limen::Random random) {
    Examples examples;
    for (limen::Index i = 0; i < count; ++i) {
      limen::Sequence<float, 1> x(Task::rows);
      std::vector<int> answers(Task::rows, -1);
      Task::draw(x, answers, random);
      examples.tokens.add(x);
      examples.answers.insert(examples.answers.end(), answers.begin(), answers.end());
    }
    return examples;
  }

  /// The rows of all sequences.
  limen::SequenceView<float, 1> all() const { return {tokens[0].data(), tokens.rows()}; }
};

/// Letters stand among noise, each time at other places; then as many marks ask for them in order.
///
///     . . c . a . . . d . a . ? ? ? ?      ->  c a d a
struct SelectiveCopying {
  static constexpr const char* name = "copying";
  static constexpr limen::Index letters = 6, noise = 58, rows = noise + 2 * letters;
  static constexpr char signs[vocabulary + 1] = ".?abcdefghijklmn";
  static constexpr int blank = 0, mark = 1, first_letter = 2;

  static void draw(limen::Sequence<float, 1>& x, std::vector<int>& answers, limen::Random& random) {
    auto answer = answers.end() - letters;
    for (limen::Index t = 0; t < noise + letters; ++t) {  // all choices of places equally likely
      const auto places = static_cast<std::uint64_t>(noise + letters - t);
      const auto wanted = static_cast<std::uint64_t>(answers.end() - answer);
      x(t, 0) = blank;
      if (random.below(places) >= wanted) continue;
      *answer = first_letter + static_cast<int>(random.below(vocabulary - first_letter));
      x(t, 0) = static_cast<float>(*answer++);
    }
    for (limen::Index t = rows - letters; t < rows; ++t) x(t, 0) = mark;
  }
};

/// A bell rings somewhere, and again at the end: what came after it the first time?
///
///     d a f ! c b a d e f !      ->  c
struct InductionHeads {
  static constexpr const char* name = "induction";
  static constexpr limen::Index rows = 64;
  static constexpr char signs[vocabulary + 1] = "!abcdefghijklmno";
  static constexpr int bell = 0, first_letter = 1;

  static void draw(limen::Sequence<float, 1>& x, std::vector<int>& answers, limen::Random& random) {
    for (limen::Index t = 0; t < rows; ++t) {
      x(t, 0) = static_cast<float>(first_letter + random.below(vocabulary - first_letter));
    }
    const auto rung = static_cast<limen::Index>(random.below(rows - 2));
    x(rung, 0) = x(rows - 1, 0) = bell;
    answers.back() = static_cast<int>(x(rung + 1, 0));
  }
};

/// One example in signs.
template <class Task>
void show(std::uint64_t seed) {
  const auto example = Examples::of<Task>(1, limen::Random(seed));
  std::printf("%-10s  ", Task::name);
  for (limen::Index t = 0; t < Task::rows; ++t) {
    std::putchar(Task::signs[static_cast<int>(example.tokens[0](t, 0))]);
  }
  std::printf("  ->  ");
  for (const int answer : example.answers) {
    if (answer >= 0) std::putchar(Task::signs[answer]);
  }
  std::puts("");
}
