#pragma once
// Characters drawn from what a model believes.

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include <limen/core/random.hpp>
#include <limen/core/sequence.hpp>
#include <limen/io/text.hpp>

using Beliefs = limen::Vector<float, limen::Ascii::size>;

struct Sampling {
  double temperature = 0.7;  ///< below 1: likely characters become likelier
  int top_k = 16;            ///< only so many of the likeliest are possible
};

/// A token, with probability softmax(logits / temperature) among the top k.
inline int draw(const Beliefs& logits, const Sampling& how, limen::Random& random) {
  struct Candidate {
    float logit;
    int token;
  };
  std::array<Candidate, limen::Ascii::size> all;
  for (int t = 0; t < static_cast<int>(all.size()); ++t) {
    all[static_cast<std::size_t>(t)] = {logits[t], t};
  }
  const auto k = std::clamp<std::ptrdiff_t>(how.top_k, 1, limen::Ascii::size);
  std::partial_sort(all.begin(), all.begin() + k, all.end(),
                    [](Candidate a, Candidate b) { return a.logit > b.logit; });
  std::array<double, limen::Ascii::size> until;  // probabilities summed up, not yet normed
  double sum = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(k); ++i) {
    sum += std::exp(static_cast<double>(all[i].logit - all[0].logit) / how.temperature);
    until[i] = sum;
  }
  const auto found = std::upper_bound(until.begin(), until.begin() + k - 1, random.uniform() * sum);
  return all[static_cast<std::size_t>(found - until.begin())].token;
}

/// What one stream is: what the model remembers, and what it expects next.
template <class Model>
struct Stream {
  typename Model::State state{};
  Beliefs next{};

  void read(const Model& model, int token) {
    next = model.step(limen::Vector<float, 1>{static_cast<float>(token)}, state);
  }

  /// Goes on by itself, for so many characters or to the end of the line.
  std::string write(const Model& model, int characters, const Sampling& how, limen::Random random) {
    std::string text;
    while (static_cast<int>(text.size()) < characters) {
      const int token = draw(next, how, random);
      if (limen::Ascii::character(token) == '\n') break;
      text += limen::Ascii::character(token);
      read(model, token);
    }
    return text;
  }
};
